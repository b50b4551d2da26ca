"""A frozen teacher: shared, unchanged, unseen by the training; and what is learned from it."""

import copy
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import EMAWeightAveraging
from torch import nn

from bnn_lightning.data import DigitsDataModule
from bnn_lightning.distill import Batch, FrozenTeacher, GapEnsemble, Outputs, TeacherKD, checkpoint_teacher
from bnn_lightning.losses import attention_loss, channel_spatial_loss, soft_cross_entropy, soft_label_kl
from bnn_lightning.models import create_backbone, list_backbones
from bnn_lightning.tasks import ClassificationTask
from tests.small_networks import small_options


def network(**options):
    options = {"num_classes": 10, "in_channels": 1, "image_size": 8, "width": 4} | options
    return create_backbone(options.pop("name", "resnet20"), **options)


def twin():
    return network(binary=False)


def batch(number=6):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(number, 1, 8, 8, generator=generator)
    return Batch(images, torch.randint(10, (number,), generator=generator))


def step(distiller, student, given):
    with distiller.watch(student) as taps:
        logits = student(given.images)
    return distiller(given, Outputs(logits, taps.features, taps))


class Recorder(nn.Module):
    """Keeps what it is called with."""

    num_classes = 10

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 10)

    def forward(self, x):
        self.seen, self.mode = x, self.training
        logits = self.linear(x.mean((1, 2, 3))[:, None])
        self.dtype = logits.dtype
        return logits


def test_teacher_gives_the_networks_logits_in_evaluation_without_graph():
    net, images = twin(), batch().images
    expected = copy.deepcopy(net).eval()(images)
    state = copy.deepcopy(net.state_dict())
    exact = copy.deepcopy(net).double()  # another memory format adds in another order
    torch.testing.assert_close(FrozenTeacher(copy.deepcopy(exact))(images.double()), exact.eval()(images.double()))
    teacher = FrozenTeacher(net, channels_last=False)
    assert torch.equal(teacher(batch().images), expected)
    assert not teacher(batch().images).requires_grad
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_it_is_made_once_and_late_and_draws_no_random_numbers(monkeypatch: pytest.MonkeyPatch):
    made = []

    def make():
        made.append(1)
        return twin()

    teacher = FrozenTeacher(make)
    assert repr(teacher).startswith("FrozenTeacher(not made yet")
    assert not made
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    monkeypatch.delattr(torch.cuda, "manual_seed_all")  # generators of GPUs are left alone
    first = teacher(batch().images)
    assert torch.equal(torch.rand(4), expected)
    assert torch.equal(teacher(batch().images), first)
    assert torch.equal(FrozenTeacher(twin)(batch().images), first)  # random weights are those of one seed
    assert len(made) == 1


def test_input_size_is_its_own():
    net = Recorder()
    images = torch.rand(2, 3, 8, 8)
    FrozenTeacher(net, image_size=16)(images)
    assert torch.equal(net.seen, F.interpolate(images, (16, 16), mode="bilinear", antialias=True))
    FrozenTeacher(net, image_size=8)(images)
    assert torch.equal(net.seen, images)


@pytest.mark.parametrize("outer", [None, torch.bfloat16])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_precision_is_its_own(dtype, outer):
    net = Recorder()
    with torch.autocast("cpu", outer, enabled=outer is not None):
        FrozenTeacher(net, dtype=dtype)(torch.rand(2, 1, 8, 8))
    own = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    assert net.dtype == (own[dtype] if dtype else outer or torch.float32)


def test_it_follows_the_precision_of_the_images():
    net = Recorder()
    teacher = FrozenTeacher(net)
    for dtype in (torch.float64, torch.float32):
        assert teacher(torch.rand(2, 1, 8, 8, dtype=dtype)).dtype == dtype


def test_channels_last_changes_the_memory_only():
    expected = FrozenTeacher(twin)(batch().images)
    torch.testing.assert_close(FrozenTeacher(twin, channels_last=True)(batch().images), expected)


def test_train_copies_and_state_do_not_reach_it():
    distiller = TeacherKD(FrozenTeacher(Recorder()), 10)
    distiller.train().double()
    assert distiller.teacher(torch.rand(2, 1, 8, 8)).dtype == torch.float32
    assert distiller.teacher.network.mode is False
    assert not distiller.state_dict()
    assert not list(distiller.parameters())
    assert copy.deepcopy(distiller).teacher is distiller.teacher


@pytest.mark.parametrize(
    ("options", "message"),
    [({"dtype": "float64"}, "`dtype` must be one of"), ({"image_size": 0}, "`image_size` must be positive")],
)
def test_teachers_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FrozenTeacher(twin, **options)


def test_a_teacher_of_other_classes_is_refused_before_training():
    distiller = TeacherKD(FrozenTeacher(partial(network, num_classes=7)), 10)
    with pytest.raises(ValueError, match="teacher ResNet has num_classes=7, and the student num_classes=10"):
        distiller.prepare(network())
    with pytest.raises(ValueError, match="The teacher has 7 classes"):
        step(distiller, network(), batch())
    with pytest.raises(ValueError, match="in_channels=3, and the student in_channels=1"):
        TeacherKD(FrozenTeacher(partial(network, in_channels=3)), 10).prepare(network())


def test_a_teacher_that_cannot_take_the_images_is_refused_before_training():
    teacher = partial(network, name="mlp", image_size=6)
    message = r"The teacher MLP cannot take images of \(1, 8, 8\) \(.*\): image_size=6 resizes them"
    for distiller in (TeacherKD(FrozenTeacher(teacher), 10), GapEnsemble(FrozenTeacher(teacher), {"first": None}, 10)):
        with pytest.raises(ValueError, match=message):
            distiller.prepare(network())
    TeacherKD(FrozenTeacher(teacher, image_size=6), 10).prepare(network())


def test_a_teacher_that_was_used_fits_another_training():
    teacher = FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    assert teacher(torch.rand(2, 1, 4, 4, dtype=torch.float64)).dtype == torch.float64
    teacher.load(num_classes=3, in_channels=1, image_size=4)
    assert teacher(torch.rand(2, 1, 4, 4, dtype=torch.float64)).dtype == torch.float64


def test_maps_that_cannot_be_compared_are_refused_before_training():
    student = network().train()
    student.layer1.eval()
    with pytest.raises(ValueError, match=r"gives no feature maps"):
        TeacherKD(FrozenTeacher(partial(network, name="mlp")), 10, attention=1.0).prepare(student)
    with pytest.raises(ValueError, match="`feature` compares maps of one shape"):
        TeacherKD(FrozenTeacher(partial(network, width=8)), 10, feature=1.0).prepare(student)
    TeacherKD(FrozenTeacher(twin), 10, feature=1.0).prepare(student)
    assert student.training
    assert not student.layer1.training
    assert all(norm.num_batches_tracked == 0 for norm in student.modules() if isinstance(norm, nn.BatchNorm2d))


def test_checkpoint_teacher_needs_a_reader():
    assert isinstance(checkpoint_teacher("runs/x", load=lambda path: twin()).network, nn.Module)
    with pytest.raises(ValueError, match="`load` must say how a checkpoint is read"):
        checkpoint_teacher("runs/x")


def test_each_term_is_its_function():
    torch.manual_seed(0)
    student, teacher, given = network(), twin(), batch()
    weights = {"hard": 0.5, "soft": 0.25, "kl": 2.0, "attention": 3.0, "feature": 0.125}
    distiller = TeacherKD(FrozenTeacher(teacher), 10, temperature=2.0, label_smoothing=0.1, **weights)
    assert distiller.weights == weights
    losses = step(distiller, student, given)
    ends = ["layer1.2.act2", "layer2.2.act2", "layer3.2.act2"]
    maps = {id(net): [] for net in (student, teacher)}
    for net in (student, teacher):
        for name in ends:
            net.get_submodule(name).register_forward_hook(lambda m, a, y, net=net: maps[id(net)].append(y))
    logits, target = student(given.images), teacher(given.images)
    pairs = list(zip(maps[id(student)], maps[id(teacher)], strict=True))
    expected = {
        "hard": F.cross_entropy(logits, given.labels, label_smoothing=0.1),
        "soft": soft_cross_entropy(logits, target, 2.0),
        "kl": soft_label_kl(logits, target, 2.0),
        "attention": sum(attention_loss(s, t) for s, t in pairs) / 3,
        "feature": sum(channel_spatial_loss(s, t, "per_sample") for s, t in pairs) / 3,
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value)
    torch.testing.assert_close(distiller.total(losses), sum(weights[k] * v for k, v in expected.items()))
    distiller.total(losses).backward()
    assert all(p.grad is not None for p in student.parameters())
    assert not any(module._forward_hooks for module in teacher.modules() if not isinstance(module, nn.Hardtanh))


@pytest.mark.parametrize("name", [name for name in list_backbones() if name != "mlp"])
def test_the_float_twin_of_every_network_teaches_by_its_maps(name):
    torch.manual_seed(0)
    shapes = {"name": name, "in_channels": 3, "image_size": 64, **small_options(name, width=8)}
    student, teacher = network(**shapes), FrozenTeacher(partial(network, **shapes, binary=False))
    distiller = TeacherKD(teacher, 10, hard=0.5, attention=1.0, feature=1.0)
    distiller.prepare(student)
    losses = step(distiller, student, Batch(torch.rand(4, 3, 64, 64), torch.arange(4)))
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())
    distiller.total(losses).backward()
    taps = student.feature_taps()
    reached = student.get_submodule(taps[-1].rpartition(".")[0] or taps[-1]).parameters()
    assert all(p.grad is not None for p in reached if p.requires_grad)


def test_a_batch_in_parts_is_the_batch():
    """Every term is a mean over samples, so that data parallelism changes none."""
    student, given = network().double().eval(), batch(6)
    given = given._replace(images=given.images.double())
    weights = {"hard": 0.5, "soft": 0.25, "kl": 2.0, "attention": 3.0, "feature": 0.125}
    distiller = TeacherKD(FrozenTeacher(twin), 10, temperature=2.0, **weights)
    whole = step(distiller, student, given)
    parts = [step(distiller, student, Batch(given.images[i : i + 3], given.labels[i : i + 3])) for i in (0, 3)]
    for name, loss in whole.items():
        torch.testing.assert_close((parts[0][name] + parts[1][name]) / 2, loss, rtol=1e-12, atol=1e-12)


def test_taps_by_name():
    student, teacher, given = network(), twin(), batch()
    names = {"student_taps": ["layer2.0.act1"], "teacher_taps": ["layer1.0.act1"]}
    distiller = TeacherKD(FrozenTeacher(teacher), 10, soft=0.0, attention=1.0, **names)
    distiller.prepare(student)
    (loss,) = step(distiller, student, given).values()
    assert loss > 0
    wrong = TeacherKD(FrozenTeacher(teacher), 10, attention=1.0, student_taps=["layer9"])
    with pytest.raises(ValueError, match="ResNet has no module `layer9`"):
        wrong.prepare(student)


def test_weight_zero_is_no_work(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("called")

    student, given = network(), batch()
    for name in ("soft_label_kl", "attention_loss", "channel_spatial_loss", "record_maps"):
        monkeypatch.setattr(f"bnn_lightning.distill.teacher_kd.{name}", fail)
    monkeypatch.setattr(F, "cross_entropy", fail)
    assert list(step(TeacherKD(FrozenTeacher(twin), 10), student, given)) == ["soft"]
    monkeypatch.undo()
    alone = TeacherKD(FrozenTeacher(fail), 10, soft=0.0, hard=1.0)
    alone.prepare(student)
    assert list(step(alone, student, given)) == ["hard"]


def test_evaluation_asks_no_teacher():
    distiller = TeacherKD(FrozenTeacher(lambda: 1 / 0), 10, attention=1.0).eval()
    losses = step(distiller, network().eval(), batch())
    assert list(losses) == ["hard"]
    assert distiller.total(losses) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soft": -1.0}, "`soft` must not be negative"),
        ({"soft": 0.0}, "One of `hard`, `soft`, .* must be positive"),
        ({"temperature": 0.0}, "`temperature` must be positive"),
        ({"attention_scale": "l1"}, "`attention_scale` must be one of"),
        ({"label_smoothing": 2.0}, "`label_smoothing` must lie"),
    ],
)
def test_distillers_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TeacherKD(FrozenTeacher(twin), 10, **options)


def test_maps_that_cannot_be_compared():
    with pytest.raises(ValueError, match=r"The teacher gives no feature maps .* \(`teacher_taps`\)"):
        step(TeacherKD(FrozenTeacher(partial(network, name="mlp")), 10, attention=1.0), network(), batch())
    wide = TeacherKD(FrozenTeacher(partial(network, width=8)), 10, feature=1.0)
    with pytest.raises(ValueError, match="`feature` compares maps of one shape"):
        step(wide, network(), batch())
    with pytest.raises(ValueError, match="Recorder does not declare `feature_taps`"):
        TeacherKD(FrozenTeacher(Recorder()), 10, attention=1.0).prepare(network())


def test_a_compiled_student_is_watched_as_written():
    student = network()
    expected = step(TeacherKD(FrozenTeacher(twin), 10, attention=1.0), student, batch())
    student.compile(backend="eager")
    compiled = step(TeacherKD(FrozenTeacher(twin, compile=True), 10, attention=1.0), student, batch())
    torch.testing.assert_close(compiled, expected)
    assert student._compiled_call_impl is not None


def test_checkpoints_and_averages_hold_no_teacher(tmp_path: Path):
    """A run with averaged weights, which copy the whole task: no tensor of the teacher is saved, and it is shared."""
    made = []

    def make():
        made.append(network(width=6, binary=False))
        return made[-1]

    distiller = TeacherKD(FrozenTeacher(make), 10, hard=0.5, attention=1.0)
    optimizer = partial(torch.optim.SGD, lr=0.1)
    task = ClassificationTask(network(), num_classes=10, optimizer=optimizer, distiller=distiller)
    trainer = Trainer(
        max_epochs=1,
        limit_train_batches=3,
        limit_val_batches=1,
        accelerator="cpu",
        callbacks=[EMAWeightAveraging(decay=0.5, use_buffers=False)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    trainer.fit(task, datamodule=DigitsDataModule(batch_size=16, image_size=8))
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    checkpoint = torch.load(tmp_path / "x.ckpt", weights_only=True)
    (teacher,) = made
    pointers = {tensor.data_ptr() for tensor in teacher.state_dict().values()}
    for tensors in (checkpoint["state_dict"], checkpoint["current_model_state"], task.state_dict()):
        assert not [name for name in tensors if not name.startswith(("backbone.", "train_means."))]
        assert not pointers & {tensor.data_ptr() for tensor in tensors.values()}
        assert {tensor.shape for name, tensor in tensors.items() if name.startswith("backbone.linear")} == {
            (10, 16),
            (10,),
        }
    assert set(trainer.callback_metrics) >= {"train/loss_hard", "train/loss_soft", "train/loss_attention"}
    assert not any(p.grad is not None for p in teacher.parameters())
