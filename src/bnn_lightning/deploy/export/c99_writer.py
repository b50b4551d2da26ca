"""Writer of a graph in C: which nodes are computed, the constants that they read, and places of what they compute."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bnn_lightning.deploy.export.c99_text import C99Error, array
from bnn_lightning.deploy.ir.graph import Array, Constant, ConstantRef, Graph, Input, Node, Value
from bnn_lightning.deploy.ir.types import Images, Type, text_of
from bnn_lightning.deploy.planner.memory import Buffer, lay_out
from bnn_lightning.deploy.planner.schedule import schedule
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

Shape = tuple[int, ...]
Rule = Callable[["Writer", int, Node], None]
# Returns the values that a rule reads of a node, where these are not the node's own.
Reads = Callable[[TypedGraph, int], Iterable[int]]

_IMAGES = Images(1)


def _named(node: Node) -> str:
    """Return what a node computes, and its name where it has one."""
    return f"`{node.operation}` (`{node.name}`)" if node.name else f"`{node.operation}`"


def _outer(of: Type) -> int | None:
    """Return how many times the elements of a value go through the images; None: it is not one of each image."""
    return math.prod(of.for_images(1)[: of.shape.index(_IMAGES)]) if _IMAGES in of.shape else None


class Writer:
    """Calls, constants and memory of a graph, for one image.

    Args:
        graph: The graph.
        types: Types of the images and of the result of each node.
        rules: Writer of the calls of each operation, by name.
        reads: Inputs that a rule reads, by name of the operation; others read the values of the node.

    Attributes:
        calls: Calls in C. The place of a buffer stands as its key between two `@`.
        used: Names of the functions of `portable.c` that they need.
        constants: Arrays in C by name.
        flash: Bytes of these.
    """

    def __init__(
        self, graph: Graph, types: Sequence[Type], rules: Mapping[str, Rule], reads: Mapping[str, Reads]
    ) -> None:
        self.typed = TypedGraph(graph, types, takes_bytes=True)
        self.graph, self.shapes = graph, [item.for_images(1) for item in types]
        self.calls: list[str] = []
        self.used: set[str] = {"sizes", "window"}
        self.constants: dict[str, str] = {}
        self.flash = 0
        self._rules, self._reads = rules, self._needed(reads)
        self._groups = self._groups_of_sums()
        self._aliases: dict[int, int] = {}
        # A node takes two steps of time: some are done with their input before they write.
        self._buffers: dict[Any, Buffer] = {0: Buffer(4 * math.prod(self.shapes[0]), 0, 1)}

    def write(self) -> int:
        """Write all nodes that are needed, and return the bytes of working memory."""
        for number, values in self._reads.items():
            for value in values:
                self.keep(value, 2 * number + 1)
            node = self.graph.nodes[number - 1]
            if node.operation not in self._rules:
                raise C99Error(
                    f"{_named(node)} is not known in C99: take format=header, whose C library has all operations of "
                    "packed files, or leave it to the program that calls the network."
                )
            self._check_images(number, node)
            self._rules[node.operation](self, number, node)
        self.keep(len(self.graph.nodes), 2 * len(self.graph.nodes) + 2)
        return lay_out(list(self._buffers.values()))

    def _check_images(self, number: int, node: Node) -> None:
        """Refuse results that are not one value for each image, and empty ones."""
        of, what = self.typed.types[number], _named(node)
        if _IMAGES not in of.shape:
            raise C99Error(
                f"{what} gives {text_of(of)}, N images in a call: C99 computes one image at a time, and needs a "
                "dimension of the size N. Leave this operation to the program that calls the network."
            )
        if not of.elements:
            raise C99Error(f"{what} gives {text_of(of)}, which holds no elements: C99 computes no empty values.")
        across = node.operation in ("softmax", "log_softmax") and of.shape[node["dim"]] == _IMAGES
        if node.operation == "reshape":
            (value,) = node.values()
            across = _outer(self.typed.types[value]) != _outer(of)
        if across:
            raise C99Error(f"{what} mixes the images of a call in {text_of(of)}: C99 computes one image at a time.")

    def _needed(self, reads: Mapping[str, Reads]) -> dict[int, list[int]]:
        """Return what is read by each node that the output needs, in order."""
        found: dict[int, list[int]] = {}
        wanted = {len(self.graph.nodes)}
        for number in range(len(self.graph.nodes), 0, -1):
            if number in wanted:
                node = self.graph.nodes[number - 1]
                rule = reads.get(node.operation)
                found[number] = node.values() if rule is None else list(rule(self.typed, number))
                wanted.update(found[number])
        return dict(reversed(found.items()))

    def _groups_of_sums(self) -> dict[int, int]:
        """Return, by value, how a packed file adds up the pixels of its map where that is not one by one."""
        return {
            action.number: 4 if action.half is None else 2
            for action in schedule(self.typed)
            if action.sums is not None and action.lowering is not None and action.lowering.halves
        }

    def group_of(self, value: int) -> int:
        """Return the group of pixels that `bnn_mean` adds first for a map: 1, 4 in a row, or 2x2."""
        return self._groups.get(self.typed.origins[value], 1)

    def _root(self, value: int) -> int:
        return self._aliases.get(value, value)

    def keep(self, value: int, step: int) -> None:
        """Keep a value in memory up to a step of time."""
        buffer = self._buffers[self._root(value)]
        buffer.end = max(buffer.end, step)

    def alias(self, number: int, value: int) -> None:
        """Let a node's result be a value that is in memory."""
        self._aliases[number] = self._root(value)

    def result(self, number: int, over: Iterable[int] = (), *, late: bool = False) -> str:
        """Return where a node writes: in the place of a value that nothing else needs, or in one of its own.

        Args:
            number: Number of the node.
            over: Values that may be overwritten: each of their elements is read before its place is written.
            late: Whether it writes in its second step.
        """
        size = 4 * math.prod(self.shapes[number])
        for root in dict.fromkeys(map(self._root, over)):
            if root and self._buffers[root].size == size and not self._is_read_behind(number, root):
                self.alias(number, root)
                self._buffers[root].end = 2 * number + 1
                return f"@{root}@"
        self._buffers[number] = Buffer(size, 2 * number + late, 2 * number + 1)
        return f"@{number}@"

    def _is_read_behind(self, number: int, root: int) -> bool:
        last = len(self.graph.nodes)
        behind = {self._root(value) for place, values in self._reads.items() if place > number for value in values}
        return root in behind or (self._root(last) == root and number < last)

    def scratch(self, number: int, name: str, size: int) -> str:
        """Return memory of a node, of some bytes, that nothing else reads."""
        self._buffers[name, number] = Buffer(size, 2 * number, 2 * number + 1)
        return f"@{(name, number)}@"

    def free_early(self, number: int, value: int, *others: int) -> None:
        """Free a value after the node's first step, if neither others that it reads nor later nodes need it."""
        root = self._root(value)
        if root not in map(self._root, others) and not self._is_read_behind(number, root):
            self._buffers[root].end = 2 * number

    def value(self, item: Input) -> tuple[str, Shape]:
        """Return where a value lies, and its shape."""
        if not isinstance(item, Value):
            raise C99Error(f"`{self.graph.constants[item.index].name}` is no result of a node.")
        return f"@{self._root(item.number)}@", self.shapes[item.number]

    def map_of(self, node: Node) -> tuple[str, Shape]:
        """Return where the first input of a layer lies, and its shape: (1, channels, ...).

        Raises:
            C99Error: It holds more than one map for each image.
        """
        source, shape = self.value(node.inputs[0])
        if shape[:1] != (1,):
            (number, *_) = node.values()
            raise C99Error(
                f"{_named(node)} of {text_of(self.typed.types[number])} is not known in C: it takes "
                "maps with the images first, (N, C, ...)."
            )
        return source, shape

    def stored(self, item: Input) -> Constant:
        """Return a constant of the file."""
        return self.graph.constants[self.ref(item).index]

    def ref(self, item: Input) -> ConstantRef:
        """Return an input that must be a constant of the file."""
        if isinstance(item, ConstantRef):
            return item
        node = self.typed.node_of(item)
        raise C99Error(
            f"A constant that `{'the images' if node is None else node.operation}` computes is not known in C."
        )

    def tensor(self, item: Input | None) -> str:
        """Return the name of a constant of floats in C, 0 for none."""
        if item is None:
            return "0"
        ref, constant = self.ref(item), self.stored(item)
        if constant.dtype not in ("f32", "bits"):
            raise C99Error(f"`{constant.name}` is {constant.dtype}; C takes floats and signs.")
        return self.constant(f"t{ref.index}", "float", constant.array.astype("f4"), constant.name)

    def constant(self, key: str, kind: str, values: Array, comment: str) -> str:
        """Return the name of an array, which is written once."""
        if key not in self.constants:
            self.constants[key] = array(key, kind, values, comment)
            self.flash += values.nbytes
        return key

    def call(self, function: str, *arguments: object) -> None:
        """Write a call of a function of `portable.c`."""
        self.used.add(function)
        self.calls.append(f"bnn_{function.replace(' ', '_')}({', '.join(map(str, arguments))});")

    def placed(self, text: str) -> str:
        """Put places, in floats from the begin of the memory, for the keys of buffers."""
        for key, buffer in self._buffers.items():
            text = text.replace(f"@{key}@", f"(memory + {buffer.offset // 4})")
        return text

    @property
    def last(self) -> str:
        """The place of the logits."""
        return f"@{self._root(len(self.graph.nodes))}@"
