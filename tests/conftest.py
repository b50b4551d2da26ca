"""What holds for all tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


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
