"""How a program runs for images of one shape: native operations, torch between them, and places in memory.

Signs pass from layer to layer without floats: what computes a value writes the signs that a layer wants of it in the
same pass, and the floats only where something reads them.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from bnn_lightning.deploy.forms import native_form, packing
from bnn_lightning.deploy.graph import BYTES, Graph, Operation, Resource, Signs
from bnn_lightning.deploy.memory import Buffer, lay_out

_ALIGN = 64


@dataclass
class Action:
    """One thing to do: a native operation, or a step with torch.

    Attributes:
        number: Of the value that is computed, or whose signs are.
        operation: The native one; None is torch.
        emitted: Signs of the result that the operation writes, too.
        floats: Whether something reads the result's floats.
    """

    number: int
    operation: Operation | None
    emitted: Signs | None = None
    floats: bool = True

    def reads(self, graph: Graph) -> tuple[Resource, ...]:
        """Return what must be there before."""
        if self.operation is not None:
            return self.operation.reads
        return tuple(graph.steps[self.number - 1].values())


@dataclass
class Plan:
    """What is done for images of one shape, and where everything lies.

    Attributes:
        graph: The program.
        actions: In order.
        places: Bytes from the arena's beginning, for floats and scratch memory, (number of an action, name).
        arena: Bytes of all of these.
        slots: The place of signs among those of their kind: those of one kind share memory when they live at different
            times, and what surrounds them is written once.
        ends: For each action, the values that nothing reads after it.
    """

    graph: Graph
    actions: list[Action]
    places: "dict[int | tuple[int, str], int]" = field(default_factory=dict)
    arena: int = 0
    slots: dict[Signs, int] = field(default_factory=dict)
    ends: list[list[int]] = field(default_factory=list)


def make_plan(graph: Graph) -> Plan:
    """Choose native operations for a program, and places for what they compute."""
    plan = Plan(graph, _with_packing(graph, _needed(graph)))
    _place_floats(plan)
    _place_signs(plan)
    return plan


def kind_of(signs: Signs) -> tuple[object, ...]:
    """Return what signs must have in common to share memory: the pixels around them are written once."""
    return signs.shape, signs.channels, signs.groups, signs.padding, signs.ones


def _needed(graph: Graph) -> list[Action]:
    """Return the steps that something reads, in order: what native operations compute by themselves falls out."""
    wanted, actions = {graph.last}, []
    for number in range(graph.last, 0, -1):
        if number in wanted:
            action = Action(number, native_form(graph, number))
            actions.append(action)
            for item in action.reads(graph):
                if isinstance(item, Signs):
                    wanted.add(item.value)
                elif isinstance(item, int) and item != BYTES:
                    wanted.add(item)
    return actions[::-1]


def _with_packing(graph: Graph, actions: list[Action]) -> list[Action]:
    """Let operations write the signs that are wanted of their results; what remains is packed before it is read."""
    makers = {action.number: action for action in actions}
    float_users = {item for action in actions for item in action.reads(graph) if isinstance(item, int)}
    done: set[Signs] = set()
    ordered: list[Action] = []
    packed: list[tuple[Action, Signs]] = []
    for action in actions:
        for signs in _signs(action.reads(graph)):
            if signs in done:
                continue
            done.add(signs)
            maker = makers.get(signs.value)
            if maker is not None and _emits(maker) and signs.dense:
                maker.emitted = signs
            else:
                packed.append((action, signs))
                float_users.add(signs.value)
    for action in actions:
        action.floats = action.number in float_users or action.number == graph.last
        ordered += [Action(signs.value, packing(graph, signs)) for before, signs in packed if before is action]
        ordered.append(action)
    return ordered


def _emits(maker: Action) -> bool:
    return maker.operation is not None and maker.operation.emits and maker.emitted is None


def _signs(resources: Iterable[Resource]) -> list[Signs]:
    return [item for item in resources if isinstance(item, Signs)]


def _place_floats(plan: Plan) -> None:
    graph, roots = plan.graph, plan.graph.roots()
    last: dict[int, int] = {}
    for at, action in enumerate(plan.actions):
        for item in action.reads(graph):
            if isinstance(item, int) and item != BYTES:
                last[item] = at
    plan.ends = [[] for _ in plan.actions]
    for value, at in last.items():
        plan.ends[at].append(value)
    # A view that torch has made lives in the memory of what it was made from.
    until: dict[int, int] = {}
    for value, at in last.items():
        until[roots[value]] = max(until.get(roots[value], 0), at)
    buffers: dict[int | tuple[int, str], Buffer] = {}
    for at, action in enumerate(plan.actions):
        operation = action.operation
        if operation is None:
            continue
        for name, shape in operation.scratch.items():
            buffers[at, name] = Buffer(_bytes(shape), at, at)
        if operation.result == action.number != graph.last and action.floats:
            buffers[action.number] = Buffer(_bytes(graph.shape(action.number)), at, until.get(action.number, at))
    plan.arena = lay_out(list(buffers.values()))
    plan.places = {name: buffer.offset for name, buffer in buffers.items()}


def _place_signs(plan: Plan) -> None:
    last = {signs: at for at, action in enumerate(plan.actions) for signs in _signs(action.reads(plan.graph))}
    busy: dict[tuple[object, ...], list[int]] = {}  # by kind, until when each slot is taken
    for at, action in enumerate(plan.actions):
        made = action.emitted if action.operation is None or not isinstance(action.operation.result, Signs) else None
        signs = made or (action.operation.result if action.operation is not None else None)
        if not isinstance(signs, Signs):
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
