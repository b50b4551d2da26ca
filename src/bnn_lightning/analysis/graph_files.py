"""Graphs for other programs: TensorBoard and ONNX, as bytes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.layers.module_utils import annealed, binary_layers, copy_network
from bnn_lightning.models.network_graph import NetworkGraph
from bnn_lightning.utils.optional import require


def tensorboard_graph(graph: NetworkGraph) -> bytes:
    """Return a graph as TensorBoard's event files hold it, a serialized `GraphDef`.

    Modules are scopes. Colored "by device", binary and real nodes are told apart: the device of a node is "1-bit"
    where its output holds -1 and +1 only, and "real" elsewhere. Its attributes say shape, kind and sizes.

    Args:
        graph: From `trace_graph`.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """
    proto = require("tensorboard.compat.proto.graph_pb2", extra="tensorboard")
    found = proto.GraphDef()
    found.versions.producer = 22  # the oldest that names devices
    binary = {edge.source for edge in graph.binary_edges}
    for node in graph.nodes:
        made = found.node.add()
        made.name, made.op = _scoped(node.name), node.label
        made.device = "1-bit" if node.name in binary else "real"
        made.input.extend(_scoped(edge.source) for edge in graph.edges if edge.target == node.name)
        made.attr["kind"].s = node.kind.encode()
        made.attr["detail"].s = node.detail.encode()
        shape = made.attr["_output_shapes"].list.shape.add()
        for size in node.shape:
            shape.dim.add().size = size
    return found.SerializeToString()  # type: ignore[no-any-return]


def _scoped(name: str) -> str:
    return name.replace(".", "/")


def onnx_model(module: nn.Module, example: Tensor) -> bytes:
    """Return a module as an ONNX file, as it evaluates with annealing over; the number of images stays free.

    Binary dot products are rounded, which changes nothing, as they are whole numbers: optimizers of runtimes would
    otherwise multiply scales into the signs, and sums that are 0 would get a sign.

    Args:
        module: Any module of one tensor; it stays as it is.
        example: An input, (N, ...), N at least 2.

    Raises:
        ModuleNotFoundError: onnx and onnxscript are not installed.
        ValueError: One image: torch takes a single one for a constant.
    """
    for name in ("onnx", "onnxscript"):
        require(name, extra="onnx")
    if example.shape[0] < 2:
        raise ValueError(f"`example` must hold at least 2 images, got {example.shape[0]}.")
    module = copy_network(module).eval()
    for binarizer in annealed(module):
        binarizer.set_progress(1.0)
    for layer in binary_layers(module).values():
        binarizer_of = layer.weight_binarizer
        if layer.input_binarizer is not None and binarizer_of is not None and not binarizer_of.scale_is_power_of_two:
            layer.dot = _rounded(layer.dot)  # type: ignore[method-assign]
    program = torch.onnx.export(
        module,
        (example,),
        dynamo=True,
        verbose=False,
        input_names=["input"],
        output_names=["output"],
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
    )
    assert program is not None
    return program.model_proto.SerializeToString()  # type: ignore[no-any-return]


def _rounded(dot: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rounded(*args: Any, **kwargs: Any) -> Tensor:
        return dot(*args, **kwargs).round()

    return rounded
