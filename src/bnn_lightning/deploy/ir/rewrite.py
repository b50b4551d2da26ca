"""Rewriter of graphs, node by node, which passes share."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from bnn_lightning.deploy.ir.graph import AttributeValue, Constant, ConstantRef, Graph, Input, Node, Value


class Rewriter:
    """Makes a graph from another one. Constants that nothing reads any more are left out.

    Args:
        graph: The other one.

    Example:
        >>> rewriter = Rewriter(Graph((Node("neg", (Value(0),)), Node("relu", (Value(1),)))))
        >>> rewriter.values[1] = Value(0)  # the first node falls out
        >>> rewriter.values[2] = rewriter.copy(rewriter.graph.nodes[1])
        >>> rewriter.result().plain()
        [['relu', [0]]]
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        # The new value of each old one, by number: to be set as the new graph grows.
        self.values: dict[int, Value] = {0: Value(0)}
        self._nodes: list[Node] = []
        self._constants: list[Constant] = []
        self._places: dict[int, int] = {}

    def add(
        self, operation: str, inputs: Sequence[Input], attributes: Mapping[str, AttributeValue], name: str = ""
    ) -> Value:
        """Append a node of the new graph."""
        self._nodes.append(Node(operation, tuple(inputs), attributes, name))
        return Value(len(self._nodes))

    def copy(self, node: Node) -> Value:
        """Append an old node, which reads the new values of what it read."""
        return self.add(node.operation, [self.moved(item) for item in node.inputs], self.attributes(node), node.name)

    def attributes(self, node: Node) -> dict[str, AttributeValue]:
        """Return the attributes of an old node for the new graph."""
        given = node.attributes.items()
        return {name: self.kept(value) if isinstance(value, ConstantRef) else value for name, value in given}

    def moved(self, item: Input) -> Input:
        """Return what stands for an old input now."""
        return self.values[item.number] if isinstance(item, Value) else self.kept(item)

    def kept(self, ref: ConstantRef) -> ConstantRef:
        """Return an old constant's place in the new graph."""
        if ref.index not in self._places:
            self._places[ref.index] = len(self._constants)
            self._constants.append(self.graph.constants[ref.index])
        return ConstantRef(self._places[ref.index])

    def constant(self, constant: Constant) -> ConstantRef:
        """Add a constant to the new graph."""
        self._constants.append(constant)
        return ConstantRef(len(self._constants) - 1)

    def result(self) -> Graph:
        """Return the new graph; constants of one name, as a layer that is called twice has them, get numbers."""
        names = {constant.name for constant in self._constants}
        numbers: Counter[str] = Counter()
        constants = []
        for constant in self._constants:
            name = constant.name
            numbers[name] += 1
            if numbers[name] > 1:
                while f"{name}.{numbers[name]}" in names:
                    numbers[name] += 1
                constant = replace(constant, name=f"{name}.{numbers[name]}")
                names.add(constant.name)
            constants.append(constant)
        return Graph(tuple(self._nodes), tuple(constants))


def without_dead_nodes(graph: Graph, output: Value) -> Graph:
    """Return what of a graph computes a value, which becomes the last one.

    Example:
        >>> graph = Graph((Node("neg", (Value(0),)), Node("relu", (Value(0),)), Node("tanh", (Value(2),))))
        >>> without_dead_nodes(graph, Value(2)).plain()
        [['relu', [0]]]
    """
    alive = {output.number}
    for number in range(output.number, 0, -1):
        if number in alive:
            alive.update(graph.nodes[number - 1].values())
    rewriter = Rewriter(graph)
    for number, node in enumerate(graph.nodes[: output.number], start=1):
        if number in alive:
            rewriter.values[number] = rewriter.copy(node)
    return rewriter.result()
