import sys
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from bnn_lightning.callbacks import GradientShare
from bnn_lightning.callbacks.gradient_share import gradient_norm

sys.path.insert(0, str(Path(__file__).parents[1] / "tasks"))
from small_run import curves, small_run


class FirstGradients(Callback):
    """The gradient of each term by plain backward passes, at the first step."""

    def __init__(self) -> None:
        self.norms: dict[str, float] = {}

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor) -> None:
        if trainer.global_step:
            return
        for name, term in pl_module.terms.items():  # type: ignore[union-attr]
            if term.requires_grad:
                term.backward(retain_graph=True)
            squares = [float(p.grad.pow(2).sum()) for p in pl_module.parameters() if p.grad is not None]
            self.norms[name] = sum(squares) ** 0.5
            pl_module.zero_grad()


def test_shares_and_training_untouched(tmp_path: Path) -> None:
    """Dropout, batch statistics, bank and all: the same weights to the bit with and without."""
    states, reference = [], FirstGradients()
    for name, callbacks in {"with": [GradientShare(100)], "without": [], "plain": [reference]}.items():
        trainer = small_run(tmp_path / name, epochs=1, standard=False, callbacks=callbacks)
        states.append(trainer.lightning_module.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    logged = {k: v for row in curves(tmp_path / "with").values() for k, v in row.items() if k.startswith("gradient/")}
    assert sorted(logged) == ["gradient/cluster", "gradient/feature", "gradient/label"]
    for name in ("cluster", "feature", "label"):
        assert logged[f"gradient/{name}"] == pytest.approx(reference.norms[name] / reference.norms["hard"], rel=1e-4)


def test_norm_of_a_constant_is_zero() -> None:
    assert gradient_norm(torch.tensor(1.0), [torch.nn.Parameter(torch.ones(1))]) == 0


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`every_n_steps` must be a whole number of at least 1, got 0"):
        GradientShare(0)
    network = torch.nn.Sequential(torch.nn.Linear(1, 1))
    network[0].compile()
    with pytest.raises(ValueError, match="compile=False"):
        GradientShare().setup(None, network, "fit")  # type: ignore[arg-type]
