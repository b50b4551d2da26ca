"""Graphs of networks: what is in them, where it stands, and what other programs read."""

import html
import itertools
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.analysis import block_title, create_block, list_blocks, module_graphs, pipeline_graphs, trace_graph
from bnn_lightning.analysis.graph_files import onnx_model, tensorboard_graph
from bnn_lightning.analysis.trace import TraceError
from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.figures import draw_graph, draw_graphs, draw_pipeline
from bnn_lightning.figures.layered import count_crossings, place_in_row
from bnn_lightning.figures.layout import lay_out
from bnn_lightning.layers import BinaryConv2d, BinaryLinear
from bnn_lightning.layers.module_utils import annealed, binary_layers
from bnn_lightning.models import create_backbone, to_depth, with_repeats, without_weights
from bnn_lightning.models.network_graph import NetworkGraph, ancestors
from tests.small_networks import BACKBONES, small_options

# Binary convolutions of each block and module, of as many channels as come in, and of twice as many.
CONVOLUTIONS = {
    "birealnet": (2, 2),
    "bnext": (2, 3),
    "bnext_module": (1, None),
    "reactnet": (2, 2),
    "real2binary": (2, 2),
    "real2binary_module": (1, 1),
    "skd": (2, 2),
    "xnornet": (2, 3),
    "xnornet_module": (1, 1),
}
Rectangle = tuple[float, float, float, float]


def block_graph(name: str, outplanes: int = 8) -> NetworkGraph:
    return trace_graph(create_block(name, 8, outplanes), torch.randn(2, 8, 6, 6))


def kinds(graph: NetworkGraph) -> Counter[str]:
    return Counter(node.label for node in graph.nodes)


@pytest.mark.parametrize("wider", [0, 1])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_every_binary_convolution_has_two_binary_edges(name: str, wider: int) -> None:
    number = CONVOLUTIONS[name][wider]
    if number is None:
        with pytest.raises(ValueError, match="`outplanes` must be exactly `inplanes` in `bnext_module`, got 8 and 16"):
            create_block(name, 8, 16)
        return
    graph = block_graph(name, 16 if wider else 8)
    assert len(graph.binary_edges) == 2 * number
    assert len(without_weights(graph).binary_edges) == number
    targets = {node.name for node in graph.nodes if node.kind == "binary"}
    assert len(targets) == number
    assert {edge.target for edge in graph.binary_edges} == targets


def test_every_block_is_counted() -> None:
    assert sorted(CONVOLUTIONS) == list_blocks()


@pytest.mark.parametrize("name", BACKBONES)
def test_graph_of_every_network(name: str) -> None:
    network = create_backbone(name, **small_options(name, num_classes=3, image_size=32, width=8))
    graph = trace_graph(network, torch.rand(1, 3, 32, 32))
    layers = binary_layers(network)
    with_signs = sum(layer.input_binarizer is not None for layer in layers.values())
    # Signs meet in the product, and once more where centers are added.
    readers = 2 if name.endswith("_adabin") else 1
    assert len(graph.binary_edges) == readers * (len(layers) + with_signs)
    assert graph.nodes[0].shape == (3, 32, 32)
    assert graph.nodes[-1].shape == (3,)
    products = {node.name.removesuffix(".product") for node in graph.nodes if node.name.endswith(".product")}
    assert products == set(layers)


def test_float_twin_has_no_binary_edge() -> None:
    network = create_backbone("resnet20", num_classes=3, image_size=8, width=4, binary=False)
    graph = trace_graph(network, torch.rand(1, 3, 8, 8))
    assert not graph.binary_edges
    assert {node.kind for node in graph.nodes}.isdisjoint({"sign", "binary", "weights"})
    activations = create_backbone("resnet20", num_classes=3, image_size=8, width=4, binary="activations")
    assert len(trace_graph(activations, torch.rand(1, 3, 8, 8)).binary_edges) == 18


def test_convolution_modules_by_hand() -> None:
    xnor = kinds(block_graph("xnornet_module"))
    signs = {"sign": 2, "latent weights": 1, "binary conv 3×3": 1}
    assert xnor == {"input": 1, "BatchNorm2d": 1, "scale α": 1, "× α": 1, "output": 1, **signs}
    gate = {"conv 1×1": 2, "ReLU": 1, "sigmoid": 1}
    real = kinds(block_graph("real2binary_module"))
    ends = {"input": 1, "output": 1}
    assert real == {**ends, **gate, **signs, "global average": 1, "BatchNorm2d": 1, "×": 1, "PReLU": 1, "+": 1}
    bnext = kinds(block_graph("bnext_module"))
    assert bnext == {**ends, **gate, **signs, "global average": 2, "BatchNorm2d": 1, "×": 1, "PReLU": 1, "mix": 1}


def test_steps_of_a_binary_layer() -> None:
    layer = BinaryLinear(4, 2, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
    graph = trace_graph(layer, torch.randn(3, 4))
    edges = {(e.source, e.target): e.binary for e in graph.edges}
    assert edges == {
        ("input", "layer.input_binarizer"): False,
        ("layer.weight", "layer.weight_binarizer"): False,
        ("layer.weight", "layer.scale"): False,
        ("layer.input_binarizer", "layer.product"): True,
        ("layer.weight_binarizer", "layer.product"): True,
        ("layer.product", "layer.scaled"): False,
        ("layer.scale", "layer.scaled"): False,
        ("layer.scaled", "layer.bias"): False,
        ("layer.bias", "output"): False,
    }
    shapes = {node.name: node.shape for node in graph.nodes}
    assert shapes["layer.weight"] == shapes["layer.weight_binarizer"] == (2, 4)
    assert shapes["layer.product"] == (2,)
    assert graph.rows()[0] == {"source": "input", "target": "layer.input_binarizer", "binary": 0, "shape": "4"}


def test_module_stays_as_it_is_and_unfinished_annealing_does_not_show() -> None:
    block = create_block("bnext", 8, 8).train()
    before = [binarizer.state_dict() for binarizer in annealed(block)]
    graph = trace_graph(block, torch.randn(1, 8, 4, 4))
    assert block.training
    assert all(bool(x["temperature"] == 1) for x in before if "temperature" in x)
    assert len(graph.binary_edges) == 4


class Twice(nn.Module):
    """One unit used twice, the second time on what left the first."""

    def __init__(self) -> None:
        super().__init__()
        self.unit = nn.Sequential(BinaryConv2d(4, 4, 1, weight_binarizer=WeightSign()), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.unit(self.unit(x) + x)  # type: ignore[no-any-return]


class Looking(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_module_that_is_called_twice_stands_twice() -> None:
    graph = trace_graph(Twice(), torch.randn(1, 4, 2, 2))
    assert list(graph.groups) == ["", "unit", "unit.0", "unit_2", "unit_2.0"]
    assert sum(node.kind == "conv" for node in graph.nodes) == 2
    layout = lay_out(graph, {node.name: (20.0, 10.0) for node in graph.nodes})
    assert set(layout.frames) == set(graph.groups) - {""}


def test_what_cannot_be_traced_says_so() -> None:
    with pytest.raises(TraceError, match="Looking cannot be traced"):
        trace_graph(Looking(), torch.randn(2))
    graph = trace_graph(nn.Sequential(nn.Linear(2, 2), Looking()), torch.randn(1, 2), atoms=(Looking,))
    assert kinds(graph)["Looking"] == 1


def test_depth_and_repeats() -> None:
    network = create_backbone("resnet20", num_classes=3, image_size=8, width=4)
    graph = trace_graph(network, torch.rand(1, 3, 8, 8))
    blocks = [node for node in to_depth(graph, 2).nodes if node.kind == "group"]
    assert [node.name for node in blocks] == [f"layer{stage}.{index}" for stage in (1, 2, 3) for index in (0, 1, 2)]
    assert {(node.label, node.detail) for node in blocks} == {("DoubleSkipBlock", "2 binary")}
    stages = [node for node in to_depth(graph, 1).nodes if node.kind == "group"]
    assert [(node.label, node.detail, node.shape) for node in stages] == [
        ("layer1", "6 binary", (4, 8, 8)),
        ("layer2", "6 binary", (8, 4, 4)),
        ("layer3", "6 binary", (16, 2, 2)),
    ]
    repeated = [node.label for node in with_repeats(to_depth(graph, 2)).nodes if node.kind == "group"]
    assert repeated == ["DoubleSkipBlock ×3"] * 3
    with pytest.raises(ValueError, match="`depth` must be a whole number of at least 1, got 0"):
        to_depth(graph, 0)


def overlap(a: Rectangle, b: Rectangle) -> bool:
    return a[0] < b[2] - 1e-6 and b[0] < a[2] - 1e-6 and a[1] < b[3] - 1e-6 and b[1] < a[3] - 1e-6


@pytest.mark.parametrize("outplanes", [8, 16])
@pytest.mark.parametrize("name", ["bnext", "real2binary", "xnornet"])
def test_layout_overlaps_nothing_and_goes_down(name: str, outplanes: int) -> None:
    graph = block_graph(name, outplanes)
    layout = lay_out(graph, {node.name: (40.0, 18.0) for node in graph.nodes})
    boxes = {key: (b.left, b.top, b.right, b.bottom) for key, b in layout.nodes.items()}
    frames = {key: (b.left, b.top, b.right, b.bottom) for key, b in layout.frames.items()}
    names = sorted(boxes)
    assert len(names) == len(graph.nodes)
    assert not any(overlap(boxes[a], boxes[b]) for i, a in enumerate(names) for b in names[:i])
    for node in graph.nodes:
        around = ancestors(node.group, graph.groups)
        for path, frame in frames.items():
            inside = (
                frame[0] <= boxes[node.name][0]
                and frame[1] <= boxes[node.name][1]
                and boxes[node.name][2] <= frame[2]
                and boxes[node.name][3] <= frame[3]
            )
            assert inside == (path in around)
            assert inside or not overlap(frame, boxes[node.name])
    for edge, points in zip(graph.edges, layout.routes, strict=True):
        source, target = layout.nodes[edge.source], layout.nodes[edge.target]
        assert points[0][1] == pytest.approx(source.bottom)
        assert points[-1][1] == pytest.approx(target.top)
        assert source.left <= points[0][0] <= source.right
        assert target.left <= points[-1][0] <= target.right
        assert all(a[1] <= b[1] + 1e-6 for a, b in itertools.pairwise(points))


def test_rows_are_optimal_by_brute_force() -> None:
    desired, weights, widths = [3.0, 0.0, 1.0], [1.0, 2.0, 1.0], [2.0, 4.0, 2.0]
    found = place_in_row(desired, weights, widths, gap=1.0)

    def cost(xs: list[float]) -> float:
        return sum(w * (x - d) ** 2 for x, d, w in zip(xs, desired, weights, strict=True))

    steps = [i / 10 for i in range(-80, 81)]
    best = min(cost([a, b, c]) for a in steps for b in steps if b - a >= 4 for c in (max(b + 4, 1.0),))
    assert cost(found) <= best + 1e-9
    assert found[1] - found[0] >= 4 - 1e-9
    assert found[2] - found[1] >= 4 - 1e-9
    assert count_crossings([0, 1, 2], [2, 1, 0]) == 3


def test_tensorboard_reads_the_graph(tmp_path: Any) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from bnn_lightning.workflows.figure_kinds.graph import write_event_file

    graph = block_graph("bnext")
    for _ in range(2):  # the second takes the place of the first
        write_event_file(graph, tmp_path / "events")
    assert len(list((tmp_path / "events").iterdir())) == 1
    accumulator = EventAccumulator(str(tmp_path / "events"))
    accumulator.Reload()
    read = {node.name: node for node in accumulator.Graph().node}
    assert set(read) == {node.name.replace(".", "/") for node in graph.nodes}
    edges = {(source, name) for name, node in read.items() for source in node.input}
    assert edges == {(e.source.replace(".", "/"), e.target.replace(".", "/")) for e in graph.edges}
    binary = {name for name, node in read.items() if node.device == "1-bit"}
    assert binary == {edge.source.replace(".", "/") for edge in graph.binary_edges}
    assert [d.size for d in read["input"].attr["_output_shapes"].list.shape[0].dim] == [8, 6, 6]
    # Attributes are maps, whose order in bytes is not fixed.
    assert accumulator.Graph() == type(accumulator.Graph()).FromString(tensorboard_graph(graph))


@pytest.mark.parametrize(
    "name", ["real2binary", *(pytest.param(n, marks=pytest.mark.slow) for n in CONVOLUTIONS if n != "real2binary")]
)
def test_onnx_file_computes_the_block(name: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    block = create_block(name, 8, 8).eval()
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
    images = torch.randn(5, 8, 6, 6)
    model = onnx_model(block, images[:2])
    for binarizer in annealed(block):
        binarizer.set_progress(1.0)
    (found,) = runtime.InferenceSession(model).run(None, {"input": images.numpy()})
    with torch.no_grad():
        assert torch.allclose(torch.from_numpy(found), block(images), atol=1e-5)


def ids(svg: str) -> Counter[str]:
    return Counter(re.findall(r'id="((?:node|edge|frame):[^"]*)"', html.unescape(svg)))


@pytest.mark.parametrize("name", list_blocks())
def test_committed_pictures_show_what_the_blocks_are(name: str) -> None:
    svg = (Path(__file__).parents[2] / "docs" / "graphs" / f"{name}.svg").read_text(encoding="utf-8")
    graph = trace_graph(create_block(name, 64, 64), torch.randn(1, 64, 16, 16))
    nodes = [f"node:{node.name}" for node in graph.nodes]
    edges = [f"edge:{e.source}:{e.target}:{'binary' if e.binary else 'real'}" for e in graph.edges]
    frames = [f"frame:{path}" for path in graph.groups if path]
    assert ids(svg) == Counter([*nodes, *edges, *frames])
    assert block_title(name) in html.unescape(svg)


def test_figure_has_the_graph_and_a_legend() -> None:
    pytest.importorskip("matplotlib")
    graph = block_graph("xnornet_module")
    figure = draw_graph(graph, "a title")
    drawn = Counter(patch.get_gid() for patch in figure.axes[0].patches if patch.get_gid())
    assert sum(gid.endswith(":binary") for gid in drawn) == len(graph.binary_edges)
    assert sum(gid.startswith("node:") for gid in drawn) == len(graph.nodes)
    assert "a title" in [text.get_text() for text in figure.axes[0].texts]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:2] == ["1-bit values (−1, +1)", "real values"]
    styles = {(p.get_edgecolor(), p.get_linestyle()) for p in figure.axes[0].patches if "edge:" in (p.get_gid() or "")}
    assert len(styles) == 2
    width, height = figure.get_size_inches() * 72
    for text in figure.axes[0].texts:
        x, y = text.get_position()
        assert 0 < x < width
        assert 0 < y < height


@pytest.mark.parametrize("name", list_blocks())
def test_every_node_but_the_output_goes_somewhere(name: str) -> None:
    graph = block_graph(name)
    read = {edge.source for edge in graph.edges}
    assert {node.kind for node in graph.nodes if node.name not in read} == {"output"}


@pytest.mark.parametrize("name", BACKBONES)
def test_pipelines_of_all_networks_or_a_reason_why_there_is_none(name: str) -> None:
    options = {"num_classes": 3, "image_size": 32, "width": 8}
    network = create_backbone(name, **small_options(name, **options))
    example = torch.rand(1, network.in_channels, network.image_size, network.image_size)
    if name in ("binary_alexnet", "mlp", "vgg_small", "vgg_small_adabin"):
        with pytest.raises(ValueError, match="has binary layers, but no blocks"):
            pipeline_graphs(network, example)
        return
    (_, block, module), paths = pipeline_graphs(network, example)
    assert paths[1].startswith(f"{paths[0]}.")
    assert paths[1].removeprefix(f"{paths[0]}.") in {node.name for node in block.nodes if node.kind == "group"}
    assert module.binary_edges


def test_modules_fit_a_page_and_the_pipeline_enlarges() -> None:
    pytest.importorskip("matplotlib")
    assert draw_graphs(module_graphs()).get_size_inches()[0] < 7.2
    network = create_backbone("bnext_tiny", num_classes=5, image_size=32, width=8, depths=(2, 1))
    (backbone, block, module), paths = pipeline_graphs(network, torch.rand(1, 3, 32, 32))
    assert paths == ["blocks.1", "blocks.1.spatial.conv"]
    assert [n.label for n in backbone.nodes if n.kind == "group"] == ["BNextBlock"] * 4
    assert [n.name for n in block.nodes if n.kind == "group"] == [
        "spatial.conv",
        "pointwise.0.conv",
        "pointwise.1.conv",
    ]
    assert len(module.binary_edges) == 2
    figure = draw_pipeline([backbone, block, module], paths, ["network", "block", "module"])
    assert len(figure.axes[0].lines) == 4
    with pytest.raises(ValueError, match="has no binary layer"):
        pipeline_graphs(
            create_backbone("mlp", num_classes=2, image_size=4, width=4, binary=False), torch.rand(1, 3, 4, 4)
        )
