"""A teacher of ours, end to end: trained, taught from, resumed, and not needed afterwards."""

import csv
import re
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bnn_lightning
from bnn_lightning.binarizers import binarizer_factory
from bnn_lightning.distill import FrozenTeacher, GapEnsemble
from bnn_lightning.models import create_backbone
from bnn_lightning.workflows.building import build
from bnn_lightning.workflows.checkpoint import load_backbone
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.resumption import _load_stage

Bnn = Callable[..., Any]
Composed = Callable[..., dict[str, Any]]

QUIET = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false")
DIGITS = ("data=digits", "data.image_size=8", "model=resnet20", "model.width=4", "recipe=none", *QUIET)


def weights(folder: Path, name: str = "final") -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def curves(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    (path,) = folder.rglob("metrics.csv")
    with path.open() as file:
        reader = csv.DictReader(file)
        return list(reader.fieldnames or []), list(reader)


def test_from_a_float_twin_to_a_binary_student(bnn: Bnn, workplace: Path) -> None:
    done = bnn("train", *DIGITS, "model.binary=false", "epochs=2", "hydra.run.dir=runs/teacher")
    assert done.code == 0, done.err
    teacher_state = weights(workplace / "runs/teacher")
    words = (
        *DIGITS,
        "distill=teacher",
        "distill.hard=0.5",
        "distill.attention=1.0",
        "distill.teacher.ckpt=runs/teacher",
    )
    done = bnn("train", *words, "epochs=2", "hydra.run.dir=runs/whole")
    assert done.code == 0, done.err
    whole = weights(workplace / "runs/whole")
    assert not [name for name in whole if not name.startswith(("backbone.", "train_means."))]
    assert all(torch.equal(tensor, teacher_state[name]) for name, tensor in weights(workplace / "runs/teacher").items())
    header, _ = curves(workplace / "runs/whole")
    assert {"train/loss_hard", "train/loss_soft", "train/loss_attention"} <= set(header)

    # Stopped after an epoch and resumed, it is the same to the bit.
    done = bnn("train", *words, "epochs=2", "trainer.max_epochs=1", "test=false", "hydra.run.dir=runs/stopped")
    assert done.code == 0, done.err
    done = bnn("train", *words, "epochs=2", "ckpt_path=runs/stopped", "hydra.run.dir=runs/resumed")
    assert done.code == 0, done.err
    resumed = weights(workplace / "runs/resumed")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())

    # Without its teacher the student is scored and loaded, and nothing but training asks for it.
    shutil.rmtree(workplace / "runs/teacher")
    done = bnn("evaluate", "ckpt=runs/whole/checkpoints/final.ckpt", QUIET[1])
    assert done.code == 0, done.err
    assert "top-1" in done.out
    task = bnn_lightning.load_task("runs/whole/checkpoints/final.ckpt")
    assert task.distiller.teacher._network is None
    done = bnn("train", *words, "epochs=2")
    assert done.code == 2
    assert "`distill`: `runs/teacher`: no such file" in done.err


CONSECUTIVE = ("distill=ensemble", "teacher@distill.assistants.second=checkpoint")


def test_assistants_take_turns(bnn: Bnn, workplace: Path, trained: Any) -> None:
    small = ("data=synthetic", "data.image_size=8", "data.num_train=64", "data.num_test=24", "data.batch_size=16")
    ckpts = [f"distill.{where}.ckpt={trained.folder}" for where in ("main", "assistants.first", "assistants.second")]
    words = (*small, "model=mlp", "model.width=8", *CONSECUTIVE, *ckpts, *QUIET, "test=false")
    done = bnn("train", *words, "epochs=2", "hydra.run.dir=runs/x")
    assert done.code == 0, done.err
    header, rows = curves(workplace / "runs/x")
    alphas = [float(row["train/alpha"]) for row in rows if row["train/alpha"]]
    assert alphas == [pytest.approx(0.5)] * 2  # both teachers are the same network
    assert "train/loss_hard" not in header
    short = "second of the 2 assistants has no turn"
    with pytest.warns(UserWarning, match=short):
        assert bnn("train", *words, "epochs=1").code == 0
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=f".*{short}")
        assert bnn("train", *words, "epochs=1", "task.progress_interval=step").code == 0


@pytest.mark.slow
def test_two_processes_share_the_teachers_work(
    trained: Any, small: tuple[str, ...], process: Callable[..., Any], workplace: Path
) -> None:
    """Each rank asks its own copy of the teachers; what is logged is over all ranks."""
    ckpts = [f"distill.{where}.ckpt={trained.folder}" for where in ("main", "assistants.first")]
    words = (*small, "distill=ensemble", *ckpts, "trainer.devices=2", "hydra.run.dir=runs/x")
    done = process("-m", "bnn_lightning.cli.main", "train", *words)
    assert done.code == 0, done.err[-3000:]
    _, rows = curves(workplace / "runs/x")
    assert [float(row["train/alpha"]) for row in rows if row["train/alpha"]] == [pytest.approx(0.5)] * 2
    assert not [name for name in weights(workplace / "runs/x") if name.startswith("distiller")]


RESNET34 = "teacher@distill.teacher=torchvision distill.teacher.network.name=resnet34"
OURS = "teacher@distill.teacher=model"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("distill=teacher", "`distill.teacher.ckpt` has no value: give `distill.teacher.ckpt=...`"),
        ("distill=teacher distill.teacher.ckpt=nowhere", "`distill`: `nowhere`: no such file"),
        (f"distill=teacher {RESNET34}", "know 1000 classes, and `num_classes` is 10"),
        (f"distill=teacher {RESNET34}", "(distill.teacher.network.weights=<path>)"),
        (
            "distill=teacher teacher@distill.teacher=torchvison",
            "`teacher=torchvison`: no such option. Did you mean `torchvision`",
        ),
        ("distill=teacher teacher@distill.teacher=torchvision", "`distill.teacher.network.name` has no value"),
        ("distill=teacher distill.teacher.ckpt=TRAINED data.num_classes=7", "has num_classes=10, and the student"),
        ("distill=teacher distill.teacher.ckpt=TRAINED distill.soft=-1", "`soft` must not be negative"),
        ("distill=teacher distill.teacher.ckpt=TRAINED distill.attention=1 distill.teacher_taps=[x]", "no module `x`"),
        (f"distill=teacher {OURS} distill.teacher.network.name=mlp distill.teacher.weights=x.th", "is not a file"),
    ],
)
def test_one_clear_message_before_training(
    words: str, message: str, trained: Any, small: tuple[str, ...], bnn: Bnn
) -> None:
    done = bnn("train", *small, *words.replace("TRAINED", str(trained.folder)).split())
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err


def test_the_next_command_leaves_the_teacher_out(trained: Any, small: tuple[str, ...], bnn: Bnn) -> None:
    words = ("distill=teacher", "teacher@distill.teacher=checkpoint", f"distill.teacher.ckpt={trained.folder}")
    done = bnn("train", *small, *words, "epochs=1", "hydra.run.dir=runs/x")
    assert done.code == 0, done.err
    (line,) = re.findall(r"^  .*train .*distill=none.*$", done.out, flags=re.M)
    assert "teacher" not in line


def test_network_of_a_run(trained: Any) -> None:
    state = {k.removeprefix("backbone."): v for k, v in weights(trained.folder).items() if k.startswith("backbone.")}
    for path in (trained.folder, trained.final, trained.final.parent):
        network = load_backbone(path)
        assert not network.training
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


# Specification: the main teacher, and the assistants from weak to strong.
BNEXT = {
    "bnext_tiny": ("efficientnet_b2", ["efficientnet_b0"]),
    "bnext_middle": ("efficientnet_b4", ["efficientnet_b0", "efficientnet_b2"]),
    "bnext_large": ("convnext_tiny", ["efficientnet_b0", "efficientnet_b4", "convnext_tiny"]),
}


@pytest.mark.parametrize("name", BNEXT)
def test_ensembles_of_bnext(name: str, composed: Composed) -> None:
    main, assistants = BNEXT[name]
    node = composed("data=imagenet", "model=resnet18_double_skip", f"distill={name}")["distill"]
    assert (node["weighting"], node["scale"], node["soft"], node["hard"]) == ("per_sample", 0.5, 1.0, 0.0)
    assert node["main"]["network"]["name"] == main
    assert list(node["assistants"]) == assistants
    for key, teacher in node["assistants"].items():
        assert (teacher["network"]["name"] if teacher else main) == key
    teachers = [node["main"], *filter(None, node["assistants"].values())]
    assert {teacher["dtype"] for teacher in teachers} == {"float16"}
    assert {teacher["network"]["pretrained"] for teacher in teachers} == {True}
    distiller = build(node, at="distill")
    assert isinstance(distiller, GapEnsemble)
    assert all(isinstance(teacher, FrozenTeacher) for teacher in filter(None, distiller.assistants.values()))


def test_distillation_of_reactnet_and_real2binary(composed: Composed) -> None:
    imagenet = ("data=imagenet", "model=resnet18_double_skip")
    node = composed(*imagenet, "distill=reactnet")["distill"]
    assert (node["hard"], node["soft"], node["kl"], node["temperature"]) == (0.0, 1.0, 0.0, 1.0)
    assert node["teacher"]["network"]["name"] == "resnet34"
    node = composed(*imagenet, "distill=real2binary", "distill.teacher.ckpt=x")["distill"]
    assert (node["hard"], node["soft"], node["kl"], node["attention"]) == (1.0, 0.0, 3.0, 30.0)


def test_the_recipe_of_cifar10_on_cpus(composed: Composed) -> None:
    teacher, student = (f"experiment=cifar10_resnet20_{name}" for name in ("float_cpu", "cpu"))
    config = composed(teacher)
    assert (config["model"]["binary"], config["epochs"], config["data"]["val_fraction"]) == (False, 60, 0.1)
    assert (config["optimizer"]["nesterov"], config["param_groups"]["weight_decay"]) == (True, 5e-4)
    config = composed(student, "distill.teacher.ckpt=x")
    assert (config["model"]["binary"], config["epochs"], config["data"]["val_fraction"]) == (True, 200, 0.0)
    node = config["distill"]
    assert (node["hard"], node["soft"], node["kl"], node["temperature"]) == (0.0, 0.0, 1.0, 4.0)


def test_stages_are_linked_by_init_from_which_says_what_it_loads(bnn: Bnn, workplace: Path) -> None:
    """Real weights under binary activations first, then both binary: all tensors but those of binarizers must fit."""
    words = (*DIGITS, "epochs=1", "test=false", "data.batch_size=512", "binarizer@model.input_binarizer=rsign")
    first = bnn("train", *words, "model.binary=activations", "hydra.run.dir=runs/first")
    assert first.code == 0, first.err
    done = bnn("train", *words, "init_from=runs/first", "hydra.run.dir=runs/second")
    assert done.code == 0, done.err
    assert "Starting from the weights of runs/first/checkpoints/final.ckpt. Tensors of binarizers that keep" in done.out
    assert "layer1.0.conv1.weight_binarizer.t, " in done.out
    assert "are not used" not in done.out
    back = bnn("train", *words, "model.binary=false", "init_from=runs/second", "hydra.run.dir=runs/third")
    assert back.code == 0, back.err
    assert "of the file are not used: " in back.out
    wider = bnn("train", *words, "model.width=8", "init_from=runs/first")
    assert wider.code == 2
    assert "Of another shape: conv1.weight (file (4, 1, 3, 3), network (8, 1, 3, 3))" in wider.err


def test_a_stage_takes_every_tensor_of_the_one_before() -> None:
    shapes = {"num_classes": 10, "in_channels": 1, "image_size": 8, "width": 4}
    binarizers = {"input_binarizer": binarizer_factory("RSign")}
    before = create_backbone("resnet20", **shapes, **binarizers, binary="activations")
    after = create_backbone("resnet20", **shapes, **binarizers)
    state = {name: torch.rand_like(t) if t.is_floating_point() else t for name, t in before.state_dict().items()}
    _load_stage(after, dict(state), Path("x.ckpt"))
    loaded = after.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    del state["layer1.0.bn1.weight"]
    with pytest.raises(UserError, match=r"Missing in the file: layer1\.0\.bn1\.weight"):
        _load_stage(after, state, Path("x.ckpt"))
