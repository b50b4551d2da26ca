"""Every distiller takes the shares of mixed images."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bnn_lightning.distill import Batch, Distiller, FrozenTeacher, GapEnsemble, HardLabels, Outputs, SelfKD, TeacherKD
from bnn_lightning.distill.bank import SoftLabelBank
from bnn_lightning.models import create_backbone

CLASSES = 5


def teacher() -> FrozenTeacher:
    torch.manual_seed(1)
    return FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)))


DISTILLERS: dict[str, Callable[[], Distiller]] = {
    "hard": lambda: HardLabels(label_smoothing=0.1),
    "self": lambda: SelfKD(CLASSES, feature_pooling="none"),
    "teacher": lambda: TeacherKD(teacher(), CLASSES, hard=0.5),
    "ensemble": lambda: GapEnsemble(teacher(), {"weak": teacher()}, CLASSES, hard=0.5),
}


def losses(distiller: Distiller, batch: Batch) -> dict[str, float]:
    torch.manual_seed(0)
    backbone = create_backbone("mlp", num_classes=CLASSES, in_channels=1, image_size=8, width=16)
    distiller.prepare(backbone)
    with distiller.watch(backbone) as taps:
        logits = backbone(batch.images)
    return {name: loss.item() for name, loss in distiller(batch, Outputs(logits, taps.features, taps)).items()}


@pytest.mark.parametrize("name", DISTILLERS)
def test_whole_shares_are_labels(name: str) -> None:
    images, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 4, 2, 2, 3])
    of_labels = losses(DISTILLERS[name](), Batch(images, labels))
    of_shares = losses(DISTILLERS[name](), Batch(images, labels, F.one_hot(labels, CLASSES).float()))
    assert of_shares == pytest.approx(of_labels, rel=1e-5)


@pytest.mark.parametrize("name", DISTILLERS)
def test_the_hard_loss_of_a_mixed_image_is_the_mean_of_its_classes(name: str) -> None:
    images, labels, other = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 4, 2, 2, 3]), torch.tensor([1, 1, 0, 2, 3, 4])
    shares = 0.7 * F.one_hot(labels, CLASSES) + 0.3 * F.one_hot(other, CLASSES)
    mixed = losses(DISTILLERS[name](), Batch(images, labels, shares))["hard"]
    parts = [losses(DISTILLERS[name](), Batch(images, y))["hard"] for y in (labels, other)]
    assert mixed == pytest.approx(0.7 * parts[0] + 0.3 * parts[1], rel=1e-5)


@pytest.mark.parametrize("autocast", [False, True])
def test_soft_labels_of_the_bank_are_mixed_in_their_shares(autocast: bool) -> None:
    bank = SoftLabelBank(3)
    logits = torch.tensor([[3.0, 1.0, 0.5], [0.0, 2.0, 1.0]])
    bank.update(logits, torch.tensor([0, 1]))
    bank.commit()
    shares = torch.tensor([[0.25, 0.75, 0.0], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]])
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        target, valid = bank.target(shares)
    assert valid.tolist() == [True, False, True]  # nothing is known of the third class
    torch.testing.assert_close(target[0], 0.25 * logits[0] + 0.75 * logits[1])
    assert torch.equal(target[2], logits[0])
