"""How a graph runs for images of one shape: native operations, torch between them, and places in memory.

Signs pass from layer to layer without floats: what computes a value writes the signs that a layer wants of it in the
same pass, and the floats only where something reads them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.planner.match import Chain
from bnn_lightning.deploy.planner.memory import Buffer, lay_out
from bnn_lightning.deploy.planner.reduce import summing
from bnn_lightning.deploy.planner.select import native_form, packing
from bnn_lightning.deploy.planner.typed_graph import BYTES, Half, Operation, Resource, Signs, Sums, TypedGraph
from bnn_lightning.functional.pack import spread

_ALIGN = 64


@dataclass
class Action:
    """One thing to do: a native operation, or a node with torch.

    Attributes:
        number: Of the value that is computed, or whose signs or sums are.
        operation: The native one; None is torch.
        emitted: Signs of the result that the operation writes, too.
        sums: Sums of the result that it writes, too.
        half: Averages over 2x2 of the result that it writes, too.
        floats: Whether something reads the result's floats.
    """

    number: int
    operation: Operation | None
    emitted: Signs | None = None
    sums: Sums | None = None
    half: Half | None = None
    floats: bool = True

    def reads(self, graph: TypedGraph) -> tuple[Resource, ...]:
        """Return what must be there before."""
        if self.operation is not None:
            return self.operation.reads
        return tuple(graph.nodes[self.number - 1].values())


@dataclass
class Plan:
    """What is done for images of one shape, and where everything lies.

    Attributes:
        graph: The graph.
        actions: In order.
        places: Bytes from the arena's beginning, for floats, sums and scratch memory, (number of an action, name).
        arena: Bytes of all of these.
        slots: The place of signs among those of their kind: those of one kind share memory when they live at different
            times, and what surrounds them is written once.
        ends: For each action, the values that nothing reads after it.
    """

    graph: TypedGraph
    actions: list[Action]
    places: "dict[int | Sums | tuple[int, str], int]" = field(default_factory=dict)
    arena: int = 0
    slots: dict[Signs, int] = field(default_factory=dict)
    ends: list[list[int]] = field(default_factory=list)


def make_plan(graph: TypedGraph) -> Plan:
    """Choose native operations for a graph, and places for what they compute."""
    plan = Plan(graph, _with_companions(graph, _with_halves(graph, _needed(graph))))
    _place_floats(plan)
    _place_signs(plan)
    return plan


def kind_of(signs: Signs) -> tuple[object, ...]:
    """Return what signs must have in common to share memory: the pixels around them are written once."""
    return signs.shape, signs.channels, signs.groups, signs.padding, signs.ones


def _needed(graph: TypedGraph) -> list[Action]:
    """Return the nodes that something reads, in order: what native operations compute by themselves falls out."""
    wanted, actions = {graph.last}, []
    for number in range(graph.last, 0, -1):
        if number in wanted:
            action = Action(number, native_form(graph, number))
            actions.append(action)
            for item in action.reads(graph):
                if isinstance(item, Signs | Sums):
                    wanted.add(item.value)
                elif isinstance(item, int) and item != BYTES:
                    wanted.add(item)
    return actions[::-1]


def _with_halves(graph: TypedGraph, actions: list[Action]) -> list[Action]:
    """Let operations write averages over 2x2 of their results, too."""
    makers = {action.number: action for action in actions}
    remaining = []
    for action in actions:
        chain = Chain.from_value(graph, Value(action.number))
        slope = chain.slope(graph.shape(action.number)[1]) if action.number != graph.last and chain.halving() else None
        maker = makers.get(chain.at.number) if isinstance(chain.at, Value) else None
        operation = None if maker is None or maker is action else maker.operation
        if maker is not None and operation is not None and operation.halves and maker.half is None:
            maker.half = Half(action.number, None if slope is None else spread(slope.float()))
        else:
            remaining.append(action)
    return remaining


def _with_companions(graph: TypedGraph, actions: list[Action]) -> list[Action]:
    """Let operations write the signs and sums that are wanted of results; the rest is computed before it is read."""
    makers = {action.number: action for action in actions}
    float_users = {item for action in actions for item in action.reads(graph) if isinstance(item, int)}
    done: set[Signs | Sums] = set()
    apart: list[tuple[Action, Action]] = []  # what computes it by itself, and before what
    for action in actions:
        for item in action.reads(graph):
            if not isinstance(item, Signs | Sums) or item in done:
                continue
            done.add(item)
            if not _left_by(makers.get(item.value), item):
                operation = packing(graph, item) if isinstance(item, Signs) else summing(graph, item)
                apart.append((Action(item.value, operation), action))
                float_users.add(item.value)
    ordered: list[Action] = []
    for action in actions:
        action.floats = action.number in float_users or action.number == graph.last
        ordered += [single for single, before in apart if before is action]
        ordered.append(action)
    return ordered


def _left_by(maker: Action | None, item: Signs | Sums) -> bool:
    """Let an action write signs or sums of its result, if it can; whether it does."""
    if maker is None or maker.operation is None:
        return False
    if isinstance(item, Signs):
        can = maker.operation.emits and maker.emitted is None and item.dense
        maker.emitted = item if can else maker.emitted
    else:
        can = maker.operation.sums and maker.sums is None and not item.slope
        maker.sums = item if can else maker.sums
    return can


def _signs(resources: Iterable[Resource]) -> list[Signs]:
    return [item for item in resources if isinstance(item, Signs)]


def _place_floats(plan: Plan) -> None:
    graph, roots = plan.graph, plan.graph.roots()
    last: dict[int, int] = {}
    last_sums: dict[Sums, int] = {}
    for at, action in enumerate(plan.actions):
        for item in action.reads(graph):
            if isinstance(item, int) and item != BYTES:
                last[item] = at
            elif isinstance(item, Sums):
                last_sums[item] = at
    plan.ends = [[] for _ in plan.actions]
    for value, at in last.items():
        plan.ends[at].append(value)
    # A view that torch has made lives in the memory of what it was made from.
    until: dict[int, int] = {}
    for value, at in last.items():
        until[roots[value]] = max(until.get(roots[value], 0), at)
    buffers: dict[int | Sums | tuple[int, str], Buffer] = {}
    for at, action in enumerate(plan.actions):
        operation = action.operation
        if operation is None:
            continue
        for name, shape in operation.scratch.items():
            buffers[at, name] = Buffer(_bytes(shape), at, at)
        for sums in {action.sums, operation.result}:
            if isinstance(sums, Sums):
                buffers[sums] = Buffer(_bytes(sums.shape), at, last_sums[sums])
        if action.half is not None:
            number = action.half.number
            buffers[number] = Buffer(_bytes(graph.shape(number)), at, until.get(number, at))
        if operation.result == action.number != graph.last and action.floats:
            number = action.number
            free = (buffers[v] for v in operation.over if v in buffers and roots[v] == v and until[v] == at)
            buffers[number] = next(free, Buffer(_bytes(graph.shape(number)), at, at))
            buffers[number].end = until.get(number, at)
    plan.arena = lay_out(list({id(buffer): buffer for buffer in buffers.values()}.values()))
    plan.places = {name: buffer.offset for name, buffer in buffers.items()}


def _place_signs(plan: Plan) -> None:
    last = {signs: at for at, action in enumerate(plan.actions) for signs in _signs(action.reads(plan.graph))}
    busy: dict[tuple[object, ...], list[int]] = {}  # by kind, until when each slot is taken
    for at, action in enumerate(plan.actions):
        result = None if action.operation is None else action.operation.result
        signs = result if isinstance(result, Signs) else action.emitted
        if signs is None:
            continue
        slots = busy.setdefault(kind_of(signs), [])
        slot = next((number for number, end in enumerate(slots) if end < at), len(slots))
        if slot == len(slots):
            slots.append(at)
        slots[slot], plan.slots[signs] = last[signs], slot


def _bytes(shape: tuple[int, ...]) -> int:
    elements = 1
    for size in shape:
        elements *= size
    return -(-4 * elements // _ALIGN) * _ALIGN
