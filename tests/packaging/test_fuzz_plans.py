"""Counts of fuzzed plans: complete ones, those of a run that is cut, and findings."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from tools import fuzz_plans

# Stands for the driver, which needs a compiler with sanitizers.
COUNTS = "import sys; print(f'{sys.argv[2]} inputs from {sys.argv[1]} on: {sys.argv[2]} refused, 0 run, 0 too large')"


def test_parts_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_plans, "PART", 4)
    progress = fuzz_plans.read_inputs([sys.executable, "-c", COUNTS], [], range(3, 13), 2)
    assert progress.counts == {"refused": 10, "run": 0, "too large": 0}
    assert str(progress).startswith("10 of 10 inputs")


def test_a_finding_names_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_plans, "PART", 4)
    with pytest.raises(ValueError, match=r"inputs 0 to 3 \(exit code 3\):\nAddressSanitizer"):
        fuzz_plans.read_inputs([sys.executable, "-c", "print('AddressSanitizer'); exit(3)"], [], range(4), 1)


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_a_run_that_is_cut_says_how_far_it_came(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz_plans, "PART", 4)
    mark = tmp_path / "mark"
    stays = (
        f"{COUNTS}; import time, pathlib; int(sys.argv[1]) and (pathlib.Path({str(mark)!r}).touch(), time.sleep(60))"
    )

    def interrupt() -> None:
        while not mark.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fuzz_plans.read_inputs([sys.executable, "-c", stays], [], range(8), 1)
    assert time.monotonic() - begin < 50  # no process is left behind
    assert capsys.readouterr().out.startswith("Interrupted. 4 of 8 inputs")
