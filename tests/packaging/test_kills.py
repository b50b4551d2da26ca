"""A few of the kills of `make kills`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["skd", "ema", "ddp", "sweep"])
def test_killed_trainings_end_as_others(case: str) -> None:
    command = [sys.executable, str(ROOT / "tools" / "kills.py"), "--kills", "3", "--cases", case]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "LOCAL_RANK", "PL_"))}
    done = subprocess.run(command, capture_output=True, text=True, env={**kept, "OMP_NUM_THREADS": "1"}, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{case}: 3 kills" in done.stdout
