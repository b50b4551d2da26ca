"""`bnn visualize graph`, `modules` and `pipeline`: files and refusals."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnn_lightning.workflows.figure_kinds import graph


def test_command_writes_picture_table_and_files(bnn: Callable[..., Any], tmp_path: Path) -> None:
    done = bnn("visualize", "graph=xnornet_module", "inplanes=8", "outplanes=8", "onnx=false", f"out={tmp_path}")
    assert done.code == 0, done.err
    rows = list(csv.DictReader((tmp_path / "graph_xnornet_module.csv").open(encoding="utf-8")))
    assert sum(int(row["binary"]) for row in rows) == 2
    assert (tmp_path / "graph_xnornet_module.svg").read_text(encoding="utf-8").count("edge:") == len(rows)
    for words, message in (
        (("graph=bnxt",), "Did you mean `bnext`"),
        (("graph=bnext", "outplanes=100"), "`outplanes` must be once or twice `inplanes`"),
        (("graph=mlp", "width=0"), "`width` must be at least 1"),
        (("graph=bnext", "size=0"), "`size` must be 1 or more"),
        (("modules=[xnor]",), "Did you mean"),
        (("modules=[xnornet_module]", "size=0"), "`size` must be 1 or more"),
        (("pipeline=mlp",), "has binary layers, but no blocks"),
        (("pipeline=resnt20",), "Did you mean `resnet20`"),
    ):
        done = bnn("visualize", *words, f"out={tmp_path}")
        assert done.code == 2
        assert message in done.err


def test_says_which_files_are_not_written_and_what_installs_their_libraries(
    bnn: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = graph.find_spec
    monkeypatch.setattr(graph, "find_spec", lambda name: None if name == "onnx" else there(name))
    done = bnn("visualize", "graph=xnornet_module", "inplanes=8", "outplanes=8", "formats=[png]", f"out={tmp_path}")
    assert done.code == 0, done.err
    assert "not written: onnx, as `onnx` is not installed; `pip install 'bnn-lightning[onnx]'` installs it" in done.out
    assert not list(tmp_path.glob("*.onnx"))
