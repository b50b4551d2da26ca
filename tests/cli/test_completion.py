"""Shell completion, through the machinery that the shell's script calls, and the keys that `--help` begins with."""

import contextlib
import re
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bnn_lightning.cli import main
from bnn_lightning.cli.config_paths import config_dir, list_options
from bnn_lightning.workflows import settings
from bnn_lightning.workflows.config_options import keys_of
from bnn_lightning.workflows.figure_kinds import KINDS

Bnn = Callable[..., Any]

VERBS = {
    "train": settings.TrainSettings,
    "evaluate": settings.EvaluateSettings,
    "profile": settings.ProfileSettings,
    "prepare": settings.PrepareSettings,
    "export": settings.ExportSettings,
    "predict": settings.PredictSettings,
    "verify": settings.VerifySettings,
    "benchmark": settings.BenchmarkSettings,
    "report": settings.ReportSettings,
    "rank": settings.RankSettings,
}


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("bnn tra", {"train"}),
        ("bnn ", set(main.VERBS)),
        ("bnn train model=res", {f"model={name}" for name in list_options("model") if name.startswith("res")}),
        ("bnn train callbacks=", {f"callbacks={name}" for name in list_options("callbacks")}),
        ("bnn evaluate model=mlp data=digits trainer.de", {"trainer.devices=", "trainer.deterministic="}),
        ("bnn visualize land", {"landscape="}),
        ("bnn visualize landscape=runs/a poi", {"points="}),
        ("bnn conf sh", {"show"}),
        ("bnn conf show model/reactnet_", {"model/reactnet_a"}),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_completion(line: str, candidates: set[str], shell: str, bnn: Bnn, monkeypatch: pytest.MonkeyPatch) -> None:
    if shell == "fish" and line != "bnn train model=res":
        pytest.skip("one line is enough: the candidates are the same")
    monkeypatch.setenv("COMP_LINE", line)
    done = bnn("-sc", f"query={shell}")
    assert done.code == 0, done.err
    assert set(done.out.split("\n" if shell == "fish" else None)) - {""} == candidates


@pytest.mark.parametrize(
    ("request_", "part"), [("install=bash", "-F hydra_bash_completion bnn"), ("uninstall=bash", "unset")]
)
def test_scripts_for_the_shell(request_: str, part: str, bnn: Bnn) -> None:
    done = bnn("-sc", request_)
    assert done.code == 0
    assert part in done.out
    assert bnn("-sc").code == 2


@pytest.mark.parametrize("verb", VERBS)
def test_every_key_of_a_verb_has_a_line(verb: str) -> None:
    described = {key: comment for key, _, comment in keys_of(config_dir(), verb)}
    assert {field.name for field in fields(VERBS[verb])} <= set(described)
    assert [key for key, comment in described.items() if not comment] == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_key_of_a_picture_has_a_line(kind: str) -> None:
    described = {key: comment for key, _, comment in keys_of(config_dir(), f"visualize/{kind}")}
    assert "out" in described
    assert [key for key, comment in described.items() if not comment] == []


def test_help_shows_the_keys_before_anything_else(bnn: Bnn) -> None:
    done = bnn("export", "--help")
    assert done.code == 0
    lines = [line for line in done.out.splitlines() if line.strip()]
    keys = [key for key, _, _ in keys_of(config_dir(), "export")]
    shown = [re.match(r"^    ([\w.]+)=\S+ +\S", line) for line in lines[1 : 1 + len(keys)]]
    assert [match and match[1] for match in shown] == keys
    assert not any(path.stem in lines[0] for path in (config_dir() / "model").glob("*.yaml"))


def test_a_call_from_python_leaves_the_command_line_as_it_was(workplace: Path) -> None:
    given = ["ipykernel_launcher.py", "-f", "kernel.json"]
    before, sys.argv = sys.argv, list(given)
    try:
        for words in (["--version"], ["train", "model=mlp", "--cfg", "job"], ["trian"]):
            with contextlib.suppress(SystemExit):
                main.main(words)
            assert sys.argv == given
    finally:
        sys.argv = before
