"""Real-valued weights in int8: smaller files, and answers that differ a little."""

import numpy as np

from bnn_lightning.deploy.ir.graph import Constant, ConstantRef, Graph, Node, Value
from bnn_lightning.deploy.ir.rewrite import Rewriter

# The operations whose second input is a weight, (out_channels, ...).
_WEIGHTED = ("conv2d", "linear")


def quantize_weights(graph: Graph) -> Graph:
    """Store the weights of real convolutions and linear layers in int8, with a scale of each output channel.

    A weight becomes the nearest of 255 multiples of its channel's scale, which is its largest magnitude / 127. All else
    stays as it is: biases, batch norms, slopes, and what is computed, which is in float32.

    Example:
        >>> weight = Constant.of("w", "f32", np.array([[1.0, -0.5]], np.float32))
        >>> graph = quantize_weights(Graph((Node("linear", (Value(0), ConstantRef(0))),), (weight,)))
        >>> graph.constants[0].array.tolist(), graph.plain()
        ([[127, -64]], [['dequantize', [{'c': 0}, {'c': 1}]], ['linear', [0, 1]]])
    """
    rewriter = Rewriter(graph)
    made: dict[int, Value] = {}
    for number, node in enumerate(graph.nodes, start=1):
        weight = _weight(graph, node)
        if weight is None:
            rewriter.values[number] = rewriter.copy(node)
            continue
        if weight not in made:
            made[weight] = _dequantized(rewriter, graph.constants[weight])
        inputs = [rewriter.moved(node.inputs[0]), made[weight], *(rewriter.moved(item) for item in node.inputs[2:])]
        rewriter.values[number] = rewriter.add(node.operation, inputs, node.attributes, node.name)
    return rewriter.result()


def _dequantized(rewriter: Rewriter, constant: Constant) -> Value:
    values = constant.array
    scale = np.abs(values.reshape(len(values), -1)).max(1) / np.float32(127)
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    rounded = np.rint(values / scale.reshape(-1, *[1] * (values.ndim - 1))).astype(np.int8)
    whole = rewriter.constant(Constant.of(constant.name, "i8", rounded))
    scales = rewriter.constant(Constant.of(f"{constant.name}.scale", "f32", scale))
    return rewriter.add("dequantize", [whole, scales], {})


def _weight(graph: Graph, node: Node) -> int | None:
    """Return the place of a node's real-valued weight."""
    if node.operation not in _WEIGHTED or not isinstance(node.inputs[1], ConstantRef):
        return None
    index = node.inputs[1].index
    constant = graph.constants[index]
    floats = constant.dtype == "f32" and constant.array.size and bool(np.isfinite(constant.array).all())
    return index if floats else None
