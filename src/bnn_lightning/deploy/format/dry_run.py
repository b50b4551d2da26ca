"""A run of a file's graph on shapes alone, before anything is computed, and the sizes that no network has."""

import math
from typing import TYPE_CHECKING

from torch import Tensor

from bnn_lightning.deploy.frontend.fresh import floats
from bnn_lightning.deploy.ir.graph import Graph, Node
from bnn_lightning.functional.pack import BLOCK, WORD, num_words

if TYPE_CHECKING:
    from bnn_lightning.deploy.runtime.network import LoadedNetwork

_MOST_ELEMENTS = 1 << 28  # of a result for one image: 1 GiB, far beyond any network's
_MOST_IN_ALL = 1 << 30  # of all results for one image
# Limits grow with a file's bytes, so that no small file loads longer than BNext-Tiny, which has 14 MB and 28
# million signs. Nodes are counted by the time that torch takes to look at their shapes: those of BNext-Tiny count for
# 581, and with weights in int8 for 709, at any width.
_NODES, _BYTES_OF_NODE = 720, 1 << 14
_COUNTS = {
    **dict.fromkeys(("clamp", "hardswish", "hardsigmoid"), 6),
    "affine": 3,
    "prelu": 4,
    "dequantize": 2,
    "byte_conv2d": 20,
}
_ITEMS_OF_NODE = 16
_SIGNS, _SIGNS_OF_BYTE = 1 << 21, 8  # of packed layers, filled up to whole words
_WORDS, _WORDS_OF_BYTE = 1 << 22, 2  # of packed layers, filled up to whole blocks


def check_sizes(graph: Graph, size: int) -> None:
    """Refuse graphs that are longer, and packed layers that are larger, than their file justifies.

    Args:
        graph: Of the file.
        size: Bytes of its constants.

    Raises:
        ValueError: Says what there is too much of.
    """
    most = _NODES + size // _BYTES_OF_NODE
    signs, words = 0, 0
    for node in graph.nodes:
        if node.operation == "binary_conv2d" and node["groups"] > 0:
            of_node = _words(graph.constants[node["signs"].index].shape)
            signs += of_node * WORD
            words += of_node if node["groups"] == 1 else of_node * BLOCK
    for count, limit, what in (
        (sum(_count(node) for node in graph.nodes), most, "nodes' worth of operations"),
        (len(graph.constants), 4 * most, "tensors"),
        (signs, _SIGNS + _SIGNS_OF_BYTE * size, "signs in packed layers"),
        (words, _WORDS + _WORDS_OF_BYTE * size, "words in packed layers"),
    ):
        if count > limit:
            raise ValueError(f"It has {count} {what}; a file of its size has at most {limit}.")


def _count(node: Node) -> int:
    items = sum(len(value) for value in node.attributes.values() if isinstance(value, list))
    return _COUNTS.get(node.operation, 1) + (len(node.inputs) + items) // _ITEMS_OF_NODE


def _words(shape: tuple[int, ...]) -> int:
    """Return the words of a packed layer's signs, before blocks are filled up."""
    return shape[0] * num_words(shape[1]) * math.prod(shape[2:]) if len(shape) == 4 else 0


def dry_run(network: "LoadedNetwork") -> None:
    """Run a graph on shapes alone.

    Raises:
        ValueError: Results are too large, depend on torch's default dtype, or are no logits. What torch raises where
            arguments do not fit may come, too.
    """
    info = network.info
    if math.prod(info.shape) > _MOST_ELEMENTS:
        raise ValueError(f"Images of {'x'.join(map(str, info.shape))} are beyond any network's.")
    for number in (2, 1):  # what fits one number of images alone is no network
        logits = _logits(network, number)
        if logits.dim() != 2 or logits.shape[0] != number or not logits.is_floating_point():
            raise ValueError(f"Its output for {number} images is {tuple(logits.shape)}, {logits.dtype}: no logits.")
    check_names(info.class_names, logits.shape[1])


def _logits(network: "LoadedNetwork", number: int) -> Tensor:
    """Return what the output for some images looks like, after every node has been looked at."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    values: list[Tensor] = []
    elements = 0

    def watch(value: Tensor) -> None:
        nonlocal elements
        values.append(value)
        elements += value.numel()
        _refuse_monsters(network, values, number)
        if elements > number * _MOST_IN_ALL:
            raise ValueError(f"The results of {len(values) - 1} nodes together are beyond any network's.")

    with FakeTensorMode(allow_non_fake_inputs=True):
        values.append(floats(number, *network.info.shape))
        return network.run_nodes(values[0], watch)


def check_names(names: tuple[str, ...], num_classes: int) -> None:
    """Refuse names for another number of classes."""
    if names and len(names) != num_classes:
        raise ValueError(f"There are {len(names)} names for {num_classes} classes.")


def _refuse_monsters(network: "LoadedNetwork", values: list[Tensor], number: int) -> None:
    """Refuse the last result, or a padded map before its binary layer, that no network has."""
    place, value = len(values) - 1, values[-1]
    node, elements = network.graph.nodes[place - 1], value.numel()
    if node.operation == "binary_conv2d":
        layer, (images, _, height, width) = network.layer(place), values[node.values()[0]].shape
        top, bottom, left, right = layer.padding
        words = layer.groups * num_words(layer.in_channels)
        elements = max(elements, images * (height + top + bottom) * (width + left + right) * words)
    if elements > number * _MOST_ELEMENTS or value.dim() > 8:
        shape = tuple(value.shape) if value.dim() <= 8 else f"{value.dim()} dimensions"
        raise ValueError(f"A result of the shape {shape}, or what is padded for it, is beyond any network's.")
    constants = [network.constant(item) for item in node.constants()] if node.operation != "binary_conv2d" else []
    given = [*(values[item] for item in node.values()), *constants]
    whole = not any(tensor.is_floating_point() for tensor in given)
    if value.is_floating_point() and whole and node.operation != "dequantize":
        raise ValueError(
            f"Node {place}, `{node.operation}`, makes floats of whole numbers: of which type is up to the process."
        )
