"""The intermediate representation of a packed network: nodes with one result each, in the order in which they run.

Plain data and numpy: to read a graph needs no torch.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.operations import LATER, Attribute, operation_of

Array = NDArray[Any]

_MOST = 1 << 31  # torch's kernels count in 32 bits, here and there
_MOST_ITEMS = 64  # of a list
_TO_THE_END = (1 << 63) - 1  # what torch writes for the end of a slice
_DTYPES = {"float32": "f32", "int8": "i8", "int32": "i32", "int64": "i64"}
_FEW = 64  # a tensor of fewer signs is not worth the name of another type


class GraphError(ValueError):
    """A network does something that a graph cannot say, or that a pass does not take."""


@dataclass(frozen=True)
class Value:
    """The result of a node: 0 is the images, n that of the n-th node, counted from 1."""

    number: int


@dataclass(frozen=True)
class ConstantRef:
    """A constant, by its place in the graph's table."""

    index: int


Input: TypeAlias = Value | ConstantRef
AttributeValue: TypeAlias = int | float | bool | str | list[int] | ConstantRef


@dataclass(frozen=True, eq=False)
class Constant:
    """A tensor of a graph.

    Attributes:
        name: Name of the tensor in the network.
        dtype: "f32", "i8", "i32", "i64", or "bits" for signs.
        shape: Shape of the tensor, in elements.
        read: Returns its values; signs as -1 and +1.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], Array] = field(repr=False)

    @classmethod
    def of(cls, name: str, dtype: str, values: Array) -> "Constant":
        """Return a constant that holds an array."""
        return cls(name, dtype, values.shape, lambda: values)

    @classmethod
    def of_array(cls, name: str, values: Array) -> "Constant":
        """Return a constant of the type that an array has; 64 floats and more that are all -1 or +1 are signs.

        Raises:
            GraphError: Constants are not of its type.
        """
        if values.dtype.name not in _DTYPES:
            raise GraphError(f"`{name}` is {values.dtype.name}; a packed file holds {', '.join(_DTYPES)}.")
        signs = values.dtype.kind == "f" and values.size >= _FEW and bool(np.all(np.abs(values) == 1))
        return cls.of(name, "bits" if signs else _DTYPES[values.dtype.name], values)

    @property
    def array(self) -> Array:
        """The values; signs as -1 and +1."""
        return self.read()


@dataclass(frozen=True)
class Node:
    """A call of an operation.

    Attributes:
        operation: Its name, a key of `operations.OPERATIONS`.
        inputs: Values and constants that it reads, by position.
        attributes: Everything else, by name; what is absent has its default.
        name: Path in the network that it was captured from; files do not hold it.

    Example:
        >>> node = Node("mean", (Value(0),), {"dims": [2, 3]})
        >>> node["dims"], node["keepdim"]
        ([2, 3], False)
    """

    operation: str
    inputs: tuple[Input, ...]
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    name: str = field(default="", compare=False)

    def __getitem__(self, name: str) -> Any:
        """Return an attribute, or its default."""
        if name in self.attributes:
            return self.attributes[name]
        return operation_of(self.operation).attributes[name].default

    def input(self, place: int) -> Input | None:
        """Return an input, None where there is none."""
        return self.inputs[place] if place < len(self.inputs) else None

    def values(self) -> list[int]:
        """Return the numbers of the values that it reads."""
        return [item.number for item in self.inputs if isinstance(item, Value)]

    def constants(self) -> list[ConstantRef]:
        """Return the constants that it reads."""
        return [item for item in (*self.inputs, *self.attributes.values()) if isinstance(item, ConstantRef)]


@dataclass(frozen=True)
class Graph:
    """The nodes of a network; the result of the last one is the logits.

    Attributes:
        nodes: In the order in which they run.
        constants: The table that `ConstantRef` counts in.

    Example:
        >>> import numpy as np
        >>> one = Constant.of("one", "f32", np.ones(1, np.float32))
        >>> graph = Graph((Node("relu", (Value(0),)), Node("add", (Value(1), ConstantRef(0)))), (one,))
        >>> graph.plain()
        [['relu', [0]], ['add', [1, {'c': 0}]]]
        >>> Graph.from_plain(graph.plain(), graph.constants) == graph
        True
    """

    nodes: tuple[Node, ...]
    constants: tuple[Constant, ...] = ()

    def plain(self) -> list[Any]:
        """Return the nodes as plain values, for JSON: operation, inputs, and attributes if there are any."""
        return [
            [
                node.operation,
                [_plain(item) for item in node.inputs],
                *([{name: _plain(value) for name, value in node.attributes.items()}] if node.attributes else []),
            ]
            for node in self.nodes
        ]

    @classmethod
    def from_plain(cls, plain: Any, constants: Sequence[Constant]) -> "Graph":
        """Undo `plain`, and check that every value exists before it is used.

        Args:
            plain: Result of `plain`, read from JSON.
            constants: The table of constants.

        Raises:
            ValueError: It is no graph, or has an operation or attribute that is unknown.
        """
        if not isinstance(plain, list) or not plain:
            raise ValueError("The graph must be a list of nodes.")
        nodes = tuple(_node(row, number, len(constants)) for number, row in enumerate(plain, start=1))
        return cls(nodes, tuple(constants))

    def users(self) -> dict[int, list[int]]:
        """Return, for each value that is read, the places of the nodes that read it, as often as they do."""
        users: dict[int, list[int]] = {}
        for place, node in enumerate(self.nodes):
            for value in node.values():
                users.setdefault(value, []).append(place)
        return users

    def last_uses(self) -> list[tuple[int, ...]]:
        """Return, for each node, the values that nothing needs after it."""
        ends: list[list[int]] = [[] for _ in self.nodes]
        for value, places in self.users().items():
            ends[places[-1]].append(value)
        return [tuple(sorted(values)) for values in ends]


def _plain(item: Any) -> Any:
    match item:
        case Value(number):
            return number
        case ConstantRef(index):
            return {"c": index}
    return item


def _node(row: Any, number: int, constants: int) -> Node:
    match [*row, {}][:3] if isinstance(row, list) and len(row) in (2, 3) else row:
        case [str(name), [*inputs], dict(attributes)]:
            pass
        case _:
            raise ValueError(f"Node {number} must be an operation, its inputs and its attributes.")
    operation = operation_of(name)
    if not operation.least <= len(inputs) <= operation.most:
        raise ValueError(f"Node {number}, `{name}`, has {len(inputs)} inputs: {operation.least} to {operation.most}.")
    unknown = [key for key in attributes if key not in operation.attributes]
    if unknown:
        known = ", ".join(operation.attributes) or "none"
        raise ValueError(
            f"Node {number}, `{name}`, has an unknown attribute `{unknown[0]:.60}`; known: {known}. {LATER}"
        )
    given = {
        key: _attribute(attributes[key], attribute, f"Node {number}, `{name}`: `{key}`", constants)
        for key, attribute in operation.attributes.items()
        if key in attributes
    }
    missing = [key for key, attribute in operation.attributes.items() if attribute.required and key not in given]
    if missing:
        raise ValueError(f"Node {number}, `{name}`, has no {', '.join(missing)}.")
    return Node(name, tuple(_input(item, number, constants) for item in inputs), given)


def _input(item: Any, number: int, constants: int) -> Input:
    if type(item) is int and 0 <= item < number:
        return Value(item)
    constant = _constant(item, constants)
    if constant is None:
        raise ValueError(f"Node {number}: {item!r:.80} is no value before it, and no constant.")
    return constant


def _constant(item: Any, constants: int) -> ConstantRef | None:
    match item:
        case {"c": int(index)} if len(item) == 1 and type(index) is int and 0 <= index < constants:
            return ConstantRef(index)
    return None


_LENGTHS = {"ints": range(_MOST_ITEMS + 1), "pair": (2,), "quad": (4,)}


def _attribute(value: Any, attribute: Attribute, where: str, constants: int) -> AttributeValue:
    match attribute.kind:
        case "int":
            fits = _is_whole(value)
        case "number":
            fits = type(value) is float or _is_whole(value)
        case "bool":
            fits = type(value) is bool
        case "str":
            fits = isinstance(value, str)
        case "constant":
            value = _constant(value, constants)
            fits = value is not None
        case _:
            lengths = _LENGTHS[attribute.kind]
            fits = isinstance(value, list) and len(value) in lengths and all(_is_whole(item) for item in value)
    if not fits:
        raise ValueError(f"{where} must be of the type {attribute.kind}, got {value!r:.80}.")
    return value  # type: ignore[no-any-return]


def _is_whole(value: Any) -> bool:
    return type(value) is int and (-_MOST <= value < _MOST or value == _TO_THE_END)
