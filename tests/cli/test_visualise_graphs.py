"""`bnn visualise graph`, `modules` and `pipeline`: files and refusals."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any


def test_command_writes_picture_table_and_files(bnn: Callable[..., Any], tmp_path: Path) -> None:
    done = bnn("visualise", "graph=xnornet_module", "inplanes=8", "outplanes=8", "onnx=false", f"out={tmp_path}")
    assert done.code == 0, done.err
    rows = list(csv.DictReader((tmp_path / "graph_xnornet_module.csv").open(encoding="utf-8")))
    assert sum(int(row["binary"]) for row in rows) == 2
    assert (tmp_path / "graph_xnornet_module.svg").read_text(encoding="utf-8").count("edge:") == len(rows)
    for words, message in (
        (("graph=bnxt",), "Did you mean `bnext`"),
        (("graph=bnext", "outplanes=100"), "`outplanes` must be once or twice `inplanes`"),
        (("graph=mlp", "width=0"), "`width` must be at least 1"),
        (("modules=[xnor]",), "Did you mean"),
        (("pipeline=resnt20",), "Did you mean `resnet20`"),
    ):
        done = bnn("visualise", *words, f"out={tmp_path}")
        assert done.code == 2
        assert message in done.err
