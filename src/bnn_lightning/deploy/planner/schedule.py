"""The order of kernel calls: secondary outputs of calls, and what computes those that no call can leave behind.

Signs pass from layer to layer without floats: what computes a value writes the signs that a layer wants of it in the
same pass, and the floats only where something reads them. So do sums, and averages over 2x2.
"""

from dataclasses import dataclass

from bnn_lightning.deploy.ir.graph import Value
from bnn_lightning.deploy.planner.lowering import IMAGES, Half, Lowering, Resource, Signs, Sums
from bnn_lightning.deploy.planner.match import Chain
from bnn_lightning.deploy.planner.reduce import summing
from bnn_lightning.deploy.planner.select import lower, packing
from bnn_lightning.deploy.planner.typed_graph import TypedGraph


@dataclass(eq=False)
class Action:
    """One thing to do: native calls, or a node with torch.

    Attributes:
        number: Number of the value that is computed, or whose signs or sums are.
        lowering: The native calls; None is torch.
        emitted: Signs of the result that the last call writes, too.
        sums: Sums of the result that it writes, too.
        half: Averages over 2x2 of the result that it writes, too.
        floats: Whether something reads the result's floats.
    """

    number: int
    lowering: Lowering | None
    emitted: Signs | None = None
    sums: Sums | None = None
    half: Half | None = None
    floats: bool = True

    def reads(self, graph: TypedGraph) -> tuple[Resource, ...]:
        """Return what must be there before."""
        if self.lowering is not None:
            return self.lowering.reads
        return tuple(dict.fromkeys(graph.nodes[self.number - 1].values()))

    def writes(self) -> list[Resource]:
        """Return what is there afterwards."""
        result: Resource = self.number if self.lowering is None else self.lowering.result
        own = [result] if isinstance(result, Signs | Sums) or self.floats else []
        more: list[Resource | None] = [self.emitted, self.sums, None if self.half is None else self.half.number]
        return [*own, *(item for item in more if item is not None)]


def schedule(graph: TypedGraph) -> list[Action]:
    """Choose what computes a graph, and in which order."""
    return _with_companions(graph, _with_halves(graph, _needed(graph)))


def _needed(graph: TypedGraph) -> list[Action]:
    """Return the nodes that something reads, in order: what calls compute by themselves falls out."""
    wanted, actions = {graph.last}, []
    for number in range(graph.last, -1, -1):
        if number in wanted:
            action = Action(number, lower(graph, number))
            actions.append(action)
            for item in action.reads(graph):
                if isinstance(item, Signs | Sums):
                    source = packing(graph, item).reads[0] if isinstance(item, Signs) else item.value
                    wanted.add(item.value if source != IMAGES else IMAGES)
                elif isinstance(item, int):
                    wanted.add(item)
    return actions[::-1]


def _with_halves(graph: TypedGraph, actions: list[Action]) -> list[Action]:
    """Let calls write averages over 2x2 of their results, too."""
    makers = {action.number: action for action in actions}
    remaining = []
    for action in actions:
        shape, maker, slope = graph.map_shape(Value(action.number)), None, None
        if action.number not in (0, graph.last) and shape is not None:
            chain = Chain.from_value(graph, Value(action.number))
            slope = chain.slope(shape[0]) if chain.halving() else None
            maker = makers.get(chain.at.number) if isinstance(chain.at, Value) else None
        lowering = None if maker is None or maker is action else maker.lowering
        if maker is not None and lowering is not None and lowering.halves and maker.half is None:
            maker.half = Half(action.number, slope)
        else:
            remaining.append(action)
    return remaining


def _with_companions(graph: TypedGraph, actions: list[Action]) -> list[Action]:
    """Let calls write the signs and sums that are wanted of results; the rest is computed before it is read."""
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
                lowering = packing(graph, item) if isinstance(item, Signs) else summing(item)
                apart.append((Action(item.value, lowering), action))
                float_users |= {source for source in lowering.reads if isinstance(source, int)}
    ordered: list[Action] = []
    for action in actions:
        action.floats = action.number in float_users or action.number == graph.last
        ordered += [single for single, before in apart if before is action]
        ordered.append(action)
    return ordered


def _left_by(maker: Action | None, item: Signs | Sums) -> bool:
    """Let an action write signs or sums of its result, if it can; whether it does."""
    if maker is None or maker.lowering is None:
        return False
    if isinstance(item, Signs):
        can = maker.lowering.emits and maker.emitted is None and item.dense
        maker.emitted = item if can else maker.emitted
    else:
        can = maker.lowering.sums and maker.sums is None and not item.slope
        maker.sums = item if can else maker.sums
    return can
