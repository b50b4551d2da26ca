"""Planning: from a typed graph to the calls, the constants and the memory that run it for any number of images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bnn_lightning.deploy.ir.graph import Graph
from bnn_lightning.deploy.ir.types import Type
from bnn_lightning.deploy.kernels.binary_conv import emitting, summing
from bnn_lightning.deploy.kernels.call import Address, Count, KernelCall, Region
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.derive import verify_derived
from bnn_lightning.deploy.kernels.elementwise import halving
from bnn_lightning.deploy.kernels.layout import packed
from bnn_lightning.deploy.planner.lowering import IMAGES, Resource, Signs, Size, Sums
from bnn_lightning.deploy.planner.memory import Buffer, aligned, lay_out
from bnn_lightning.deploy.planner.plan import Fill, Plan, TorchCall
from bnn_lightning.deploy.planner.schedule import Action, schedule
from bnn_lightning.deploy.planner.typed_graph import TypedGraph, size_of

Name = Resource | tuple[int, str]  # of what has a place: scratch memory belongs to an action


def make_plan(graph: TypedGraph, constants: ConstantSection | None = None) -> Plan:
    """Choose the kernel calls of a graph, their order, and places for what they compute.

    Args:
        graph: The graph.
        constants: Section that other plans may share; constants that they have in common are there once.

    Raises:
        CallError: More would be derived of the constants than a plan may ask for.
    """
    constants = ConstantSection() if constants is None else constants
    actions = schedule(graph)
    places, arena = _place_floats(graph, actions)
    signs, fills, size = _place_signs(graph, actions)
    calls: list[KernelCall | TorchCall] = []
    shared: dict[Resource, Address] = {**signs, **{n: p for n, p in places.items() if not isinstance(n, tuple)}}
    for at, action in enumerate(actions):
        scratch = {} if action.lowering is None else action.lowering.scratch
        calls += _calls(graph, constants, action, {**shared, **{name: places[at, name] for name in scratch}})
    verify_derived(tuple(constants.derived), len(constants.data), constants.derived_size)
    channels, height, width = graph.images.shape
    return Plan(
        calls=tuple(calls),
        constants=bytes(constants.data),
        derived=tuple(constants.derived),
        derived_size=constants.derived_size,
        arena=arena,
        signs=size,
        fills=fills,
        in_shape=(channels, height, width),
        takes_bytes=graph.images.in_bytes,
        num_classes=graph.types[graph.last].elements,
    )


def make_plans(graph: Graph, types: Sequence[Type], constants: ConstantSection) -> tuple[Plan, Plan]:
    """Return the plans of a graph for images as floats and as bytes, which share all constants.

    Args:
        graph: The graph.
        types: Types of the images and of the result of each node.
        constants: Section that takes the constants; `placements` in it says afterwards which of the graph's lie where.

    Example:
        >>> from bnn_lightning.deploy.ir.graph import Node, Value
        >>> from bnn_lightning.deploy.ir.shapes import types_of
        >>> graph = Graph((Node("mean", (Value(0),), {"dims": [2, 3]}),))
        >>> floats, images = make_plans(graph, types_of(graph, (3, 8, 8)), ConstantSection())
        >>> floats.takes_bytes, images.takes_bytes, floats.num_classes
        (False, True, 3)
    """
    first, second = (make_plan(TypedGraph(graph, types, takes_bytes=kind), constants) for kind in (False, True))
    constants_of_both, derived, size = second.constants, second.derived, second.derived_size
    return replace(first, constants=constants_of_both, derived=derived, derived_size=size), second


def _calls(
    graph: TypedGraph, constants: ConstantSection, action: Action, places: Mapping[Resource, Address]
) -> list[KernelCall] | list[TorchCall]:
    """Return the calls of an action."""
    lowering = action.lowering
    if lowering is None:
        node = graph.graph.nodes[action.number - 1]
        reads = {number: places[graph.origins[number]] for number in node.values()}
        return [TorchCall(action.number, reads, places[action.number])]
    result = lowering.result
    wanted = [result] if isinstance(result, Signs | Sums) or action.floats else []
    given = {name: places[name] for name in [*lowering.reads, *wanted] if name != IMAGES}
    calls = lowering.build(constants, {**given, **{name: places[name] for name in lowering.scratch}})
    if action.emitted is not None:
        signs = action.emitted
        calls[-1] = emitting(calls[-1], constants, signs.thresholds, lowering.blocks, signs.at(places[signs]))
    if action.sums is not None:
        calls[-1] = summing(calls[-1], places[action.sums])
    if action.half is not None:
        number = action.half.number
        calls[-1] = halving(calls[-1], constants, action.half.slope, graph.map_at(number, places))
    return calls


@dataclass(eq=False)
class _Buffers:
    """Buffers by name; those of a fixed size and those that grow with the number of images lie apart."""

    fixed: dict[Name, Buffer]
    growing: dict[Name, Buffer]

    def add(self, name: Name, size: Size, begin: int, end: int) -> None:
        buffers = self.growing if size.per_image else self.fixed
        buffers[name] = Buffer(aligned(size.per_image or size.fixed), begin, end)

    def lay_out(self, region: Region) -> tuple[dict[Name, Address], Size]:
        """Return the places of all, those of a fixed size first, and the bytes of the region."""
        first = aligned(lay_out({id(b): b for b in self.fixed.values()}.values()))
        growth = lay_out({id(b): b for b in self.growing.values()}.values())
        places = {name: Address(region, buffer.offset) for name, buffer in self.fixed.items()}
        places |= {name: Address(region, first, buffer.offset) for name, buffer in self.growing.items()}
        return places, Size(first, growth)


def _place_floats(graph: TypedGraph, actions: list[Action]) -> tuple[dict[Name, Address], Size]:
    """Give floats, sums and scratch memory places in the arena."""
    last = _last_uses(graph, actions)
    buffers = _Buffers({}, {})
    for at, action in enumerate(actions):
        for name, size in {} if action.lowering is None else action.lowering.scratch.items():
            buffers.add((at, name), size, at, at)
        for item in action.writes():
            if isinstance(item, Sums):
                buffers.add(item, Size(0, item.size), at, last[item])
            elif isinstance(item, int) and item != graph.last:
                _place_value(graph, buffers, action, item, at, last)
    places, size = buffers.lay_out(Region.ARENA)
    return {**places, graph.last: Address(Region.OUTPUT), IMAGES: Address(Region.INPUT)}, size


def _place_value(
    graph: TypedGraph, buffers: _Buffers, action: Action, number: int, at: int, last: Mapping[Resource, int]
) -> None:
    """Give a value a place: that of one that is read here for the last time, if the calls allow it."""
    over = () if action.lowering is None or number != action.lowering.result else action.lowering.over
    for other in over:
        if other in buffers.growing and last[other] == at:
            buffers.growing[number] = buffers.growing[other]
            buffers.growing[number].end = last.get(number, at)
            return
    buffers.add(number, size_of(graph.types[number]), at, last.get(number, at))


def _last_uses(graph: TypedGraph, actions: list[Action]) -> dict[Resource, int]:
    return {item: at for at, action in enumerate(actions) for item in action.reads(graph)}


def _place_signs(graph: TypedGraph, actions: list[Action]) -> tuple[dict[Resource, Address], tuple[Fill, ...], Size]:
    """Give signs places: those of one kind share memory when they live at different times."""
    last = _last_uses(graph, actions)
    slots: dict[tuple[object, ...], list[tuple[Address, int]]] = {}  # by kind, places and until when each is taken
    places: dict[Resource, Address] = {}
    fills: list[Fill] = []
    growth = 0
    for at, action in enumerate(actions):
        for signs in (item for item in action.writes() if isinstance(item, Signs)):
            of_kind = slots.setdefault(signs.kind, [])
            slot = next((number for number, (_, end) in enumerate(of_kind) if end < at), len(of_kind))
            if slot == len(of_kind):
                of_kind.append((Address(Region.SIGNS, 0, growth), at))
                growth += aligned(signs.size)
                fills += _fill(signs, of_kind[slot][0])
            places[signs] = of_kind[slot][0]
            of_kind[slot] = places[signs], last[signs]
    return places, tuple(fills), Size(0, growth)


def _fill(signs: Signs, place: Address) -> list[Fill]:
    """Return what fills the padding of signs, where it is +1."""
    if not signs.ones or not any(signs.padding):
        return []
    pixel = packed(np.ones((signs.groups, signs.shape[0] // signs.groups), bool))
    return [Fill(place, Count(0, signs.size), pixel.tobytes())]
