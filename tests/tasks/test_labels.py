"""Labels that a task takes, and labels that it refuses."""

from functools import partial
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bnn_lightning.distill import SelfKD
from bnn_lightning.tasks import ClassificationTask
from bnn_lightning.tasks.labels import LabelError

IMAGES = torch.rand(4, 1, 2, 2)


def task() -> ClassificationTask:
    network, distiller = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), SelfKD(3, alpha=0.0, gamma=0.0)
    sgd = partial(torch.optim.SGD, lr=0.1)
    return ClassificationTask(network, num_classes=3, optimizer=sgd, distiller=distiller)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
def test_integers_of_any_width(dtype: torch.dtype) -> None:
    own, labels = task(), torch.tensor([0, 1, 2, 1], dtype=dtype)
    own.validation_step((IMAGES, labels), 0)
    own.training_step((IMAGES, labels), 0)
    assert int(own.eval_means.count) == int(own.train_means.count) == 4


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0.0, 1.0, 2.0, 1.0]), "torch.float32"),
        (torch.ones(4, 3), r"\(4, 3\)"),
        (torch.tensor([[0], [1], [2], [1]]), r"\(4, 1\)"),
        (torch.tensor([0, 1, 3, 1]), "from 0 to 2 .* got 3"),
        (torch.tensor([0, -100, 2, 1]), "from 0 to 2 .* got -100"),
    ],
)
@pytest.mark.parametrize("stage", ["fit", "validate", "test"])
def test_what_is_refused(stage: str, labels: Tensor, message: str) -> None:
    whole = [(IMAGES, torch.tensor([0, 1, 2, 1])), (IMAGES, labels)]
    loader: Any = DataLoader(whole, batch_size=None)  # type: ignore[arg-type]
    options: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", max_epochs=1, enable_checkpointing=False, **options)
    with pytest.raises(LabelError, match=message):
        getattr(trainer, stage)(task(), loader)
