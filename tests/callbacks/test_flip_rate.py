import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bnn_lightning.callbacks import FlipRateLogger
from bnn_lightning.layers.module_utils import binary_layers

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from small_run import curves, small_run


class Signs(Callback):
    """Keeps the binary weights of the start and of each epoch's end."""

    def __init__(self) -> None:
        self.signs: list[dict[str, torch.Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        layers = binary_layers(pl_module)
        self.signs.append({name[9:]: layer.binary_weight.detach().clone() for name, layer in layers.items()})

    on_train_epoch_end = on_train_start


def test_logged_rates(tmp_path: Path) -> None:
    signs = Signs()
    small_run(tmp_path, epochs=2, standard=False, callbacks=[FlipRateLogger(per_layer=True), signs])
    rows = [row for row in curves(tmp_path).values() if "binary/flip_rate" in row]
    assert len(rows) == 2
    for row, before, after in zip(rows, signs.signs[:-1], signs.signs[1:], strict=True):
        flips = {name: float((before[name] != after[name]).sum()) for name in before}
        total = sum(weights.numel() for weights in before.values())
        assert row["binary/flip_rate"] == pytest.approx(sum(flips.values()) / total)
        assert 0 < row["binary/flip_rate"] < 0.5
        for name, number in flips.items():
            assert row[f"binary/flip_rate/{name}"] == pytest.approx(number / before[name].numel())
