"""What holds for all tests."""

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def hydra_forgets() -> Iterator[None]:
    """Take away what Hydra keeps of a job that ran in this process: the next test begins as a new process does."""
    yield
    if "hydra.core.hydra_config" in sys.modules:
        from hydra.core.hydra_config import HydraConfig

        HydraConfig.instance().cfg = None  # type: ignore[union-attr]
