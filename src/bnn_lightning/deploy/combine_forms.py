"""Native forms of what is done element by element, in one pass over the map: from a gate to the next layer's signs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bnn_lightning.deploy.chains import Chain
from bnn_lightning.deploy.gates import Combine
from bnn_lightning.deploy.graph import Graph, Job, Operation, Resource
from bnn_lightning.deploy.program import Argument, Step, Value


@dataclass(frozen=True)
class _Pass:
    """A pass over a map: the layer, and the numbers of what it reads."""

    layer: Combine
    x: int
    gate: int | None
    residual: int | None

    @property
    def reads(self) -> tuple[int, ...]:
        given = (self.x, self.gate, self.residual)
        return tuple(dict.fromkeys(number for number in given if number is not None))

    def job(self, tensors: Mapping[Resource, Tensor], out: Tensor | None) -> Job:
        gate = None if self.gate is None else tensors[self.gate]
        residual = None if self.residual is None else tensors[self.residual]
        return Job("combine", self.layer.job(tensors[self.x], gate, residual, out), (self.layer,))


def combination(graph: Graph, number: int) -> Operation | None:
    """What is done element by element: gates, products, affine maps, PReLU, an addition, clamp."""
    found = _pass_to(graph, Value(number))
    if found is None or found.x == number:
        return None

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        return [found.job(tensors, tensors.get(number))]

    return Operation(number, found.reads, build, emits=True)


def concatenation(graph: Graph, number: int) -> Operation | None:
    """Maps side by side, each computed in its place."""
    step = graph.steps[number - 1]
    parts, dimension = (*step.arguments, 0)[:2]
    if dimension not in (1, -3) or not isinstance(parts, list) or not all(graph.is_map(part) for part in parts):
        return None
    passes = [_pass_to(graph, part, shared=not graph.only_use(part)) for part in parts]
    widths = [graph.shape(part.number)[1] for part in parts]  # type: ignore[union-attr]

    def build(tensors: Mapping[Resource, Tensor]) -> list[Job]:
        places = torch.split(tensors[number], widths, 1)
        return [found.job(tensors, place) for found, place in zip(passes, places, strict=True) if found is not None]

    if any(found is None for found in passes):
        return None
    reads = tuple(dict.fromkeys(item for found in passes if found is not None for item in found.reads))
    return Operation(number, reads, build)


def _pass_to(graph: Graph, argument: Argument, *, shared: bool = False) -> _Pass | None:
    """Read the pass that ends with a value; of one that is `shared` with others, the copy."""
    if not isinstance(argument, Value) or not graph.is_map(argument):
        return None
    channels = graph.shape(argument.number)[1]
    if shared:
        return _Pass(Combine(channels), argument.number, None, None)
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
    if not isinstance(x, Value) or not graph.is_map(x):
        return None
    layer = Combine(
        channels,
        multiply=multiply,
        residual_slope=slope,
        scale=None if affine is None else affine[0],
        bias=None if affine is None else affine[1],
        inner=inner,
        activation=activation,
    )
    return _Pass(layer, x.number, gate, None if residual is None else residual.number)


def _pairs(chain: Chain, step: Step | None) -> list[tuple[Value, Value]]:
    """Return both orders of the two maps of a step, if these are its arguments."""
    if step is None or len(step.arguments) != 2:
        return []
    one, two = step.arguments
    if not isinstance(one, Value) or not isinstance(two, Value):
        return []
    return [(one, two), (two, one)] if chain.graph.is_map(one) and chain.graph.is_map(two) else []


def _addition(chain: Chain) -> Value | None:
    """Step over an addition of two maps of one shape: on to the one that more is known of, and return the other."""
    pairs = _pairs(chain, chain.step("add.Tensor"))
    if not pairs or chain.graph.shape(pairs[0][0].number) != chain.graph.shape(pairs[0][1].number):
        return None
    here = chain.at

    def begins(pair: tuple[Value, Value], *operations: str) -> bool:
        chain.at = pair[0]
        found = chain.step(*operations) is not None
        chain.at = here
        return found

    # A PReLU may belong to the shortcut; what is scaled or gated does not.
    kinds = (("affine", "mul.Tensor"), ("prelu", "relu"))
    ahead, other = next((pair for kind in kinds for pair in pairs if begins(pair, *kind)), pairs[0])
    chain.at = ahead
    return other


def _factor(chain: Chain, residual: Value) -> bool:
    """Step over a product with the value that is added, too."""
    for ahead, other in _pairs(chain, chain.step("mul.Tensor")):
        if other == residual and chain.graph.shape(ahead.number) == chain.graph.shape(other.number):
            chain.at = ahead
            return True
    return False


def _gate(chain: Chain) -> int | None:
    """Step over a product with one factor a channel of each image, and return its number."""
    graph = chain.graph
    for ahead, other in _pairs(chain, chain.step("mul.Tensor")):
        shape = graph.shape(ahead.number)
        if graph.shape(other.number) == (*shape[:2], 1, 1) and shape[2:] != (1, 1):
            chain.at = ahead
            return other.number
    return None
