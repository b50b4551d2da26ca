import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from bnn_lightning.callbacks import BNReestimate
from bnn_lightning.layers.module_utils import binary_layers, is_binary

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from small_run import curves, small_run


class Inputs(Callback):
    """Keeps the images that the network sees after the training, and the state it had at its end."""

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.before = {name: value.clone() for name, value in pl_module.state_dict().items()}
        self.images: list[torch.Tensor] = []
        pl_module.backbone.register_forward_pre_hook(lambda _, images: self.images.append(images[0].clone()))  # type: ignore[union-attr]


def test_statistics_are_plain_means(tmp_path: Path) -> None:
    inputs = Inputs()
    small_run(tmp_path, epochs=2, callbacks=[inputs, BNReestimate(3)], limit_val_batches=0)
    state = torch.load(tmp_path / "final.ckpt", weights_only=True)["state_dict"]
    changed = {name for name, value in state.items() if not torch.equal(value, inputs.before[name])}
    assert changed == {f"backbone.bn{i}.running_{what}" for i in (1, 2, 3) for what in ("mean", "var")}
    assert len(inputs.images) == 3
    assert not torch.equal(inputs.images[0], inputs.images[1])
    # The first layer's statistics by hand: dot product with signs, bias, then mean and unbiased variance of a batch.
    weight, bias = inputs.before["backbone.fc1.weight"], inputs.before["backbone.fc1.bias"]
    dots = [images.flatten(1) @ torch.where(weight >= 0, 1.0, -1.0).T + bias for images in inputs.images]
    means, variances = ([getattr(dot, what)(0) for dot in dots] for what in ("mean", "var"))
    torch.testing.assert_close(state["backbone.bn1.running_mean"], torch.stack(means).mean(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state["backbone.bn1.running_var"], torch.stack(variances).mean(0), rtol=1e-4, atol=1e-4)


def test_an_epoch_of_the_trainer_at_most(tmp_path: Path) -> None:
    inputs = Inputs()
    small_run(tmp_path, epochs=1, callbacks=[inputs, BNReestimate(3)], limit_train_batches=2)
    assert len(inputs.images) == 2


def test_evaluation_after_training_uses_them(tmp_path: Path) -> None:
    trainer = small_run(tmp_path, epochs=1, callbacks=[BNReestimate(4)])
    scored = trainer.test(trainer.lightning_module, datamodule=trainer.datamodule, verbose=False)[0]  # type: ignore[attr-defined]
    last = [row for row in curves(tmp_path).values() if "test/loss" in row]
    assert scored["test/loss"] != last[0]["test/loss"]
    norms = [module for module in trainer.lightning_module.modules() if isinstance(module, nn.BatchNorm1d)]
    assert {norm.momentum for norm in norms} == {0.1}


def test_averaged_network(tmp_path: Path) -> None:
    """Averaged weights, statistics of the average, a binary network, and nothing of a teacher in any file."""
    ema = EMAWeightAveraging(decay=0.8, use_buffers=False)
    trainer = small_run(tmp_path, epochs=2, callbacks=[ema, BNReestimate(4)])
    task = trainer.lightning_module
    final = torch.load(tmp_path / "final.ckpt", weights_only=True)["state_dict"]
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    own = set(task.state_dict())
    assert {name.split(".")[0] for name in own} == {"backbone", "distiller", "train_means"}
    assert set(final) == set(last["state_dict"]) == set(last["current_model_state"]) == own
    for name in own:
        if name.startswith("backbone.") and "running" not in name:
            assert torch.equal(final[name], last["state_dict"][name]), name
    assert not torch.equal(final["backbone.fc1.weight"], last["current_model_state"]["backbone.fc1.weight"])
    assert not torch.equal(final["backbone.bn1.running_var"], last["state_dict"]["backbone.bn1.running_var"])
    assert is_binary(task)
    for layer in binary_layers(task).values():
        assert set(layer.binary_weight.unique().tolist()) == {-1.0, 1.0}


def test_order_of_callbacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must stand after `EMAWeightAveraging`"):
        small_run(tmp_path, standard=False, callbacks=[BNReestimate(), EMAWeightAveraging(use_buffers=False)])
    with pytest.raises(ValueError, match="`num_batches` must not be negative"):
        BNReestimate(-1)
