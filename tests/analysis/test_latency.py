import time

import pytest

from bnn_lightning.analysis import Timing, quartiles, time_in_turns
from bnn_lightning.utils.hardware import machine, num_cores, peak_resident


def test_functions_take_turns() -> None:
    calls: list[str] = []
    turns = time_in_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2, warmup=1)
    assert calls == ["a", "b"] * 3
    assert [len(found) for found in turns.values()] == [2, 2]


def test_a_turn_is_the_mean_of_its_calls() -> None:
    calls: list[int] = []

    def step() -> None:
        calls.append(1)
        time.sleep(0.001)

    (turn,) = time_in_turns({"step": step}, repeats=1, warmup=1, least=0.2)["step"]
    assert len(calls) > 2  # one to see how long it takes, and then several
    assert turn.wall >= 0.001
    assert turn.cpu < turn.wall  # asleep


def test_a_settled_turn_begins_with_a_call_that_does_not_count() -> None:
    calls: list[int] = []
    finished: list[int] = []
    time_in_turns({"a": lambda: calls.append(1)}, repeats=3, warmup=0, settle=0.001, finish=lambda: finished.append(1))
    assert (len(calls), len(finished)) == (6, 3)


@pytest.mark.parametrize(
    "values, wanted", [([3.0], (3, 3, 3)), ([1.0, 2.0], (1.25, 1.5, 1.75)), ([5.0, 1.0, 3.0], (2, 3, 4))]
)
def test_quartiles(values: list[float], wanted: tuple[float, ...]) -> None:
    assert quartiles(values) == wanted


def test_the_machine_is_described() -> None:
    assert "torch" in machine()
    assert num_cores() >= 1
    before = peak_resident()
    held = bytearray(64 << 20)
    assert peak_resident() > before or before > len(held)
    assert Timing(wall=1.0, cpu=2.0).cpu == 2.0
