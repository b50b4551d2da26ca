"""Epilogues of binary convolutions: they absorb what follows them (ReLU, batch norm, an addition, PReLU, a clamp)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from bnn_lightning.deploy.ir.graph import Array, AttributeValue, Constant, ConstantRef, Graph, Input, Node, Value
from bnn_lightning.deploy.ir.operations import EPILOGUE, PARTS
from bnn_lightning.deploy.ir.rewrite import Rewriter, without_dead_nodes
from bnn_lightning.deploy.ir.types import Images, Type

# Stages of an epilogue; each step may follow those before it.
_AFFINE, _RESIDUAL, _LIFT, _SLOPE, _SHIFT, _CLAMP = range(6)
_CENTERS = {"pull", "center"}  # they are added between gain and offset
_NO_PLACE = "there is no place for it behind what was folded before"


@dataclass(frozen=True)
class Folded:
    """The result of `fold_epilogue`.

    Attributes:
        graph: The graph, whose binary convolutions compute what followed them.
        folded: Names of the operations that they compute now.
        unfolded: Names of the operations behind them that could be folded and are not, and why.
    """

    graph: Graph
    folded: tuple[str, ...]
    unfolded: dict[str, str]


def fold_epilogue(graph: Graph, types: Sequence[Type]) -> Folded:
    """Fold the operations behind binary convolutions into them.

    Folded is what has no other user and stands in the order that kernels have: affine maps of channels with a ReLU
    between them, one addition of a map, a shift, PReLU, a shift, a clamp or ReLU. Each keeps its rounding, so that no
    bit changes; what has no place for it is not folded.

    Args:
        graph: The graph.
        types: Types of the images and of the result of each node.

    Example:
        >>> from bnn_lightning.deploy.ir.shapes import types_of
        >>> signs = Constant.of("conv.signs", "bits", np.ones((2, 2, 1, 1), np.int8))
        >>> slope, scale = Constant.of_array("slope", np.full(2, 0.5, "f")), Constant.of_array("scale", np.ones(2, "f"))
        >>> bias = Constant.of_array("bias", np.zeros(2, "f"))
        >>> parts = {"signs": ConstantRef(0), "scale": ConstantRef(2), "bias": ConstantRef(3)}
        >>> nodes = Node("binary_conv2d", (Value(0),), parts), Node("prelu", (Value(1), ConstantRef(1)), {}, "act")
        >>> graph = Graph(nodes, (signs, slope, scale, bias))
        >>> folded = fold_epilogue(graph, types_of(graph, (2, 4, 4)))
        >>> [node.operation for node in folded.graph.nodes], folded.folded
        (['binary_conv2d'], ('act',))
    """
    network = _Network(graph, types)
    chains = [
        _Chain(network, number, _Epilogue.of(graph, node))
        for number, node in enumerate(graph.nodes, start=1)
        if node.operation == "binary_conv2d"
    ]
    for chain in chains:
        chain.absorb()
    folded = tuple(graph.nodes[number - 1].name for chain in chains for number in chain.absorbed)
    unfolded = {name: reason for chain in chains for name, reason in chain.stopped.items()}
    return Folded(_rewritten(graph, chains), folded, unfolded)


def _rewritten(graph: Graph, chains: Sequence["_Chain"]) -> Graph:
    """Return the graph with folded convolutions: each stands where the map stood that is added to it."""
    rewriter = Rewriter(graph)
    places = {chain.place: chain for chain in chains}
    moved = {number for chain in chains for number in chain.moved()}
    same = {number: before for chain in chains for number, before in chain.absorbed.items()}
    constants: dict[tuple[str, bytes], ConstantRef] = {}
    for number, node in enumerate(graph.nodes, start=1):
        if number in places:
            rewriter.values[number] = places[number].emit(rewriter, constants)
        elif number in same and number not in moved:
            rewriter.values[number] = rewriter.values[same[number]]
        elif number not in moved:
            rewriter.values[number] = rewriter.copy(node)
    return without_dead_nodes(rewriter.result(), rewriter.values[len(graph.nodes)])


class _Network:
    """A graph with types and users, and the nodes that were folded."""

    def __init__(self, graph: Graph, types: Sequence[Type]) -> None:
        self.graph, self.types, self.users = graph, types, graph.users()
        self.taken: set[int] = set()

    def of_channels(self, item: Input, of: Type) -> Array | None:
        """Return values of channels, (channels,), that are added to a map or to rows; None: it is something else."""
        channels, rank = of.for_images(1)[1], len(of.shape)
        shape = None
        if isinstance(item, Value):
            node = self.graph.nodes[item.number - 1] if item.number else None
            if node is None or node.operation != "reshape" or self.types[item.number].grows:
                return None
            shape, item = self.types[item.number].for_images(1), node.inputs[0]
        if not isinstance(item, ConstantRef) or self.graph.constants[item.index].dtype not in ("f32", "bits"):
            return None
        values = _floats(self.graph, item)
        shape = values.shape if shape is None else shape
        each = (channels, *[1] * (rank - 2))
        if shape not in (each, (1, *each)) and (values.size != 1 or len(shape) > rank):
            return None
        return np.broadcast_to(values.ravel(), channels)


@dataclass
class _Epilogue:
    """Operations behind the sums of a convolution; see `EPILOGUE`.

    Attributes:
        parts: Values by name, (out_channels,) in float32; scale and bias are always there.
        low: Lower bound.
        high: Upper bound.
        stage: The last stage of it.
    """

    parts: dict[str, Array]
    low: AttributeValue | None
    high: AttributeValue | None
    stage: int

    @classmethod
    def of(cls, graph: Graph, node: Node) -> "_Epilogue":
        """Return the epilogue that a node has already."""
        channels = graph.constants[node["signs"].index].shape[0]
        parts = {"scale": np.ones(channels, np.float32), "bias": np.zeros(channels, np.float32)}
        parts |= {name: _floats(graph, node[name]) for name in EPILOGUE if node[name] is not None}
        stages = {_RESIDUAL: len(node.inputs) > 1, _LIFT: "lift" in parts, _SLOPE: "slope" in parts}
        stages |= {_SHIFT: "shift" in parts, _CLAMP: node["low"] is not None or node["high"] is not None}
        stage = max((stage for stage, reached in stages.items() if reached), default=_AFFINE)
        epilogue = cls(parts, node["low"], node["high"], stage)
        if not parts.keys() & {"offset", "floor", *_CENTERS} and "gain" in parts and _are_powers_of_two(parts["gain"]):
            parts["scale"] = parts.pop("gain") * parts["scale"]
        return epilogue

    def affine(self, scale: Array, bias: Array) -> bool:
        """Let `scale * y + bias` follow; whether there was a place for another rounding."""
        if self.stage != _AFFINE or not self._make_room():
            return False
        self.parts["scale"], self.parts["bias"] = self.parts["scale"] * scale, bias
        return True

    def rectify(self) -> bool:
        """Let ReLU follow; whether there was a place for it."""
        ahead = self.stage == _AFFINE and "floor" not in self.parts and self._make_room()
        if ahead and (self.parts["scale"] > 0).all():  # these are exact here, and may stand behind the floor
            self.parts["floor"] = np.zeros_like(self.parts["scale"])
        elif self.stage < _CLAMP:
            self.low, self.stage = 0.0, _CLAMP
        else:
            return False
        return True

    def _make_room(self) -> bool:
        """Let gain and offset do what scale and bias do, but for powers of two; whether these are free then."""
        scale, bias = self.parts["scale"], self.parts["bias"]
        exact, biased = _are_powers_of_two(scale), bool(bias.any())
        if exact and not biased:
            return True
        if "floor" in self.parts or (self.parts.keys() & _CENTERS and not (scale == 1).all()):
            return False
        # A product and a sum are rounded once in scale and bias, but twice in gain and offset; so are two products.
        if "offset" in self.parts or (biased and not exact) or not (exact or "gain" not in self.parts):
            return False
        if not (scale == 1).all():
            self.parts["gain"] = self.parts["gain"] * scale if "gain" in self.parts else scale
        if biased:
            self.parts["offset"] = bias
        self.parts["scale"], self.parts["bias"] = np.ones_like(scale), np.zeros_like(bias)
        return True


@dataclass
class _Chain:
    """A binary convolution, and how far its epilogue has come.

    Attributes:
        network: The graph that it stands in.
        number: Number of the convolution.
        epilogue: Operations behind its sums.
        residual: The map, or the rows, that it adds besides.
        views: Numbers of the values that are its result as rows.
        absorbed: Numbers of what it computes besides, each with the value before it.
        stopped: Names of what follows and cannot be folded into it, and why.
    """

    network: _Network
    number: int
    epilogue: _Epilogue
    residual: Input | None = None
    views: list[int] = field(default_factory=list)
    absorbed: dict[int, int] = field(default_factory=dict)
    stopped: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.at = self.place = self.number  # the value that has been reached; where the convolution will stand

    @property
    def type(self) -> Type:
        """Type of the value that has been reached."""
        return self.network.types[self.at]

    def absorb(self) -> None:
        """Fold what follows, as far as it goes."""
        while True:
            places = self.network.users.get(self.at, ())
            if len(places) != 1 or places[0] + 1 in self.network.taken:  # floats that are read anyway
                return
            number, node = places[0] + 1, self.network.graph.nodes[places[0]]
            if self._is_rows(node, number):
                self.views.append(number)
            elif node.operation not in _STEPS or len(self.type.shape) not in (2, 4):
                return
            elif reason := _STEPS[node.operation](self, node, number):
                self.stopped[node.name] = reason
                return
            else:
                self.absorbed[number] = self.at
                self.network.taken.add(number)
            self.at = number

    def _is_rows(self, node: Node, number: int) -> bool:
        """Whether a node makes rows, (N, C), of a map of one pixel."""
        match self.type.shape, self.network.types[number].shape:
            case (Images() as images, channels, 1, 1), (Images() as rows, features):
                return node.operation == "reshape" and (images, channels) == (rows, features)
        return False

    def moved(self) -> set[int]:
        """Return the numbers of the nodes that the convolution passes, if it stands elsewhere now."""
        return {number for number in (self.number, *self.views, *self.absorbed) if number < self.place}

    def emit(self, rewriter: Rewriter, constants: dict[tuple[str, bytes], ConstantRef]) -> Value:
        """Append the convolution, and return its result in the shape that is read."""
        graph = self.network.graph
        node, signs = graph.nodes[self.number - 1], graph.nodes[self.number - 1]["signs"]
        prefix = graph.constants[signs.index].name.removesuffix(".signs")
        attributes: dict[str, AttributeValue] = {"signs": rewriter.kept(signs)}
        for name in (name for name in EPILOGUE if name in self.epilogue.parts):
            values = np.ascontiguousarray(self.epilogue.parts[name])
            key = f"{prefix}.{name}", values.tobytes()
            if key not in constants:
                constants[key] = rewriter.constant(Constant.of_array(key[0], values))
            attributes[name] = constants[key]
        if node["threshold"] is not None:
            attributes["threshold"] = rewriter.kept(node["threshold"])
        kept = {name: value for name, value in node.attributes.items() if name not in (*PARTS, "low", "high")}
        bounds = {"low": self.epilogue.low, "high": self.epilogue.high}
        attributes |= kept | {name: bound for name, bound in bounds.items() if bound is not None}
        inputs = [rewriter.moved(item) for item in node.inputs]
        views = [number for number in self.views if number < self.place]
        if self.residual is not None:
            residual = rewriter.moved(self.residual)
            if views:
                residual = rewriter.add("reshape", [residual], {"shape": [-1, self.type.for_images(1)[1], 1, 1]})
            inputs.append(residual)
        value = rewriter.add("binary_conv2d", inputs, attributes, node.name)
        for view in (graph.nodes[number - 1] for number in views):
            value = rewriter.add("reshape", [value], view.attributes, view.name)
        return value


# The steps: fold a node, by its number; return why not, or nothing.


def _affine(chain: _Chain, node: Node, number: int) -> str:
    channels = chain.type.for_images(1)[1]
    if not all(isinstance(item, ConstantRef) for item in node.inputs[1:]):
        return "its scale and shift are no constants"
    scale, shift = (_floats(chain.network.graph, item).ravel() for item in node.inputs[1:])
    if not scale.size == shift.size == channels:
        return "it scales something else than channels"
    return "" if chain.epilogue.affine(scale, shift) else _NO_PLACE


def _add(chain: _Chain, node: Node, number: int) -> str:
    if len(node.inputs) != 2:
        return "it adds a number"
    (other,) = (item for item in node.inputs if item != Value(chain.at))
    values = chain.network.of_channels(other, chain.type)
    if values is not None:
        return _shift(chain.epilogue, values)
    if not isinstance(other, Value) or chain.network.types[other.number] != chain.type:
        return "it adds neither a map of this shape nor a value of each channel"
    if chain.epilogue.stage != _AFFINE:
        return _NO_PLACE
    chain.residual, chain.place, chain.epilogue.stage = other, number, _RESIDUAL
    return ""


def _shift(epilogue: _Epilogue, values: Array) -> str:
    if epilogue.affine(np.ones_like(values), values):
        return ""
    if epilogue.stage > _SLOPE:
        return _NO_PLACE
    name, epilogue.stage = ("shift", _SHIFT) if epilogue.stage > _RESIDUAL else ("lift", _LIFT)
    epilogue.parts[name] = values
    return ""


def _prelu(chain: _Chain, node: Node, number: int) -> str:
    channels = chain.type.for_images(1)[1]
    slope = node.inputs[1]
    if not isinstance(slope, ConstantRef):
        return "its slopes are no constants"
    if chain.epilogue.stage > _LIFT:
        return _NO_PLACE
    chain.epilogue.parts["slope"] = np.broadcast_to(_floats(chain.network.graph, slope).ravel(), channels)
    chain.epilogue.stage = _SLOPE
    return ""


def _clamp(chain: _Chain, node: Node, number: int) -> str:
    if chain.epilogue.stage > _SHIFT:
        return _NO_PLACE
    low, high = (None if bound is None else float(bound) for bound in (node["low"], node["high"]))
    chain.epilogue.low, chain.epilogue.high, chain.epilogue.stage = low, high, _CLAMP
    return ""


def _relu(chain: _Chain, node: Node, number: int) -> str:
    return "" if chain.epilogue.rectify() else _NO_PLACE


_STEPS: dict[str, Callable[[_Chain, Node, int], str]] = {
    "add": _add,
    "affine": _affine,
    "clamp": _clamp,
    "prelu": _prelu,
    "relu": _relu,
}


def _floats(graph: Graph, item: Input) -> Array:
    assert isinstance(item, ConstantRef)
    values: Array = graph.constants[item.index].array.astype(np.float32, copy=False)
    return values


def _are_powers_of_two(values: Array) -> bool:
    """Whether products with these are exact: all are powers of two or 0."""
    return bool(((np.abs(np.frexp(values)[0]) == 0.5) | (values == 0)).all())
