import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with the real data sets; a test that needs it carries the marker `data`."""
    root = Path(os.environ.get("BNN_DATA", "data"))
    if not root.is_dir():
        pytest.skip("needs the real data sets: set BNN_DATA to their folder")
    return root
