"""Graphs that are rewritten have constants of different names, and their files are read."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.ir.graph import Constant, Graph, Node, Value
from bnn_lightning.deploy.ir.rewrite import Rewriter
from bnn_lightning.layers import BinaryConv2d


def test_names_that_are_made_are_free() -> None:
    rewriter = Rewriter(Graph((Node("neg", (Value(0),)),)))
    for name in ("a", "a", "a.2", "a", "a.2", "b"):
        rewriter.constant(Constant.of(name, "f32", torch.ones(1).numpy()))
    names = [constant.name for constant in rewriter.result().constants]
    assert names == ["a", "a.3", "a.2", "a.4", "a.2.2", "b"]


class Numbers(nn.Module):
    """Differences from numbers, channels-last; one of them is named as another one that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, 4, 3, input_binarizer=SignSTE(), weight_binarizer=WeightSign())

    def forward(self, x: Tensor) -> Tensor:
        y = 1 - self.conv(x).permute(0, 2, 3, 1)
        y = 1.2 - (1 - F.gelu(y))
        return y.permute(0, 3, 1, 2).mean((2, 3))


@torch.no_grad()
def test_files_of_networks_with_such_names_are_read(tmp_path: Path) -> None:
    network, images = Numbers().eval(), torch.rand(2, 3, 6, 6)
    packed = pack(network, images)
    assert packed.report.unplanned == ""
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 6))
    torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images))
