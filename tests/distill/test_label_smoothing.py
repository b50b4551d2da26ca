"""Label smoothing in every distiller, against the formula in plain Python."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bnn_lightning.distill import Batch, Distiller, FrozenTeacher, GapEnsemble, HardLabels, Outputs, SelfKD, TeacherKD
from bnn_lightning.models import create_backbone

CLASSES, SMOOTHING = 5, 0.3


def teacher() -> FrozenTeacher:
    return FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(16, CLASSES)))


DISTILLERS: dict[str, Callable[..., Distiller]] = {
    "HardLabels": HardLabels,
    "SelfKD": lambda **options: SelfKD(CLASSES, feature_pooling="none", **options),
    "GapEnsemble": lambda **options: GapEnsemble(teacher(), {"weak": teacher()}, CLASSES, hard=1.0, **options),
    "TeacherKD": lambda **options: TeacherKD(teacher(), CLASSES, hard=1.0, **options),
}


def smoothed(logits: list[list[float]], labels: list[int]) -> float:
    """Return the mean of (1 - s) * -log p[label] + s * mean over classes of -log p."""
    losses = []
    for row, label in zip(logits, labels, strict=True):
        total = math.log(sum(math.exp(value) for value in row))
        surprise = [total - value for value in row]
        losses.append((1 - SMOOTHING) * surprise[label] + SMOOTHING * sum(surprise) / CLASSES)
    return sum(losses) / len(losses)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", DISTILLERS)
def test_the_hard_loss_is_smoothed(name: str, training: bool) -> None:
    torch.manual_seed(0)
    network = create_backbone("mlp", num_classes=CLASSES, image_size=4, in_channels=1, width=8).train(training)
    distiller = DISTILLERS[name](label_smoothing=SMOOTHING)
    distiller.prepare(network)
    distiller.train(training)
    batch = Batch(torch.rand(6, 1, 4, 4), torch.tensor([0, 1, 2, 3, 4, 0]))
    with distiller.watch(network) as taps:
        logits = network(batch.images)
    losses = distiller(batch, Outputs(logits, taps.features, taps))
    assert losses["hard"].item() == pytest.approx(smoothed(logits.tolist(), batch.labels.tolist()), rel=1e-5)
