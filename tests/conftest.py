"""Fixtures and hooks of all tests."""

import gc
import os
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

# Programs that `.ci/run` installs; the reason of a skip names the one that is missing.
TOOLS = ("chromium", "compiler", "node", "qemu", "readelf", "ziglang")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the collector of garbage away from modules and tests, which stay until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip for a missing tool into a failure where CI=true, and BNN_TOOLS is not "optional"."""
    report = yield
    strict = os.environ.get("CI") == "true" and os.environ.get("BNN_TOOLS") != "optional"
    if report.skipped and strict and isinstance(report.longrepr, tuple) and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2]
        if any(tool in reason.lower() for tool in TOOLS):
            report.outcome, report.longrepr = "failed", f"{reason}: with CI=true every tool must be there."
    return report


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real data sets; a test that needs it carries the marker `data`."""
    root = Path(os.environ.get("BNN_DATA", "data")).resolve()
    if not root.is_dir():
        pytest.skip("needs the real data sets: set BNN_DATA to their folder")
    return root


@pytest.fixture(autouse=True)
def hydra_forgets() -> Iterator[None]:
    """Take away what Hydra keeps of a job that ran in this process: the next test begins as a new process does."""
    yield
    if "hydra.core.hydra_config" in sys.modules:
        from hydra.core.hydra_config import HydraConfig

        HydraConfig.instance().cfg = None  # type: ignore[union-attr]
