import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from pytorch_lightning import Callback, LightningModule, Trainer, callbacks
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import TorchDispatchMode

from bnn_lightning.data import DigitsDataModule
from bnn_lightning.deploy import torch_runner
from bnn_lightning.distill import FrozenTeacher, HardLabels, SelfKD
from bnn_lightning.models import create_backbone
from bnn_lightning.tasks import ClassificationTask
from bnn_lightning.tasks.classification import one_group

sys.path.insert(0, str(Path(__file__).parent))
from small_run import JsonLogger, curves, small_run

SGD = partial(torch.optim.SGD, lr=0.1)


def tiny_task(**options: Any) -> ClassificationTask:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return ClassificationTask(net, **{"num_classes": 10, "optimizer": SGD} | options)


def fit(task: ClassificationTask, data: DigitsDataModule | None = None, **options: Any) -> Trainer:
    defaults: dict[str, Any] = {"max_epochs": 1, "accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    defaults |= {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    trainer = Trainer(**defaults | options)
    trainer.fit(task, datamodule=data or DigitsDataModule(batch_size=256, image_size=8))
    return trainer


def test_ddp_does_not_broadcast_the_bank_before_each_step() -> None:
    task = ClassificationTask(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)),
        num_classes=10,
        optimizer=SGD,
        distiller=SelfKD(num_classes=10, alpha=0.0, gamma=0.0),
    )
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        sent = {id(buffer) for buffer in DistributedDataParallel(task).modules_buffers}
    finally:
        dist.destroy_process_group()
    assert id(task.get_buffer("backbone.2.running_mean")) in sent
    bank = dict(task.get_submodule("distiller.bank").named_buffers())
    assert bank.keys() == {"bank", "valid", "sums", "counts"}
    assert not sent & {id(buffer) for buffer in bank.values()}


class Recorder(Callback):
    """Keeps every training batch's terms, and its accuracy."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.rates: list[float] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        terms = {f"train/loss_{name}": float(term.detach()) for name, term in pl_module.terms.items()}  # type: ignore[union-attr]
        self.rows.append({"train/loss": float(loss.detach())} | terms)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_epoch_metrics(tmp_path: Path) -> None:
    """Means over samples, in which the weighted terms add up to the loss; the learning rate is the one in use."""
    recorder = Recorder()
    small_run(tmp_path, epochs=2, standard=False, callbacks=[recorder], interval="step")
    rows = [row for row in curves(tmp_path).values() if "train/loss" in row]
    assert len(rows) == 2
    for epoch, row in enumerate(rows):
        steps = recorder.rows[5 * epoch : 5 * epoch + 5]
        for name in steps[0]:
            assert row[name] == pytest.approx(sum(step[name] for step in steps) / 5, rel=1e-6), name
        terms = [row[f"train/loss_{name}"] for name in ("hard", "feature", "label", "cluster")]
        assert row["train/loss"] == pytest.approx(sum(terms), rel=1e-6)
        assert row["lr"] == pytest.approx(recorder.rates[5 * epoch + 4])
        assert 0 < row["train/acc"] < 1
        assert row["train/acc"] <= row["train/acc_top5"] <= 1
    assert rows[0]["train/loss_label"] == 0 < rows[1]["train/loss_label"]


class Stop(Callback):
    """Ends the training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


@pytest.mark.parametrize(("accumulate", "stop", "logged"), [(1, -1, [1, 3]), (1, 3, [1, 2]), (2, -1, [1, 3])])
def test_the_loss_of_a_step_is_logged_where_loggers_write(
    tmp_path: Path, accumulate: int, stop: int, logged: list[int]
) -> None:
    recorder, logger = Recorder(), JsonLogger(tmp_path / "steps.json")
    steps = {"log_every_n_steps": 2, "accumulate_grad_batches": accumulate, "limit_val_batches": 0}
    fit(tiny_task(), logger=logger, callbacks=[recorder, Stop(stop)], max_epochs=1, **steps)
    rows = [json.loads(line) for line in logger.path.read_text().splitlines()]
    found = {row["step"]: row["train/loss_step"] for row in rows if "train/loss_step" in row}
    last_batches = [accumulate * (step + 1) - 1 for step in logged]
    assert found == {
        s: pytest.approx(accumulate * recorder.rows[b]["train/loss"]) for s, b in zip(logged, last_batches, strict=True)
    }


@pytest.mark.parametrize(("val_fraction", "prefix", "number"), [(0.0, "test", 360), (0.1, "val", 144)])
def test_evaluation_scores_every_image(val_fraction: float, prefix: str, number: int) -> None:
    task = tiny_task()
    data = DigitsDataModule(batch_size=100, image_size=8, val_fraction=val_fraction, eval_batch_size=97)
    trainer = fit(task, data, limit_train_batches=2)
    scored = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith(prefix)}
    images, labels = (torch.cat(part) for part in zip(*batches(trainer, task, data.val_dataloader()), strict=True))
    assert len(labels) == number
    logits = task(images)
    ranks = (logits > logits.gather(1, labels[:, None])).sum(1)
    assert scored == {
        f"{prefix}/loss": pytest.approx(float(F.cross_entropy(logits.detach(), labels)), rel=1e-5),
        f"{prefix}/acc": pytest.approx(float((ranks < 1).double().mean())),
        f"{prefix}/acc_top5": pytest.approx(float((ranks < 5).double().mean())),
    }


def batches(trainer: Trainer, task: ClassificationTask, loader: Any) -> list[Any]:
    task.eval()
    return [trainer.datamodule.on_after_batch_transfer(batch, 0) for batch in loader]  # type: ignore[attr-defined]


def test_few_classes() -> None:
    """With three classes every label is among the best five."""
    task = ClassificationTask(nn.Flatten(), num_classes=3, optimizer=SGD)
    task.validation_step((torch.rand(4, 3, 1, 1), torch.tensor([0, 1, 2, 0])), 0)
    assert float(task.eval_means.compute()["acc_top5"]) == 1


class NoHostSync(TorchDispatchMode):
    """Refuses what makes a GPU wait: a value that the host asks for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "a tensor's value was asked for"
        assert func not in (torch.ops.aten.nonzero.default, torch.ops.aten.equal.default)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", ["mlp", "resnet20"])
def test_training_step_does_not_ask_for_values(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = create_backbone(name, num_classes=10, in_channels=1, image_size=8, **({"width": 16} if name == "mlp" else {}))
    task = ClassificationTask(net, num_classes=10, optimizer=SGD, distiller=SelfKD(10, feature_pooling="none"))
    monkeypatch.setattr(task, "log", lambda *args, **kwargs: None)
    with NoHostSync():
        task.training_step((torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])), 0).backward()


def test_state_dict_holds_network_distiller_and_sums() -> None:
    net = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=8)
    task = ClassificationTask(net, num_classes=10, optimizer=SGD, distiller=SelfKD(10))
    names = {f"backbone.{name}" for name in net.state_dict()} | {"train_means.sums", "train_means.count"}
    names |= {f"distiller.bank.{name}" for name in ("bank", "valid", "sums", "counts")}
    assert set(task.state_dict()) == names
    assert set(tiny_task().state_dict()) == {
        "backbone.1.weight",
        "backbone.1.bias",
        "train_means.sums",
        "train_means.count",
    }


def test_sums_of_a_checkpoint_that_counted_less_are_read() -> None:
    task = tiny_task()
    state = task.state_dict()
    assert task.train_means.names[-1] == "acc_top5"
    state["train_means.sums"] = torch.arange(1.0, len(task.train_means.names))  # without the last one
    task.load_state_dict(state)
    assert task.train_means.sums.tolist() == [*range(1, len(task.train_means.names)), 0]


def test_top5_of_training_images() -> None:
    task = tiny_task()
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(20) % 10
    task._count(torch.tensor(1.0), logits, labels)
    means = task.train_means.compute()
    assert (
        float(means["acc"])
        == sum(int(row.argmax()) == label for row, label in zip(logits, labels.tolist(), strict=True)) / 20
    )
    expected = sum(label in row.topk(5).indices for row, label in zip(logits, labels.tolist(), strict=True)) / 20
    assert float(means["acc_top5"]) == expected


def test_compile_in_place() -> None:
    """Names stay, and so does every value, with hooks for distillation around the compiled network."""
    images, labels = torch.rand(8, 1, 8, 8), torch.arange(8)
    losses, states = [], []
    for compile_ in (False, True):
        torch.manual_seed(0)
        net = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=8, dropout=0.0)
        task = ClassificationTask(net, num_classes=10, optimizer=SGD, distiller=SelfKD(10), compile=compile_)
        task.log = lambda *args, **kwargs: None  # type: ignore[method-assign]
        if compile_:
            assert task.backbone._compiled_call_impl is not None
        losses.append(task.training_step((images, labels), 0))
        losses[-1].backward()
        states.append({name: p.grad for name, p in task.named_parameters()} | task.state_dict())
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(states[0], states[1])


@pytest.mark.parametrize("channels_last", [None, True, False])
def test_channels_last(channels_last: bool | None) -> None:
    net = create_backbone("resnet20", num_classes=10, in_channels=3, image_size=8)
    images = torch.rand(2, 3, 8, 8)
    expected = net.eval()(images)
    task = ClassificationTask(net, num_classes=10, optimizer=SGD, channels_last=channels_last).eval()
    seen: list[Tensor] = []
    net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    torch.testing.assert_close(task(images), expected)
    on = channels_last is not False
    weight = net.get_submodule("layer1.0.conv1").weight
    assert isinstance(weight, Tensor)
    assert [t.is_contiguous(memory_format=torch.channels_last) for t in (seen[0], weight)] == [on, on]


def test_channels_last_is_off_without_convolutions() -> None:
    assert not tiny_task().channels_last


class MixedConvolutions(nn.Module):
    """A 2-d convolution and a 3-d one, of images or of sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.deep = nn.Conv2d(3, 4, (1, 3)), nn.Conv3d(4, 10, (1, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.flat(x if x.dim() == 4 else x.unsqueeze(2))
        logits: Tensor = self.deep(maps.unsqueeze(2)).mean((2, 3, 4))
        return logits


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3, 8)])
def test_channels_last_is_of_4d_tensors_alone(shape: tuple[int, ...]) -> None:
    net, images = MixedConvolutions(), torch.rand(shape)
    expected = net(images)
    task = ClassificationTask(net, num_classes=10, optimizer=SGD)
    assert task.channels_last
    assert net.flat.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(task(images), expected)
    torch.testing.assert_close(FrozenTeacher(net)(images), expected)
    torch.testing.assert_close(torch_runner(net)(torch.get_num_threads(), images)(), expected)


def test_optimizer_gets_the_groups() -> None:
    task = tiny_task(param_groups=lambda model: [{"params": list(model.parameters()), "weight_decay": 0.5}])
    fit(task, limit_train_batches=1)
    assert task.trainer.optimizers[0].param_groups[0]["weight_decay"] == 0.5
    task.backbone[1].bias.requires_grad_(False)
    assert one_group(task) == [{"params": [task.backbone[1].weight]}]


@pytest.mark.parametrize(("accumulation", "limit", "steps"), [(1, 1.0, 5), (2, 1.0, 5), (1, 3, 3), (1, 0.5, 2)])
def test_schedule_is_told_the_steps_of_an_epoch(accumulation: int, limit: float, steps: int) -> None:
    told: list[int] = []

    def schedule(optimizer: torch.optim.Optimizer, *, steps_per_epoch: int) -> Any:
        told.append(steps_per_epoch)
        return {"scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer), "interval": "step"}

    task = tiny_task(lr_scheduler=schedule)
    trainer = fit(task, accumulate_grad_batches=accumulation, limit_train_batches=limit)
    assert told == [steps] == [trainer.global_step]


def test_label_smoothing() -> None:
    task = tiny_task(label_smoothing=0.1)
    assert isinstance(task.distiller, HardLabels)
    assert task.distiller.label_smoothing == 0.1
    with pytest.raises(ValueError, match=r"`label_smoothing` is an option of the distiller.*got 0\.1 beside SelfKD"):
        tiny_task(label_smoothing=0.1, distiller=SelfKD(10))


def test_no_teacher_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tiny_task(distiller=SelfKD(10))
    for name in ("watch", "forward"):
        monkeypatch.setattr(task.distiller, name, lambda *args: pytest.fail("the distiller was asked"))
    fit(task, limit_train_batches=0)
    task.trainer.validate(task, datamodule=DigitsDataModule(batch_size=256, image_size=8), verbose=False)


@pytest.mark.parametrize(
    ("scheduler", "rates"),
    [
        (partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.1), [0.1, 0.1, 0.01]),
        (partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5), [0.1, 0.05, 0.025]),
        (torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, None),  # `T_0` is missing
        (partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0, epochs=3), "one cycle"),
        (lambda optimizer: {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.1)}, [0.1, 0.01, 0.001]),
    ],
)
def test_schedulers_of_torch(scheduler: Any, rates: Any) -> None:
    recorder = Recorder()
    task = tiny_task(lr_scheduler=scheduler)
    if rates is None:
        with pytest.raises(TypeError, match="T_0"):
            fit(task)
        return
    fit(task, max_epochs=3, callbacks=[recorder], limit_val_batches=0)
    if rates == "one cycle":  # stepped at each of 3 x 5 optimizer steps: the highest rate is at 30 % of them
        assert recorder.rates[4] == pytest.approx(max(recorder.rates), rel=0.1)
        assert recorder.rates[-1] < recorder.rates[0]
    else:
        assert recorder.rates == pytest.approx([rate for rate in rates for _ in range(5)])


def test_a_scheduler_that_watches_a_metric_must_name_it() -> None:
    with pytest.raises(ValueError, match=r'ReduceLROnPlateau watches a metric.*"monitor"'):
        fit(tiny_task(lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau))
    with pytest.raises(TypeError, match=r"`lr_scheduler` must return a scheduler.*got None"):
        fit(tiny_task(lr_scheduler=lambda optimizer: None))

    def named(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        return {"scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer), "monitor": "val/loss"}

    fit(tiny_task(lr_scheduler=named), DigitsDataModule(batch_size=256, image_size=8, val_fraction=0.1))


@pytest.mark.parametrize("finder", [callbacks.LearningRateFinder, callbacks.BatchSizeFinder])
def test_tuners_of_lightning_are_refused_with_the_reason(finder: Any) -> None:
    with pytest.raises(ValueError, match=f"{finder.__name__} of Lightning's Tuner is refused: it (sets|changes)"):
        fit(tiny_task(), callbacks=[finder()])


def test_a_task_from_a_checkpoint_and_the_parts_that_python_gives(tmp_path: Path) -> None:
    trainer = small_run(tmp_path, epochs=1)  # with self-distillation, whose state the new task does without
    shape = {"num_classes": 10, "in_channels": 1, "image_size": 8, "width": 32}
    backbone = create_backbone("mlp", **shape)
    task = ClassificationTask.load_from_checkpoint(tmp_path / "final.ckpt", backbone=backbone, optimizer=SGD)
    assert task.num_classes == 10
    trained = trainer.lightning_module.state_dict()
    for name, tensor in task.backbone.state_dict().items():
        assert torch.equal(tensor, trained[f"backbone.{name}"]), name
    other = create_backbone("mlp", **{**shape, "width": 16})
    with pytest.raises(RuntimeError, match="size mismatch"):
        ClassificationTask.load_from_checkpoint(tmp_path / "final.ckpt", backbone=other, optimizer=SGD)
    with pytest.raises(TypeError, match=r"`backbone=` and `optimizer=`.*bnn_lightning\.load_task\("):
        ClassificationTask.load_from_checkpoint(tmp_path / "final.ckpt")


@pytest.mark.parametrize("val_fraction", [0.0, 0.2])
def test_predict_gives_the_logits_of_every_test_image(val_fraction: float) -> None:
    task, data = tiny_task(), DigitsDataModule(batch_size=100, image_size=8, val_fraction=val_fraction)
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    logits = torch.cat(trainer.predict(task, datamodule=data))  # type: ignore[arg-type]
    data.setup("test")
    images = torch.cat([images for images, _ in data.batches(data.test_dataloader())])
    assert logits.shape == (360, 10)
    assert torch.allclose(logits, task(images))
    loader = torch.utils.data.DataLoader(images, batch_size=90)  # images without labels
    assert torch.allclose(torch.cat(trainer.predict(task, loader)), logits)  # type: ignore[arg-type]
