"""Views of values: where elements lie is that of torch's own views, and what lies alike is computed once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.ir.graph import AttributeValue, Graph, Node, Value
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.planner.views import memory_strides, views_of
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.layers import BinaryLinear
from bnn_lightning.models import create_backbone

MOVES = [
    ("permute", {"dims": [0, 2, 3, 1]}),
    ("permute", {"dims": [0, 3, 1, 2]}),
    ("transpose", {"dim0": 1, "dim1": 3}),
    ("unsqueeze", {"dim": 2}),
    ("reshape", {"shape": [-1, 3, 20]}),
    ("reshape", {"shape": [-1, 3, 2, 2, 5]}),
    ("reshape", {"shape": [-1, 1, 3, 4, 1, 5]}),
    ("reshape", {"shape": [-1, 3, 10, 2]}),
]


@pytest.mark.parametrize(("operation", "attributes"), MOVES)
def test_views_are_those_of_torch(operation: str, attributes: dict[str, object]) -> None:
    graph = Graph((Node(operation, (Value(0),), attributes),))  # type: ignore[arg-type]
    types = types_of(graph, (3, 4, 5))
    view = views_of(graph.nodes, types)[1]
    x = torch.empty(2, 4, 5, 3).permute(0, 3, 1, 2)  # channels side by side
    call = {"permute": x.permute, "transpose": x.transpose, "unsqueeze": x.unsqueeze, "reshape": x.view}[operation]
    wanted = call(*(tuple(v) if isinstance(v, list) else v for v in attributes.values()))  # type: ignore[operator]
    assert view is not None
    assert (view.root, view.offset) == (0, 0)
    assert view.strides == tuple(0 if n == 1 else s for n, s in zip(wanted.shape, wanted.stride(), strict=True))


def test_a_reshape_that_cuts_dimensions_elsewhere_is_a_view_of_dense_ones_alone() -> None:
    nodes = [
        Node("mean", (Value(0),), {"dims": [2]}),  # (N, 3, 5)
        Node("reshape", (Value(1),), {"shape": [-1, 5, 3]}),
        Node("transpose", (Value(2),), {"dim0": 1, "dim1": 2}),
        Node("reshape", (Value(3),), {"shape": [-1, 5, 3]}),
    ]
    views = views_of(nodes, types_of(Graph(tuple(nodes)), (3, 4, 5)))
    found = [None if view is None else (view.root, view.strides) for view in views]
    assert found[1:] == [(1, (15, 5, 1)), (1, (15, 3, 1)), (1, (15, 1, 3)), (4, (15, 3, 1))]


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 16), (6, 2, 2, 2), (48, 1, 1)])
def test_rows_become_maps_without_torch(shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    binary: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}

    class Unflattens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = BinaryLinear(12, 48, **binary), nn.Linear(shape[0], 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.layer(x.flatten(1)).unflatten(1, shape).relu()
            logits: torch.Tensor = self.head(y.flatten(2).mean(2) if len(shape) > 1 else y)
            return logits

    network, images = Unflattens().eval(), torch.rand(3, 3, 2, 2)
    packed = pack(network, images)
    assert (packed.report.unplanned, packed.report.in_torch) == ("", {})
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 2))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images))


def test_a_flatten_of_several_pixels_is_no_view() -> None:
    graph = Graph((Node("relu", (Value(0),)), Node("reshape", (Value(1),), {"shape": [-1, 60]})))
    types = types_of(graph, (3, 4, 5))
    view = views_of(graph.nodes, types)[2]
    assert view is not None
    assert (view.root, view.strides) == (2, memory_strides(types[2]))


def test_rows_and_maps_of_one_pixel_are_one_value() -> None:
    moves = [
        Node("mean", (Value(0),), {"dims": [2, 3], "keepdim": True}),
        Node("reshape", (Value(1),), {"shape": [-1, 3]}),
        Node("transpose", (Value(2),), {"dim0": 0, "dim1": 1}),
        Node("unsqueeze", (Value(3),), {"dim": 0}),
        Node("unsqueeze", (Value(4),), {"dim": 2}),
        Node("relu", (Value(5),)),
    ]
    graph = Graph(tuple(moves))
    typed = TypedGraph(graph, types_of(graph, (3, 4, 5)), takes_bytes=False)
    assert typed.origins == [0, 1, 1, 3, 4, 1, 6]
    assert typed.nodes[5].inputs == (Value(1),)


@pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")
@pytest.mark.parametrize("as_bytes", [False, True])
def test_linear_layers_on_rows_are_native(tmp_path: Path, as_bytes: bool) -> None:
    torch.manual_seed(0)
    network: nn.Module = create_backbone("mlp", num_classes=10, in_channels=2, image_size=8, width=40).eval()
    save(pack(network), tmp_path / "net.bnn", PackedInfo("mlp", in_channels=2, image_size=8))
    loaded = load(tmp_path / "net.bnn")
    plan = loaded.plan(takes_bytes=as_bytes)
    assert plan.torch_nodes == ()
    calls = [call.kernel for call in plan.calls if isinstance(call, KernelCall)]
    assert calls == ["copy", "linear", "combine", "convolve", "convolve", "linear"]
    images = torch.randint(0, 256, (5, 2, 8, 8), dtype=torch.uint8)
    for number in (5, 1, 3):
        batch = images[:number] if as_bytes else images[:number] / 255
        with torch.no_grad():
            torch.testing.assert_close(loaded(batch), loaded.run_nodes(images[:number] / 255), rtol=1e-5, atol=1e-5)


OF_IMAGES: dict[str, list[tuple[str, dict[str, AttributeValue]]]] = {
    "channels last": [("permute", {"dims": [0, 2, 3, 1]})],
    "columns first": [("transpose", {"dim0": 2, "dim1": 3})],
    "some channels": [("slice", {"dim": 1, "start": 0, "end": 2})],
    "some rows": [("slice", {"dim": 2, "start": 0, "end": 3})],
    "every second row": [("slice", {"dim": 2, "start": 0, "end": 4, "step": 2})],
    "one channel": [("select", {"dim": 1, "index": 0})],
    "one channel four times": [("slice", {"dim": 1, "start": 0, "end": 1}), ("expand", {"shape": [-1, 4, -1, -1]})],
    "all": [],
}


@pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")
@pytest.mark.parametrize("moves", OF_IMAGES)
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (3, 4, 1), (3, 1, 5), (2, 1, 1)])
def test_images_are_moved_as_they_come(moves: str, shape: tuple[int, int, int]) -> None:
    nodes = [Node(operation, (Value(at),), given) for at, (operation, given) in enumerate(OF_IMAGES[moves])]
    elements = types_of(Graph(tuple(nodes)), shape)[-1].elements
    graph = Graph((*nodes, Node("reshape", (Value(len(nodes)),), {"shape": [-1, elements]})))
    network = LoadedNetwork(graph, PackedInfo("net", shape[0], shape[1:])).eval()
    pixels = torch.randint(0, 256, (3, *shape), dtype=torch.uint8)
    assert network.plan().torch_nodes == ()
    wanted = network.run_nodes(pixels / 255)
    assert torch.equal(network(pixels / 255), wanted)
    assert torch.equal(network(pixels), wanted)
