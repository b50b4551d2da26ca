"""A package of somebody else's, with a YAML of three lines a class, does all that ours do, from its own folder."""

import contextlib
import csv
import io
import logging
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from bnn_lightning.cli import main
from bnn_lightning.deploy.runtime.network import load
from bnn_lightning.workflows.config_folder import targets_of

Bnn = Callable[..., Any]

FILES = {
    "model/tiny": "_target_: outside.tiny\nwidth: 16\n",
    "model/narrow": "_target_: outside.tiny\nname: narrow\nwidth: 4\n",
    "data/stripes": "_target_: outside.Stripes\nbatch_size: 16\n",
    "distill/confident": "_target_: outside.Confident\nweight: 0.1\n",
}
QUIET = ("trainer.accelerator=cpu", "trainer.enable_progress_bar=false")
CHOSEN = ("-cd", "conf", "model=tiny", "data=stripes", "distill=confident", "epochs=2", *QUIET)


def write_package(folder: Path) -> Path:
    shutil.copyfile(Path(__file__).with_name("outside_package.py"), folder / "outside.py")
    for name, text in FILES.items():
        file = folder / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.fixture(scope="module")
def trained_outside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, bool]:
    """A folder with the package and a run in runs/a, what the run printed, and whether the folder was seen last."""
    folder, out = write_package(tmp_path_factory.mktemp("outside")), io.StringIO()
    handlers = list(logging.root.handlers)
    with contextlib.chdir(folder), contextlib.redirect_stdout(out):
        main.main(["train", *CHOSEN, "hydra.run.dir=runs/a"])
    logging.root.handlers[:] = handlers
    return folder, out.getvalue(), sys.modules.pop("outside").FOUND_LAST


@pytest.fixture
def package(trained_outside: Any, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand in a copy of the folder."""
    shutil.copytree(trained_outside[0], workplace, dirs_exist_ok=True)
    yield workplace
    sys.modules.pop("outside", None)


def config_of(file: Path) -> dict[str, Any]:
    config: dict[str, Any] = torch.load(file, weights_only=True)["bnn_lightning_config"]
    return config


def test_it_trains_with_facts_that_are_stated_once(trained_outside: Any) -> None:
    folder, _, found_last = trained_outside
    config = config_of(folder / "runs/a/checkpoints/final.ckpt")
    facts = {"num_classes": 3, "in_channels": 1, "image_size": 8}
    assert facts.items() <= config["data"].items()
    assert config["model"] == {"_target_": "outside.tiny", "name": "tiny", "width": 16, **facts}
    assert config["distill"] == {"_target_": "outside.Confident", "weight": 0.1, "num_classes": 3}
    assert config["name"] == "tiny_Stripes"
    (curve,) = (folder / "runs/a").rglob("metrics.csv")
    assert "train/loss_small" in curve.read_text()
    assert found_last
    assert str(folder) not in sys.path


def test_the_commands_that_it_prints_can_be_pasted(trained_outside: Any, package: Path, bnn: Bnn) -> None:
    lines = trained_outside[1].split("next:\n")[1].strip().splitlines()
    commands = [shlex.split(line) for line in lines]
    assert [words[words.index("-cd") + 1] for words in commands] == ["conf", "conf"]
    for words in commands:
        verb = next(word for word in ("evaluate", "train") if word in words)
        done = bnn(*words[words.index(verb) :], "trainer.accelerator=cpu")
        assert done.code == 0, done.err


def test_it_resumes(package: Path, bnn: Bnn) -> None:
    words = [word if word != "epochs=2" else "epochs=3" for word in CHOSEN]
    done = bnn("train", *words, "ckpt_path=runs/a", "hydra.run.dir=runs/b")
    assert done.code == 0, done.err
    assert torch.load(package / "runs/b/checkpoints/last.ckpt", weights_only=True)["epoch"] == 2  # the third


def test_a_name_is_for_us_and_not_for_the_builder(package: Path, bnn: Bnn) -> None:
    done = bnn("train", "-cd", "conf", "model=narrow", "data=stripes", "epochs=1", "test=false", *QUIET)
    assert done.code == 0, done.err
    (file,) = package.glob("runs/narrow_Stripes/*/checkpoints/final.ckpt")
    assert config_of(file)["model"]["width"] == 4


def test_it_is_evaluated_exported_profiled_and_reported(package: Path, bnn: Bnn) -> None:
    for words in (
        ("evaluate", "ckpt=runs/a", "trainer.accelerator=cpu"),
        ("evaluate", "ckpt=runs/a", "data=stripes", "trainer.accelerator=cpu"),
        ("export", "ckpt=runs/a", "out=a.bnn"),
        ("evaluate", "packed=a.bnn"),
        ("profile", "ckpt=runs/a"),
        ("profile", "model=tiny", "data=stripes"),
        ("report", "run=runs/a", "latency=false"),
    ):
        done = bnn(words[0], "-cd", "conf", *words[1:])
        assert done.code == 0, (words, done.err)
    assert (package / "a.bnn").is_file()
    assert (package / "runs/a/report.html").is_file()


def test_a_published_file_of_it_is_evaluated(package: Path, bnn: Bnn) -> None:
    state = torch.load(package / "runs/a/checkpoints/final.ckpt", weights_only=True)["state_dict"]
    own = {n.removeprefix("backbone."): value for n, value in state.items() if n.startswith("backbone.")}
    torch.save({"state_dict": own}, package / "published.pth")
    words = ("ckpt=published.pth", "model=tiny", "data=stripes", "trainer.accelerator=cpu")
    done = bnn("evaluate", "-cd", "conf", *words)
    assert done.code == 0, done.err
    assert "images: 48" in done.out


def test_without_the_folder_its_checkpoint_is_refused_with_the_command(package: Path, bnn: Bnn) -> None:
    refused = bnn("evaluate", "ckpt=runs/a", "trainer.accelerator=cpu")
    assert refused.code == 2
    assert "outside" not in sys.modules
    command = shlex.split(next(line for line in refused.err.splitlines() if "-cd" in line and line.startswith("  ")))
    done = bnn(*command[command.index("evaluate") :])
    assert done.code == 0, done.err


def test_so_is_a_checkpoint_of_our_network_that_has_seen_its_data(package: Path, bnn: Bnn) -> None:
    words = ("model=mlp", "model.width=8", "data=stripes", "epochs=1", "-cd", "conf", "test=false", *QUIET)
    done = bnn("train", *words, "hydra.run.dir=runs/ours")  # flags may stand between the keys
    assert done.code == 0, done.err
    for words in (("evaluate", "ckpt=runs/ours", "trainer.accelerator=cpu"), ("evaluate", "packed=a.bnn")):
        if words[1] == "packed=a.bnn":
            assert bnn("export", "-cd", "conf", "ckpt=runs/ours", "out=a.bnn").code == 0
        refused = bnn(*words)
        assert refused.code == 2
        command = next(line for line in refused.err.splitlines() if "-cd" in line and line.startswith("  "))
        assert bnn(*shlex.split(command)[shlex.split(command).index("evaluate") :]).code == 0


def test_trust_is_for_checkpoints_alone(package: Path, bnn: Bnn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(package)
    words = ("trust=[outside]", "trainer.accelerator=cpu")
    assert bnn("evaluate", "ckpt=runs/a", *words).code == 0
    refused = bnn("train", "data=digits", "model._target_=outside.tiny", *words)
    assert refused.code == 2
    assert "-cd" in refused.err


def test_of_libraries_only_what_is_named_is_trusted(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a:\n  - {_target_: outside.x}\n  - b: {_target_: torch.nn.Linear}\n")
    (tmp_path / "b.yaml").write_text("_target_: bnn_lightning.data.MixupCutmix\nc: {_target_: outside.y}\n")
    assert targets_of(tmp_path) == ["outside", "torch.nn.Linear"]


def test_its_options_are_listed_and_shown(package: Path, bnn: Bnn) -> None:
    listed = bnn("conf", "ls", "-cd", "conf", "model")
    assert {"tiny", "narrow", "resnet20"} <= {line.split()[0] for line in listed.out.splitlines() if line}
    assert bnn("conf", "show", "-cd", "conf", "model/tiny").out == FILES["model/tiny"]
    shown = yaml.safe_load(bnn("conf", "show", "-cd", "conf", "model=tiny", "data=stripes").out)
    assert shown["model"] == {"_target_": "outside.tiny", "width": 16}


@pytest.mark.parametrize("words", [("train",), ("conf", "ls"), ("evaluate",)])
def test_an_option_of_the_name_of_ours_is_refused(words: tuple[str, ...], package: Path, bnn: Bnn) -> None:
    (package / "conf/model/mlp.yaml").write_text("_target_: outside.tiny\nwidth: 2\n")
    done = bnn(*words, "-cd", "conf")
    assert done.code == 2
    assert "conf/model/mlp.yaml" in done.err
    assert "my_mlp" in done.err


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("num_classes, in_channels, image_size = 3, 1, 8", "num_classes"),
        ("num_classes, in_channels, image_size = 3, 1, 8\n    num_classes = 4", "`data.num_classes`"),
    ],
)
def test_facts_that_nobody_states_or_that_differ_are_one_error(line: str, named: str, package: Path, bnn: Bnn) -> None:
    text = (package / "outside.py").read_text()
    changed = line if line.endswith("4") else "in_channels, image_size = 1, 8"
    (package / "outside.py").write_text(text.replace("num_classes, in_channels, image_size = 3, 1, 8", changed))
    more = ["+data.num_classes=3"] if line.endswith("4") else []
    done = bnn("train", *CHOSEN, *more)
    assert done.code == 2
    assert named in done.err


@pytest.mark.parametrize(
    ("file", "content", "named"),
    [
        ("model/broken", b"_target_: outside.tiny\n  width: 16\n", "conf/model/broken.yaml`, line 2"),
        ("model/broken", b"\xff\xfe", "conf/model/broken.yaml"),
        ("model/broken", b"- a\n", "conf/model/broken.yaml"),
        ("model/tiny", b"width: 16\n", "`model` has no `_target_`"),
        ("model/tiny", b"", "`model` has no `_target_`"),
        ("data/stripes", b"batch_size: 16\n", "`data` has no `_target_`"),
    ],
)
def test_files_that_cannot_be_used_are_one_error(
    file: str, content: bytes, named: str, package: Path, bnn: Bnn
) -> None:
    (package / "conf" / f"{file}.yaml").write_bytes(content)
    done = bnn("train", *CHOSEN)
    assert done.code == 2
    assert named in done.err
    assert "Traceback" not in done.err


def test_records_of_runs_in_the_folder_are_not_trusted(tmp_path: Path) -> None:
    (tmp_path / "runs/a/.hydra").mkdir(parents=True)
    (tmp_path / "runs/a/.hydra/config.yaml").write_text("_target_: foreign.thing\n")
    assert targets_of(tmp_path) == []


def test_a_network_that_is_only_a_module_is_its_own_teacher_and_exported(
    package: Path, bnn: Bnn, recwarn: pytest.WarningsRecorder
) -> None:
    (package / "conf/model/bare.yaml").write_text("_target_: outside.Bare\n")
    chosen = ("-cd", "conf", "model=bare", "data=stripes", "distill=skd", "epochs=1", *QUIET)
    done = bnn("train", *chosen, "hydra.run.dir=runs/bare")
    assert done.code == 0, done.err
    assert not [w for w in recwarn if "val_dataloader" in str(w.message)]  # it has no held-out images
    (curve,) = (package / "runs/bare").rglob("metrics.csv")
    rows = list(csv.DictReader(curve.read_text().splitlines()))
    for name in ("train/loss_feature", "train/loss_cluster"):
        assert max(float(row[name] or 0) for row in rows) > 0
    done = bnn("export", "-cd", "conf", "ckpt=runs/bare", "out=bare.bnn")
    assert done.code == 0, done.err
    assert done.out.count("`resize=`") == 1  # its data module does not say how pictures are prepared
    assert "next:" not in done.out
    assert load(package / "bare.bnn").info.shape == (1, 8, 8)


def test_a_recipe_in_a_search_path_is_not_taken_by_half(package: Path, bnn: Bnn) -> None:
    (package / "more/recipe").mkdir(parents=True)
    (package / "more/recipe/tiny_stripes.yaml").write_text("# @package _global_\nepochs: 3\n")
    done = bnn("train", *CHOSEN[:-3], *QUIET, f"hydra.searchpath=[file://{package}/more]")
    assert done.code == 2
    assert "-cd" in done.err


@pytest.mark.parametrize("copied", ["model/resnet20", "data/cifar10"])
def test_a_copy_keeps_the_recipe(copied: str, bnn: Bnn, workplace: Path) -> None:
    assert bnn("conf", "cp", copied, "mine").code == 0
    pair = {"model": "resnet20", "data": "cifar10"}
    group, _, name = copied.partition("/")
    words = [f"{key}={value}" for key, value in (pair | {group: f"my_{name}"}).items()]
    shown = yaml.safe_load(bnn("conf", "show", "-cd", "mine", *words).out)
    assert (shown["epochs"], shown["published"]["top1"], "bank_mode" in shown["distill"]) == (700, 87.2, True)


@pytest.mark.slow
def test_two_processes(workplace: Path, process: Callable[..., Any]) -> None:
    write_package(workplace)
    words = ("trainer.devices=2", "strategy=ddp", "hydra.run.dir=runs/two")
    (workplace / "start").mkdir()
    (workplace / "start/bnn.py").write_text("from bnn_lightning.cli.main import main\n\nmain()\n")
    done = process("start/bnn.py", "train", *CHOSEN, *words)  # as the installed command: its folder is on the path
    assert done.code == 0, done.err
    assert (workplace / "runs/two/checkpoints/final.ckpt").is_file()
