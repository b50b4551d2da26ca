"""Views of values: where elements lie is that of torch's own views, and what lies alike is computed once."""

from pathlib import Path

import pytest
import torch
from torch import nn

from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.ir.graph import AttributeValue, Graph, Node, Value
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.planner.views import memory_strides, views_of
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.models import create_backbone

MOVES = [
    ("permute", {"dims": [0, 2, 3, 1]}),
    ("permute", {"dims": [0, 3, 1, 2]}),
    ("transpose", {"dim0": 1, "dim1": 3}),
    ("unsqueeze", {"dim": 2}),
    ("reshape", {"shape": [-1, 3, 20]}),
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
