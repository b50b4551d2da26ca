import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer, callbacks
from torch import nn

from bnn_lightning.binarizers import EDE, ReSTE, TemperatureSign
from bnn_lightning.callbacks import EMAWeightAveraging
from bnn_lightning.callbacks.ema import copy_annealing_
from bnn_lightning.layers import is_binary

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from small_run import assert_equal, small_run

BACKBONE = {"weight_binarizer": lambda num_channels: TemperatureSign(binary_from=0.5)}
SPARSE = {"use_buffers": False, "update_every_n_steps": 100}


class Scored(Callback):
    """Notes of every validation whether the network that is scored is binary, asked of its buffers."""

    def __init__(self) -> None:
        self.binary: list[bool] = []

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
        binarizers = [module for module in pl_module.modules() if isinstance(module, TemperatureSign)]
        assert binarizers
        if rest[2] == 0:
            self.binary.append(all(binarizer.look() for binarizer in binarizers))


@pytest.mark.parametrize("options", [{"use_buffers": True}, SPARSE])
def test_the_average_is_annealed_as_the_network(tmp_path: Path, options: dict[str, Any]) -> None:
    scored, average = Scored(), EMAWeightAveraging(decay=0.9, **options)
    trainer = small_run(
        tmp_path, epochs=4, backbone=BACKBONE, callbacks=[average, scored], num_sanity_val_steps=0, every_n_steps=None
    )
    assert scored.binary == [False, False, True, True]
    assert is_binary(trainer.lightning_module)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    temperatures = {k: v for k, v in checkpoint["state_dict"].items() if k.endswith("temperature")}
    assert temperatures
    for name, temperature in temperatures.items():
        assert temperature == checkpoint["current_model_state"][name]


def test_weights_are_those_of_lightning(tmp_path: Path) -> None:
    ends = []
    for kind in (callbacks.EMAWeightAveraging, EMAWeightAveraging):
        small_run(tmp_path / kind.__module__, callbacks=[kind(decay=0.8, use_buffers=False)], epochs=2)
        ends.append(torch.load(tmp_path / kind.__module__ / "last.ckpt", weights_only=True))
    assert_equal(ends[0]["state_dict"], ends[1]["state_dict"])
    assert ends[0]["callbacks"].keys() == ends[1]["callbacks"].keys()  # a run of before goes on


def test_every_annealing_is_copied() -> None:
    def network() -> nn.Module:
        return nn.Sequential(EDE(), ReSTE(), TemperatureSign(base=lambda num_channels: TemperatureSign()))

    source, target = network(), network()
    for module in source:
        module.set_progress(0.3)  # type: ignore[operator]
    copy_annealing_(target, source)
    assert_equal(dict(target.state_dict()), dict(source.state_dict()))
