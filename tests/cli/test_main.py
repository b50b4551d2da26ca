import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import bnn_lightning
from bnn_lightning.cli.config_paths import list_options
from bnn_lightning.cli.main import VERBS

Bnn = Callable[..., Any]
Process = Callable[..., Any]
ROOT = Path(__file__).parents[2]

WITHOUT_TORCH = """
import sys
from bnn_lightning.cli.main import main
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit as exit:
        assert not exit.code, (words, exit.code)
    heavy = {"torch", "pytorch_lightning", "torchvision", "wandb"} & set(sys.modules)
    assert not heavy, (words, heavy)
    print("\\0")
"""


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_help_names_every_verb(words: tuple[str, ...], bnn: Bnn) -> None:
    done = bnn(*words)
    assert done.code == 0
    for verb in ("train", "evaluate", "profile", "rank", "conf"):
        assert f"    {verb} " in done.out


def test_version(bnn: Bnn) -> None:
    assert bnn("--version").out == f"bnn-lightning {bnn_lightning.__version__}\n"


@pytest.mark.parametrize(
    "word, hint", [("trian", "Did you mean `train`?"), ("model=mlp", "bnn train model=mlp"), ("-m", "bnn train -m")]
)
def test_unknown_verb(word: str, hint: str, bnn: Bnn) -> None:
    done = bnn(word)
    assert done.code == 2
    assert hint in done.err
    assert f"There are: {', '.join(VERBS)}." in done.err


def test_help_and_configurations_come_without_torch(process: Process) -> None:
    commands = [
        "train --help",
        "train model=mlp --cfg job",
        "evaluate --help",
        "profile --help",
        "rank --help",
        "visualize",
        "visualize landscape --help",
        "conf ls",
        "conf show distill=skd",
        "--help",
    ]
    done = process("-c", WITHOUT_TORCH, *commands)
    assert done.code == 0, done.err
    *printed, rest = done.out.split("\0\n")
    assert len(printed) == len(commands)
    assert all(text.strip() for text in printed)
    assert not rest


def test_train_and_train_py_compose_the_same(bnn: Bnn, process: Process) -> None:
    ours = bnn("train", "model=mlp", "seed=3", "--cfg", "job")
    script = process(str(ROOT / "train.py"), "model=mlp", "seed=3", "--cfg", "job")
    assert ours.code == script.code == 0
    assert yaml.safe_load(ours.out) == yaml.safe_load(script.out)
    assert yaml.safe_load(ours.out)["seed"] == 3


def test_help_shows_groups_and_examples(bnn: Bnn) -> None:
    done = bnn("train", "--help")
    assert done.code == 0
    models = ", ".join(list_options("model"))
    assert f"model: {models}" in done.out
    assert "bnn train ckpt_path=last" in done.out


def test_module_can_be_run() -> None:
    done = subprocess.run([sys.executable, "-m", "bnn_lightning.cli.main", "--version"], capture_output=True, text=True)
    assert done.stdout.startswith("bnn-lightning ")
