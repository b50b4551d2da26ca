"""The guide to sequences: its blocks run as they stand, and the network learns."""

import re
from pathlib import Path
from typing import Any

import torch

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "sequences.md"


def test_the_network_of_the_guide_learns_is_counted_and_packs() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    blocks, outputs = (
        re.findall(rf"^```{kind}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL) for kind in ("python", "text")
    )
    names: dict[str, Any] = {"__name__": "guide"}
    for block in blocks:
        exec(compile(block, str(GUIDE), "exec"), names)
    assert names["accuracy"] > 0.9
    _, counted, packed = outputs
    assert f"{names['total']['binary_macs']:,} binary and {names['total']['float_macs']:,} real" in counted
    assert str(names["packed"].report) == packed.rstrip("\n")
    assert names["packed"].report.packed == ("body.0.conv", "body.1.conv")
    with torch.no_grad():
        torch.testing.assert_close(names["packed"](names["x"]), names["network"](names["x"]), rtol=1e-5, atol=1e-5)
