"""Class weights of the hard loss: against the formula, in every distiller."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.data import DigitsDataModule, SyntheticDataModule
from bnn_lightning.distill import FrozenTeacher, GapEnsemble, SelfKD, TeacherKD
from bnn_lightning.distill.base import Batch, Distiller, HardLabels, Outputs
from bnn_lightning.tasks import ClassificationTask

LABELS = torch.tensor([0, 2, 2, 1, 0])
WEIGHTS = [0.5, 3.0, 1.0]


def teacher() -> FrozenTeacher:
    return FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)))


def distillers() -> dict[str, Distiller]:
    return {
        "labels": HardLabels(0.1),
        "skd": SelfKD(3, alpha=0.0, beta=0.0, gamma=0.0, label_smoothing=0.1),
        "teacher": TeacherKD(teacher(), 3, hard=1.0, soft=0.0, label_smoothing=0.1),
        "ensemble": GapEnsemble(teacher(), {"own": None}, 3, hard=1.0, label_smoothing=0.1),
    }


def task(distiller: Distiller | None = None, **options: Any) -> ClassificationTask:
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    return ClassificationTask(
        network, num_classes=3, optimizer=partial(torch.optim.SGD, lr=0.1), distiller=distiller, **options
    )


def expected(logits: Tensor, shares: Tensor) -> Tensor:
    """Mean over images of the sum of weight x share x -log probability, shares smoothed by a tenth."""
    smooth = 0.9 * shares + 0.1 / 3
    return -(torch.tensor(WEIGHTS) * smooth * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("name", distillers())
@pytest.mark.parametrize("mixed", [False, True])
def test_every_distiller_weighs_its_hard_loss(name: str, mixed: bool) -> None:
    torch.manual_seed(0)
    distiller = distillers()[name]
    task(distiller, class_weights=WEIGHTS).weigh_classes(None)
    logits, images = torch.randn(5, 3), torch.rand(5, 1, 2, 2)
    shares = torch.nn.functional.one_hot(LABELS, 3).float()
    mixture = 0.7 * shares + 0.3 * shares.flip(0) if mixed else None
    losses = distiller.eval()(Batch(images, LABELS, mixture), Outputs(logits))
    torch.testing.assert_close(losses["hard"], expected(logits, shares if mixture is None else mixture))


def test_without_weights_nothing_changes() -> None:
    distiller, logits = HardLabels(0.1), torch.randn(5, 3)
    loss = distiller(Batch(torch.rand(5, 1, 2, 2), LABELS), Outputs(logits))["hard"]
    assert torch.equal(loss, torch.nn.functional.cross_entropy(logits, LABELS, label_smoothing=0.1))
    assert not distiller.state_dict()


def test_weights_beyond_half_precision() -> None:
    """Hold the weight of a class of one image among 200,000 in float16 and bfloat16."""
    distiller, labels = HardLabels(), torch.tensor([0, 2])
    task(distiller, class_weights=[1e5, 1.0, 0.3]).weigh_classes(None)
    logits = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.0]])
    wanted = distiller(Batch(logits, labels), Outputs(logits))["hard"]
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.equal(distiller(Batch(logits, labels), Outputs(logits.to(dtype)))["hard"], wanted)


def test_shares_of_a_batch_add_up_to_it() -> None:
    """Losses of equal parts, one a rank, have the mean of the whole: the number of devices changes nothing."""
    distiller, logits = HardLabels(), torch.randn(4, 3)
    task(distiller, class_weights=WEIGHTS).weigh_classes(None)
    parts = [distiller(Batch(logits[i : i + 2], LABELS[i : i + 2]), Outputs(logits[i : i + 2]))["hard"] for i in (0, 2)]
    whole = distiller(Batch(logits, LABELS[:4]), Outputs(logits))["hard"]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


@pytest.mark.parametrize("val_fraction", [0.0, 0.3])
def test_balanced_weights_count_the_training_images(val_fraction: float) -> None:
    data = DigitsDataModule(image_size=8, batch_size=64, val_fraction=val_fraction)
    data.setup("fit")
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    balanced = ClassificationTask(
        network, num_classes=10, optimizer=partial(torch.optim.SGD, lr=0.1), class_weights="balanced"
    )
    balanced.weigh_classes(data)
    weights, labels = balanced.distiller.class_weights, data.training_labels()
    assert weights is not None
    for label in range(10):
        assert float(weights[label]) == pytest.approx(len(labels) / (10 * int((labels == label).sum())))
    assert float(weights[labels].mean()) == pytest.approx(1.0)
    assert len(labels) == (1437 if val_fraction == 0 else 1006)


@pytest.mark.parametrize(
    "distiller, weights, message",
    [
        (None, "even", "must be balanced or a list of numbers, got 'even'"),
        (None, [1.0], "must be 3 numbers, one a class, got 1"),
        (None, [1.0, -1.0, 1.0], "must be numbers from 0 on"),
        (None, [1.0, float("nan"), 1.0], "must be numbers from 0 on"),
        (GapEnsemble(teacher(), {"own": None}, 3), "balanced", "GapEnsemble gives the weight 0"),
    ],
)
def test_weights_that_cannot_be_are_refused(distiller: Distiller | None, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        task(distiller, class_weights=weights)


def test_a_class_without_images_has_no_balanced_weight() -> None:
    data = SyntheticDataModule(image_size=8, num_classes=3, num_train=2, num_test=3, batch_size=1)
    data.setup("fit")
    with pytest.raises(ValueError, match=r"no training image of the classes \[2\]"):
        task(class_weights="balanced").weigh_classes(data)
    with pytest.raises(ValueError, match="has no method `training_labels`"):
        task(class_weights="balanced").weigh_classes(object())
