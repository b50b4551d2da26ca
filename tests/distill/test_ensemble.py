"""Ensembles: which assistant serves when, the loss, and what is logged."""

import math
from functools import partial

import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import nn

from bnn_lightning.data import DigitsDataModule
from bnn_lightning.distill import Batch, FrozenTeacher, GapEnsemble, Outputs
from bnn_lightning.losses import gap_weighted_cross_entropy
from bnn_lightning.models import create_backbone
from bnn_lightning.tasks import ClassificationTask
from bnn_lightning.tasks.progress import TrainingProgress


class Table(nn.Module):
    """Gives logits that do not depend on the image, and counts its calls."""

    num_classes = 4

    def __init__(self, seed):
        super().__init__()
        self.register_buffer("logits", torch.randn(6, 4, generator=torch.Generator().manual_seed(seed)))
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.logits


def ensemble(number=2, **options):
    names = ["weak", "middle", "strong"][:number]
    assistants = {name: FrozenTeacher(Table(seed)) for seed, name in enumerate(names)}
    return GapEnsemble(FrozenTeacher(Table(9)), assistants, 4, **options)


# BNext's scripts: epochs, and the epochs in which each assistant serves.
PUBLISHED = {
    "tiny": [(0, 511)],
    "middle": [(0, 255), (256, 511)],
    "large": [(0, 170), (171, 341), (342, 511)],
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_phases_are_the_published_ones(name):
    phases = PUBLISHED[name]
    distiller, progress = ensemble(len(phases)), TrainingProgress(512)
    for epoch in range(512):
        distiller.set_progress(progress.at(epoch))
        (served,) = [index for index, (first, last) in enumerate(phases) if first <= epoch <= last]
        assert distiller.assistant == list(distiller.assistants)[served], epoch
    distiller.set_progress(1.0)
    assert distiller.assistant == list(distiller.assistants)[-1]


@pytest.mark.parametrize("number", [2, 3])
def test_phases_of_any_length_are_those_of_whole_numbers(number):
    for epochs in range(1, 120):
        distiller = ensemble(number)
        for epoch in range(epochs):
            distiller.set_progress(epoch / epochs)
            assert distiller.assistant == list(distiller.assistants)[epoch * number // epochs], (epoch, epochs)


@pytest.mark.parametrize("weighting", ["per_sample", "per_batch"])
def test_loss_is_that_of_main_and_assistant(weighting):
    distiller = ensemble(2, weighting=weighting, scale=1.0, soft=2.0, hard=0.5)
    batch, logits = Batch(torch.rand(6, 1, 2, 2), torch.arange(6) % 4), torch.randn(6, 4)
    for progress, serving, idle in ((0.0, "weak", "middle"), (0.5, "middle", "weak")):
        distiller.set_progress(progress)
        before = distiller.assistants[idle].network.calls
        losses = distiller(batch, Outputs(logits))
        assert distiller.assistants[idle].network.calls == before
        targets = [distiller.assistants[serving].network.logits, distiller.main.network.logits]
        expected, weights = gap_weighted_cross_entropy(logits, targets, weighting, scale=1.0)
        torch.testing.assert_close(losses["soft"], expected)
        torch.testing.assert_close(distiller.measured["alpha"], weights[0])
        hard = nn.functional.cross_entropy(logits, batch.labels)
        torch.testing.assert_close(distiller.total(losses), 2 * expected + 0.5 * hard)


def test_default_uses_no_labels_and_half_the_sum():
    distiller = ensemble(1)
    assert (distiller.weights, distiller.scale, distiller.weighting) == ({"hard": 0.0, "soft": 1.0}, 0.5, "per_sample")
    assert list(distiller(Batch(torch.rand(6, 1, 2, 2), torch.arange(6) % 4), Outputs(torch.randn(6, 4)))) == ["soft"]
    assert list(distiller.eval()(Batch(torch.rand(6, 1, 2, 2), torch.arange(6) % 4), Outputs(torch.randn(6, 4)))) == [
        "hard"
    ]
    assert distiller.main.network.calls == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"number": 0}, "`assistants` must hold at least one teacher"),
        ({"weighting": "Instance"}, "`weighting` must be one of"),
        ({"scale": 0.0}, "`scale` must be positive"),
        ({"soft": 0.0}, "`soft` must be positive"),
        ({"hard": -1.0}, "`hard` must not be negative"),
    ],
)
def test_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ensemble(**options)


def test_every_teacher_is_held_against_the_classes():
    other = FrozenTeacher(lambda: create_backbone("mlp", num_classes=3, in_channels=1, image_size=8, width=4))
    distiller = GapEnsemble(FrozenTeacher(Table(9)), {"weak": FrozenTeacher(Table(1)), "next": other}, 4)
    with pytest.raises(ValueError, match="num_classes=3, and the student num_classes=4"):
        distiller.prepare(nn.Identity())


class Serving(Callback):
    def __init__(self):
        self.names = []

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.names.append(pl_module.distiller.assistant)


def run(folder, *, max_epochs, ckpt_path=None):
    torch.manual_seed(0)
    net = partial(create_backbone, "mlp", num_classes=10, in_channels=1, image_size=8, width=8, dropout=0.0)
    assistants = {name: FrozenTeacher(partial(net, binary=False)) for name in ("weak", "middle", "strong")}
    distiller = GapEnsemble(FrozenTeacher(net), assistants, 10)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    task = ClassificationTask(net(), num_classes=10, optimizer=optimizer, distiller=distiller, progress_epochs=4)
    serving = Serving()
    trainer = Trainer(
        max_epochs=max_epochs,
        limit_train_batches=2,
        accelerator="cpu",
        callbacks=[serving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    trainer.fit(task, datamodule=DigitsDataModule(batch_size=16, image_size=8), ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(folder / f"{max_epochs}.ckpt")
    return trainer, serving.names


def test_assistants_take_turns_also_after_a_resume(tmp_path):
    whole, names = run(tmp_path, max_epochs=4)
    assert names == ["weak"] * 4 + ["middle"] * 2 + ["strong"] * 2
    alpha = float(whole.callback_metrics["train/alpha"])
    assert math.isfinite(alpha)
    assert 0 < alpha < 1
    expected = {name: value.clone() for name, value in whole.lightning_module.state_dict().items()}
    run(tmp_path, max_epochs=2)
    resumed, names = run(tmp_path, max_epochs=4, ckpt_path=tmp_path / "2.ckpt")
    assert names == ["middle"] * 2 + ["strong"] * 2
    state = resumed.lightning_module.state_dict()
    assert all(torch.equal(state[name], value) for name, value in expected.items())
    assert float(resumed.callback_metrics["train/alpha"]) == alpha
