"""`bnn visualize`: which picture, where it is written, and what cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnn_lightning.cli.visualize import kind_of
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds import KINDS
from bnn_lightning.workflows.figure_kinds.base import place_of, run_names, several

Bnn = Callable[..., Any]


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_lists_every_picture_with_a_line(words: tuple[str, ...], bnn: Bnn) -> None:
    done = bnn("visualize", *words)
    assert done.code == 0
    assert all(f"    {name} " in done.out and line in done.out for name, line in KINDS.items())


def test_unknown_picture_lists_those_that_there_are(bnn: Bnn) -> None:
    done = bnn("visualize", "lanscape=runs/a")
    assert done.code == 2
    assert "`lanscape`: no such figure. Did you mean `landscape`?" in done.err
    assert all(line in done.err for line in KINDS.values())


@pytest.mark.parametrize("name", KINDS)
def test_help_of_a_picture_shows_its_keys(name: str, bnn: Bnn) -> None:
    done = bnn("visualize", name, "--help")
    assert done.code == 0
    assert "out: visualize" in done.out


def test_old_spelling_runs_and_old_kinds_name_the_new(bnn: Bnn) -> None:
    done = bnn("visualise", "landscape", "--help")
    assert (done.code, "bnn visualize" in done.err) == (0, True)
    done = bnn("visualize", "procedure=runs/a")
    assert (done.code, "training_curves" in done.err) == (2, True)


def test_first_key_that_is_a_picture_chooses() -> None:
    assert kind_of(["dpi=3", "landscape=x", "-m"]) == "landscape"
    assert kind_of(["dpi=3"]) is None


def test_a_word_without_a_value_is_an_error(bnn: Bnn) -> None:
    assert "`landscape` has no value" in bnn("visualize", "landscape").err


def test_places(tmp_path: Path) -> None:
    folder = place_of(str(tmp_path / "new"), "graph of (a,b)", formats=["png", "html"])
    assert folder.path("png", "more").name == "graph_of_a_b_more.png"
    assert folder.formats == ("png", "html")
    file = place_of(str(tmp_path / "a.svg"), "ignored", formats=["png"])
    assert (file.path("npz"), file.formats) == (tmp_path / "a.npz", ("svg",))
    (tmp_path / "file").touch()
    for out, message in ((tmp_path / "none" / "a.png", "no folder"), (tmp_path / "a.jpeg", "must be a folder or end")):
        with pytest.raises(UserError, match=message):
            place_of(str(out), "x")
    with pytest.raises(UserError, match="without the suffix"):
        place_of(str(tmp_path / "file"), "x")
    with pytest.raises(UserError, match="`jpg` is none of png, svg, pdf, html"):
        place_of(str(tmp_path), "x", formats=["jpg"])


def test_names() -> None:
    assert run_names(["runs/a", "runs/b/checkpoints/last.ckpt"]) == ["a", "b"]
    assert run_names(["x/a", "y/a", "z/b"]) == ["x_a", "y_a", "b"]
    with pytest.raises(UserError, match="twice"):
        run_names(["x/a", "x/a"])
    assert several("a", "k") == ["a"]
    for wrong in ([], 3, ["a", 3], ""):
        with pytest.raises(UserError, match="`k` must be a name"):
            several(wrong, "k")
