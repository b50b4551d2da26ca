"""Native forms of what is done element by element, in one pass over the map: from a gate to the next layer's signs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bnn_lightning.deploy.ir.graph import Input, Node, Value
from bnn_lightning.deploy.kernels.layout import Activation
from bnn_lightning.deploy.kernels.squeeze_excite import Combine
from bnn_lightning.deploy.planner.match import Chain
from bnn_lightning.deploy.planner.typed_graph import Job, Operation, Resource, TypedGraph
from bnn_lightning.functional.pack import BLOCK

_COPY: Mapping[str, Any] = {"multiply": False} | dict.fromkeys(("residual_slope", "scale", "bias", "inner"))


@dataclass(frozen=True)
class _Pass:
    """A pass over a map: what `Combine` is given, and the numbers of what it reads."""

    options: Mapping[str, Any]
    activation: Activation
    x: int
    gate: int | None
    residual: int | None

    @property
    def reads(self) -> tuple[int, ...]:
        given = (self.x, self.gate, self.residual)
        return tuple(number for number in given if number is not None)

    def layer(self) -> Combine:
        return Combine(self.activation.channels, **self.options, activation=self.activation)


def combination(graph: TypedGraph, number: int) -> Operation | None:
    """What is done element by element: gates, products, affine maps, PReLU, an addition, clamp."""
    found = _pass_to(graph, Value(number))
    if found is None or found.x == number:
        return None
    layer = found.layer()

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [_job(layer, found, tensors, tensors.get(number))]

    over = tuple(item for item in found.reads if graph.shape(item) == graph.shape(number))
    return Operation(number, _unique(found.reads), build, emits=True, sums=True, halves=True, over=over)


def concatenation(graph: TypedGraph, number: int) -> Operation | None:
    """Maps side by side, each computed in its place, or two alike in one pass."""
    node = graph.nodes[number - 1]
    parts = node.inputs
    if node["dim"] not in (1, -3) or not all(graph.is_map(part) for part in parts):
        return None
    read = [_pass_to(graph, part, shared=not graph.only_use(part)) for part in parts]
    passes = [found for found in read if found is not None]
    if len(passes) < len(parts):
        return None
    joined = _joined(*passes) if len(passes) == 2 else None
    if joined is not None:
        return _both(number, passes[0], passes[1], joined)
    layers, widths = [found.layer() for found in passes], [found.activation.channels for found in passes]

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        places = torch.split(tensors[number], widths, 1)
        return [_job(*item[:2], tensors, item[2]) for item in zip(layers, passes, places, strict=True)]

    return Operation(number, _unique(item for found in passes for item in found.reads), build)


def _job(layer: Combine, found: _Pass, tensors: Mapping[Resource, Tensor], out: Tensor | None) -> Job:
    gate, residual = (None if item is None else tensors[item] for item in (found.gate, found.residual))
    return Job("combine", layer.job(tensors[found.x], gate, residual, out), (layer,))


def _unique(numbers: Iterable[int]) -> tuple[int, ...]:
    return tuple(dict.fromkeys(numbers))


def _both(number: int, one: _Pass, two: _Pass, layer: Combine) -> Operation:
    """Two passes in one: the map that both add is read once, and signs, sums and averages are of all channels."""

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        gate, other_gate, residual = (None if n is None else tensors[n] for n in (one.gate, two.gate, one.residual))
        second = tensors[two.x], other_gate
        return [Job("combine", layer.job(tensors[one.x], gate, residual, tensors.get(number), second=second), (layer,))]

    return Operation(number, _unique(one.reads + two.reads), build, emits=True, sums=True, halves=True)


def _joined(one: _Pass, two: _Pass) -> Combine | None:
    """Return the layer that computes two passes side by side, if they differ in the values of channels alone."""
    first, second = one.activation, two.activation
    width = first.channels
    alike = one.residual == two.residual and one.options["multiply"] == two.options["multiply"]
    bounds = (first.low, first.high) == (second.low, second.high)
    if not (alike and bounds) or width != second.channels or width % BLOCK or (one.gate is None) != (two.gate is None):
        return None
    values = [{**item.options, "slope": item.activation.slope, "shift": item.activation.shift} for item in (one, two)]
    if any((values[0][name] is None) != (values[1][name] is None) for name in values[0]):
        return None
    both: dict[str, Any] = {
        name: torch.cat([value, values[1][name]]) if isinstance(value, Tensor) else value
        for name, value in values[0].items()
    }
    slope, shift = both.pop("slope"), both.pop("shift")
    activation = Activation(2 * width, slope=slope, shift=shift, low=first.low, high=first.high)
    return Combine(2 * width, **both, activation=activation)


def _pass_to(graph: TypedGraph, argument: Input, *, shared: bool = False) -> _Pass | None:
    """Read the pass that ends with a value; of one that is `shared` with others, the copy."""
    if not isinstance(argument, Value) or not graph.is_map(argument):
        return None
    channels = graph.shape(argument.number)[1]
    if shared:
        return _Pass(_COPY, Activation(channels), argument.number, None, None)
    chain = Chain.from_value(graph, argument)
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
    if not isinstance(x, Value) or not graph.is_map(x) or graph.shape(x.number) != graph.shape(argument.number):
        return None
    scale, bias = (None, None) if affine is None else affine
    options = {"multiply": multiply, "residual_slope": slope, "scale": scale, "bias": bias, "inner": inner}
    return _Pass(options, activation, x.number, gate, None if residual is None else residual.number)


def _pairs(chain: Chain, node: Node | None) -> list[tuple[Value, Value]]:
    """Return both orders of the two maps of a node, if these are its inputs."""
    if node is None or len(node.inputs) != 2:
        return []
    one, two = node.inputs
    if not isinstance(one, Value) or not isinstance(two, Value):
        return []
    return [(one, two), (two, one)] if chain.graph.is_map(one) and chain.graph.is_map(two) else []


def _addition(chain: Chain) -> Value | None:
    """Step over an addition of two maps of one shape: on to the one that more is known of, and return the other."""
    pairs = _pairs(chain, chain.node("add"))
    if not pairs or chain.graph.shape(pairs[0][0].number) != chain.graph.shape(pairs[0][1].number):
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
        if other == residual and chain.graph.shape(ahead.number) == chain.graph.shape(other.number):
            chain.at = ahead
            return True
    return False


def _gate(chain: Chain) -> int | None:
    """Step over a product with one factor a channel of each image, and return its number."""
    graph = chain.graph
    for ahead, other in _pairs(chain, chain.node("mul")):
        shape = graph.shape(ahead.number)
        if graph.shape(other.number) == (*shape[:2], 1, 1) and shape[2:] != (1, 1):
            chain.at = ahead
            return other.number
    return None
