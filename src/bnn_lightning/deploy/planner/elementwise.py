"""Lowering of elementwise operations, in one pass over the map: from a gate to the next layer's signs."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.ir.graph import Input, Node, Value
from bnn_lightning.deploy.kernels.call import KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.elementwise import FusedElementwise
from bnn_lightning.deploy.kernels.layout import BLOCK, Activation, Map
from bnn_lightning.deploy.planner.lowering import Lowering, Places
from bnn_lightning.deploy.planner.match import Chain
from bnn_lightning.deploy.planner.typed_graph import TypedGraph

Array = NDArray[Any]
_VALUES = ("residual_slope", "scale", "bias", "inner")


@dataclass(frozen=True, eq=False)
class _Pass:
    """A pass over a map: what it computes, and the numbers of what it reads."""

    layer: FusedElementwise
    x: int
    gate: int | None = None
    residual: int | None = None

    @property
    def reads(self) -> tuple[int, ...]:
        given = (self.x, self.gate, self.residual)
        return tuple(number for number in given if number is not None)

    def call(
        self, graph: TypedGraph, constants: ConstantSection, places: Places, out: Map | None, node: int
    ) -> KernelCall:
        return self.layer.call(
            constants,
            graph.map_at(self.x, places),
            out,
            gate=None if self.gate is None else places[self.gate],
            residual=None if self.residual is None else graph.map_at(self.residual, places),
            node=node,
        )


def combination(graph: TypedGraph, number: int) -> Lowering | None:
    """Elementwise operations in one pass: gates, products, affine maps, PReLU, an addition, clamp."""
    found = _pass_to(graph, Value(number))
    if found is None or found.x == number:
        return None

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        out = graph.map_at(number, places) if number in places else None
        return [found.call(graph, constants, places, out, number)]

    over = tuple(item for item in found.reads if graph.types[item] == graph.types[number])
    return Lowering(number, _unique(found.reads), build, emits=True, sums=True, halves=True, over=over)


def concatenation(graph: TypedGraph, number: int) -> Lowering | None:
    """Maps side by side, each computed in its place, or two alike in one pass."""
    node = graph.nodes[number - 1]
    if node["dim"] not in (1, -3) or not all(graph.map_shape(part) is not None for part in node.inputs):
        return None
    read = [_pass_to(graph, part, shared=not graph.only_use(part)) for part in node.inputs]
    passes = [found for found in read if found is not None]
    if len(passes) < len(node.inputs):
        return None
    joined = _joined(*passes) if len(passes) == 2 else None
    if joined is not None:
        return _both(graph, number, passes[0], passes[1], joined)
    widths = [found.layer.activation.channels for found in passes]

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        out = graph.map_at(number, places)
        firsts = accumulate(widths, initial=0)
        return [
            found.call(graph, constants, places, out.part(first, width), number)
            for found, first, width in zip(passes, firsts, widths, strict=False)
        ]

    return Lowering(number, _unique(item for found in passes for item in found.reads), build)


def _unique(numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(numbers))


def _both(graph: TypedGraph, number: int, one: _Pass, two: _Pass, layer: FusedElementwise) -> Lowering:
    """Two passes in one: the map that both add is read once, and signs, sums and averages are of all channels."""

    def build(constants: ConstantSection, places: Places) -> list[KernelCall]:
        call = layer.call(
            constants,
            graph.map_at(one.x, places),
            graph.map_at(number, places) if number in places else None,
            gate=None if one.gate is None else places[one.gate],
            residual=None if one.residual is None else graph.map_at(one.residual, places),
            second=(graph.map_at(two.x, places), None if two.gate is None else places[two.gate]),
            node=number,
        )
        return [call]

    return Lowering(number, _unique(one.reads + two.reads), build, emits=True, sums=True, halves=True)


def _joined(one: _Pass, two: _Pass) -> FusedElementwise | None:
    """Return the layer that computes two passes side by side, if they differ in the values of channels alone."""
    first, second = one.layer.activation, two.layer.activation
    width = first.channels
    alike = one.residual == two.residual and one.layer.multiply == two.layer.multiply
    bounds = (first.low, first.high) == (second.low, second.high)
    if not (alike and bounds) or width != second.channels or width % BLOCK or (one.gate is None) != (two.gate is None):
        return None
    values = [_values(found.layer) for found in (one, two)]
    if any((values[0][name] is None) != (values[1][name] is None) for name in values[0]):
        return None
    both = {name: None if v is None else np.concatenate([v, values[1][name]]) for name, v in values[0].items()}
    slope, shift = both.pop("slope"), both.pop("shift")
    activation = Activation(2 * width, slope=slope, shift=shift, low=first.low, high=first.high)
    return FusedElementwise(activation, one.layer.multiply, **both)


def _values(layer: FusedElementwise) -> dict[str, Any]:
    """Return the values of channels of a layer and its activation by name."""
    own = {name: getattr(layer, name) for name in _VALUES}
    return {**own, "slope": layer.activation.slope, "shift": layer.activation.shift}


def _pass_to(graph: TypedGraph, item: Input, *, shared: bool = False) -> _Pass | None:
    """Read the pass that ends with a value; of one that is `shared` with others, the copy."""
    shape = graph.map_shape(item)
    if shape is None or not isinstance(item, Value):
        return None
    channels = shape[0]
    if shared:
        return _Pass(FusedElementwise(Activation(channels)), item.number)
    chain = Chain.from_value(graph, item)
    activation = chain.activation(channels)
    residual = _addition(chain)
    inner, affine = chain.slope(channels), chain.affine(channels)
    multiply = residual is not None and _factor(chain, residual)
    gate = _gate(chain)
    slope = None
    if residual is not None:
        before = Chain(graph, residual, residual)
        slope, residual = before.slope(channels), before.at if isinstance(before.at, Value) else None
    x = chain.at
    if not isinstance(x, Value) or graph.map_shape(x) != shape:
        return None
    scale, bias = (None, None) if affine is None else affine
    layer = FusedElementwise(activation, multiply, slope, scale, bias, inner)
    return _Pass(layer, x.number, gate, None if residual is None else residual.number)


def _pairs(chain: Chain, node: Node | None) -> list[tuple[Value, Value]]:
    """Return both orders of the two maps of a node, if these are its inputs."""
    if node is None or len(node.inputs) != 2:
        return []
    one, two = node.inputs
    if not isinstance(one, Value) or not isinstance(two, Value):
        return []
    maps = all(chain.graph.map_shape(item) is not None for item in (one, two))
    return [(one, two), (two, one)] if maps else []


def _addition(chain: Chain) -> Value | None:
    """Step over an addition of two maps of one shape: on to the one that more is known of, and return the other."""
    pairs = _pairs(chain, chain.node("add"))
    if not pairs or chain.graph.map_shape(pairs[0][0]) != chain.graph.map_shape(pairs[0][1]):
        return None
    here = chain.at

    def begins(pair: tuple[Value, Value], *operations: str) -> bool:
        chain.at = pair[0]
        found = chain.node(*operations) is not None
        chain.at = here
        return found

    # A PReLU may belong to the shortcut; what is scaled or gated does not.
    kinds = (("affine", "mul"), ("prelu", "relu"))
    ahead, other = next((pair for kind in kinds for pair in pairs if begins(pair, *kind)), pairs[0])
    chain.at = ahead
    return other


def _factor(chain: Chain, residual: Value) -> bool:
    """Step over a product with the value that is added, too."""
    for ahead, other in _pairs(chain, chain.node("mul")):
        if other == residual and chain.graph.map_shape(ahead) == chain.graph.map_shape(other):
            chain.at = ahead
            return True
    return False


def _gate(chain: Chain) -> int | None:
    """Step over a product with one factor a channel of each image, and return its number."""
    graph = chain.graph
    for ahead, other in _pairs(chain, chain.node("mul")):
        shape, gates = graph.map_shape(ahead), graph.map_shape(other)
        if shape is not None and gates == (shape[0], 1, 1) and shape[1:] != (1, 1):
            chain.at = ahead
            return other.number
    return None
