"""A check of a file's graph by its types, before anything is computed, and the sizes that no network has."""

import math
from collections.abc import Sequence

import numpy as np

from bnn_lightning.deploy.ir.graph import Graph, Node
from bnn_lightning.deploy.ir.shapes import type_of
from bnn_lightning.deploy.ir.types import Images, Type, text_of
from bnn_lightning.deploy.kernels.rules import MOST_ELEMENTS

_WORD, _BLOCK = 32, 16  # signs of a word; output channels of a block
_MOST_DIMENSIONS = 8  # of a result
_MOST_MOVE = 1 << 16  # stride, padding and dilation of a binary convolution
_MOST_IN_ALL = 1 << 30  # of all results for one image
# Limits grow with a file's bytes, so that no small file loads twice as long as BNext-Tiny: 496 nodes, 14 MB and 28
# million signs. A node takes 11 to 17 microseconds, some more for what it reads, and a constant half of that.
_NODES, _BYTES_OF_NODE = 1560, 1 << 12
_ITEMS_OF_NODE, _CONSTANTS_OF_NODE = 8, 4
_SIGNS, _SIGNS_OF_BYTE = 1 << 23, 8  # of packed layers, filled up to whole words
_WORDS, _WORDS_OF_BYTE = 1 << 22, 2  # of packed layers, filled up to whole blocks


def check_sizes(graph: Graph, size: int) -> None:
    """Refuse graphs that are longer, and packed layers that are larger, than their file justifies.

    Args:
        graph: Graph of the file.
        size: Bytes of its constants.

    Raises:
        ValueError: Says what there is too much of.
    """
    most = _NODES + size // _BYTES_OF_NODE
    signs, words = 0, 0
    for node in graph.nodes:
        if node.operation == "binary_conv2d" and node["groups"] > 0:
            of_node = _words(graph.constants[node["signs"].index].shape)
            signs += of_node * _WORD
            words += of_node if node["groups"] == 1 else of_node * _BLOCK
    for count, limit, what in (
        (sum(_count(node) for node in graph.nodes) + len(graph.constants) // 2, most, "nodes and pairs of constants"),
        (signs, _SIGNS + _SIGNS_OF_BYTE * size, "signs in packed layers"),
        (words, _WORDS + _WORDS_OF_BYTE * size, "words in packed layers"),
    ):
        if count > limit:
            raise ValueError(f"It has {count} {what}; a file of its size has at most {limit}.")


def _count(node: Node) -> int:
    items = sum(len(value) for value in node.attributes.values() if isinstance(value, list))
    return 1 + (len(node.inputs) + items) // _ITEMS_OF_NODE + len(node.constants()) // _CONSTANTS_OF_NODE


def _words(shape: tuple[int, ...]) -> int:
    """Return the words of a packed layer's signs, before blocks are filled up."""
    return shape[0] * -(-shape[1] // _WORD) * math.prod(shape[2:]) if len(shape) == 4 else 0


def check_signs(graph: Graph) -> None:
    """Refuse binary convolutions with weights that are neither -1 nor +1.

    Raises:
        ValueError: Names the constant.
    """
    read = {node["signs"].index for node in graph.nodes if node.operation == "binary_conv2d"}
    for constant in (graph.constants[index] for index in read):
        if constant.dtype != "bits" and not (np.abs(constant.array) == 1).all():
            raise ValueError(f"`{constant.name}` holds other numbers than -1 and +1, and is read as signs.")


def dry_run(graph: Graph, shape: tuple[int, int, int], class_names: Sequence[str] = ()) -> list[Type]:
    """Check a graph by its types alone, for any number of images.

    Args:
        graph: Graph of the file.
        shape: Shape of an image: channels, height, width.
        class_names: One a class; empty if they are not known.

    Returns:
        The types of the images and of all results.

    Raises:
        ValueError: Inputs do not fit, results are too large, or are no logits.
    """
    if math.prod(shape) > MOST_ELEMENTS:
        raise ValueError(f"Images of {'x'.join(map(str, shape))} are beyond any network's.")
    types, elements = [Type((Images(1), *shape))], 0
    for node in graph.nodes:
        types.append(type_of(graph, node, types))
        elements += types[-1].elements
        _refuse_monsters(graph, node, types)
        if elements > _MOST_IN_ALL:
            raise ValueError(f"The results of {len(types) - 1} nodes together are beyond any network's.")
    logits = types[-1]
    if len(logits.shape) != 2 or logits.shape[0] != Images(1) or logits.dtype != "f32":
        raise ValueError(f"Its output is {text_of(logits)}: no logits, a row for each image.")
    if class_names and logits.shape[1] != len(class_names):
        raise ValueError(f"There are {len(class_names)} names for {logits.shape[1]} classes.")
    return types


def _refuse_monsters(graph: Graph, node: Node, types: Sequence[Type]) -> None:
    """Refuse the last result, or a padded map before its binary layer, that no network has."""
    result, elements = types[-1], types[-1].elements
    if node.operation == "binary_conv2d":
        if any(item >= _MOST_MOVE for name in ("stride", "padding", "dilation") for item in node[name]):
            raise ValueError(f"A stride, padding or dilation of a binary convolution must be below {_MOST_MOVE}.")
        number, _, height, width = types[node.values()[0]].for_images(1)
        top, bottom, left, right = node["padding"]
        words = node["groups"] * -(-graph.constants[node["signs"].index].shape[1] // _WORD)
        elements = max(elements, number * (height + top + bottom) * (width + left + right) * words)
    if elements > MOST_ELEMENTS or len(result.shape) > _MOST_DIMENSIONS:
        raise ValueError(f"A result of the type {text_of(result)}, or what is padded for it, is beyond any network's.")
