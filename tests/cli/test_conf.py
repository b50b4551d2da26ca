from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from bnn_lightning.cli.config_paths import config_dir, list_options

Bnn = Callable[..., Any]


def test_ls_shows_every_option_with_its_description(bnn: Bnn) -> None:
    done = bnn("conf", "ls")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines() if line]
    groups = {line[0] for line in lines if len(line) == 1}
    assert {"model", "data", "distill", "experiment", "lr_scheduler"} <= groups
    for name in list_options("experiment"):
        assert any(line[0] == name and len(line) > 3 for line in lines)
    assert "_backbone" not in done.out


def test_ls_of_one_group(bnn: Bnn) -> None:
    done = bnn("conf", "ls", "distill")
    assert [line.split()[0] for line in done.out.splitlines() if line] == ["distill", *list_options("distill")]


def test_ls_of_an_unknown_group(bnn: Bnn) -> None:
    done = bnn("conf", "ls", "modle")
    assert done.code == 2
    assert "Did you mean `model`?" in done.err


def test_show_an_option(bnn: Bnn) -> None:
    assert bnn("conf", "show", "model/mlp").out == (config_dir() / "model" / "mlp.yaml").read_text()


def test_show_what_would_run(bnn: Bnn) -> None:
    shown = yaml.safe_load(bnn("conf", "show", "experiment=mnist_mlp_skd", "seed=4").out)
    assert (shown["name"], shown["seed"], shown["model"]["width"]) == ("mnist_mlp_skd", 4, 6144)


def test_show_an_unknown_option(bnn: Bnn) -> None:
    done = bnn("conf", "show", "model/resnt20")
    assert done.code == 2
    assert "Did you mean `model/resnet20`?" in done.err


def test_a_copied_option_is_taken(bnn: Bnn, workplace: Path, small: tuple[str, ...]) -> None:
    done = bnn("conf", "cp", "model/mlp", "mine")
    assert done.code == 0
    assert done.out.splitlines()[-1] == "Change it, then: bnn train -cd mine model=my_mlp"
    copy = workplace / "mine" / "model" / "my_mlp.yaml"
    copy.write_text(copy.read_text().replace("width: 2048", "width: 24"))
    words = [word for word in small if not word.startswith("model")]
    shown = yaml.safe_load(bnn("train", "-cd", "mine", *words, "model=my_mlp", "--cfg", "job").out)
    assert shown["model"]["width"] == 24
    assert shown["optimizer"]["_target_"] == "torch.optim.Adam"
    assert bnn("train", "-cd", "mine", *words, "model=my_mlp", "debug=fast").code == 0


def test_a_copy_is_not_overwritten(bnn: Bnn) -> None:
    assert bnn("conf", "cp", "model/mlp", "mine").code == 0
    done = bnn("conf", "cp", "model/mlp", "mine")
    assert done.code == 2
    assert "exists already" in done.err


def test_nothing_outside_of_the_tree_is_shown(bnn: Bnn) -> None:
    (Path("secret.yaml")).write_text("a: 1\n")
    done = bnn("conf", "show", str(Path("secret.yaml").resolve()))
    assert done.code == 2
