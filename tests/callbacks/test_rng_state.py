import random

import numpy as np
import pytest
import torch

from bnn_lightning.callbacks import RNGState


class FakeTrainer:
    world_size, global_rank = 1, 0


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


def test_goes_on_where_it_stopped(tmp_path: object) -> None:
    state = RNGState().state_dict()
    torch.save(state, f"{tmp_path}/state")
    expected = [draw() for _ in range(3)]
    callback = RNGState()
    callback.load_state_dict(torch.load(f"{tmp_path}/state", weights_only=True))
    draw()
    callback.on_train_start(FakeTrainer(), None)  # type: ignore[arg-type]
    assert [draw() for _ in range(3)] == expected
    callback.on_train_start(FakeTrainer(), None)  # type: ignore[arg-type]
    assert draw() not in expected


def test_other_number_of_processes() -> None:
    callback = RNGState()
    callback.load_state_dict({"ranks": [{}, {}]})
    with pytest.warns(UserWarning, match="of 2 processes and this run has 1"):
        callback.on_train_start(FakeTrainer(), None)  # type: ignore[arg-type]
