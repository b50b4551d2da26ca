"""Graph of a module: traced by torch.fx, run once for shapes and signs."""

import inspect
import operator
from collections import OrderedDict
from collections.abc import Callable, Container
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from bnn_lightning.analysis.node_labels import MEANS, label_of
from bnn_lightning.binarizers.base import Binarizer, InputBinarizer
from bnn_lightning.functional.elementwise import concatenate
from bnn_lightning.layers.activation import LearnableBias, Maxout, RPReLU
from bnn_lightning.layers.attention import ChannelBlend
from bnn_lightning.layers.binary import BinaryLayer, input_of
from bnn_lightning.layers.module_utils import annealed, copy_network
from bnn_lightning.models.backbone import Normalize
from bnn_lightning.models.network_graph import Edge, GraphNode, NetworkGraph, make_graph

# Shown as one node each: what is in them says no more than their name.
_ATOMS = (Binarizer, Normalize, ChannelBlend, LearnableBias, RPReLU, Maxout)
# Called by the name that they have, since their class says nothing.
CONTAINERS = (nn.Sequential, nn.ModuleList)
_PATH = "traced_path"


class TraceError(ValueError):
    """A module cannot be traced."""


@torch.no_grad()
def trace_graph(module: nn.Module, example: Tensor, *, atoms: tuple[type[nn.Module], ...] = ()) -> NetworkGraph:
    """Trace a module, and return its computation as a graph.

    It is traced as it evaluates, with annealing over: a copy is, so that `module` stays as it is. Every binary layer is
    taken apart into signs of its input, signs of its latent weights, their product, scale and bias. An edge is binary
    where the tensor, computed from `example`, holds -1 and +1 only and signs are what it was made of.

    Args:
        module: Any module of one tensor; its children are followed unless they are torch's own.
        example: An input, (N, ...).
        atoms: Further modules that are to be one node.

    Returns:
        The graph.

    Raises:
        TraceError: The module computes what depends on the values of tensors.

    Example:
        >>> from bnn_lightning.models.conv_blocks import ReActUnit
        >>> graph = trace_graph(ReActUnit(8, 8), torch.randn(1, 8, 4, 4))
        >>> [(edge.source, edge.target) for edge in graph.binary_edges]
        [('conv.input_binarizer', 'conv.product'), ('conv.weight_binarizer', 'conv.product')]
    """
    module = copy_network(module).eval()
    if isinstance(module, BinaryLayer):  # only what is called within something is taken apart
        module = nn.Sequential(OrderedDict(layer=module))
    for binarizer in annealed(module):
        binarizer.set_progress(1.0)
    tracer = _Tracer(atoms)
    try:
        given = inspect.signature(module.forward).parameters.values()
        tracer.classes[""] = type(module).__name__
        traced = tracer.trace(module, {p.name: p.default for p in given if p.default is not p.empty})
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise TraceError(
            f"{type(module).__name__} cannot be traced by torch.fx ({error}). Modules that look at shapes or values "
            "are given as `atoms`, each of which becomes one node."
        ) from error
    for node in [node for node in traced.nodes if node.op == "get_attr" and not node.users]:
        traced.erase_node(node)  # only backward reads it
    found = _Values(module, graph=traced).run(example.clone())
    if not torch.allclose(found, module(example.clone()), equal_nan=True):
        raise TraceError(
            f"{type(module).__name__} does not compute twice the same, or depends on the values of tensors."
        )
    return _Builder(module, traced, tracer.classes).graph()


class _Tracer(fx.Tracer):
    """Follows modules of ours, notes which module computes what, and takes binary layers apart."""

    def __init__(self, atoms: tuple[type[nn.Module], ...]) -> None:
        super().__init__()
        self.atoms = (*_ATOMS, *atoms)
        self.stack: list[tuple[str, str]] = [("", "")]  # the modules that run: path, name of the group
        self.classes: dict[str, str] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, self.atoms) or super().is_leaf_module(m, module_qualified_name) or _is_of_torch(m)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta[_PATH] = self.stack[-1][1]
        return node

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        path = self.path_of_module(m)
        if self.is_leaf_module(m, path):
            return super().call_module(m, forward, args, kwargs)
        # A module that is called again is another group: its results may have gone into its second input.
        outer, group = self.stack[-1]
        within = path.startswith(f"{outer}.") and outer != ""
        instance = unused(group + path.removeprefix(outer) if within else path, self.classes)
        self.classes[instance] = path.rpartition(".")[2] if isinstance(m, CONTAINERS) else type(m).__name__
        self.stack.append((path, instance))
        try:
            if isinstance(m, BinaryLayer):
                return self._binary_layer(m, path, input_of(args, kwargs))
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.stack.pop()

    def _binary_layer(self, layer: Any, path: str, x: Any) -> Any:
        """Put down `layer(x)` step by step: the steps of `BinaryLayer.scaled_dot` and `binary_forward`."""
        call = partial(self.create_proxy, "call_function", kwargs={})
        if layer.input_binarizer is not None:
            x = layer.input_binarizer(x)
        # Read past torch.fx, which puts down every look at a parameter.
        latent, bias = layer._parameters["weight"], layer._parameters["bias"]
        weight = self.create_proxy("get_attr", f"{path}.weight", (), {})
        signs, scale = weight, None
        if layer.weight_binarizer is not None:
            signs = call(_Step("weight_binarizer", partial(_signs, layer), layer), (weight,))
        if _has_scale(layer, latent):
            scale = call(_Step("scale", partial(_scale, layer), layer), (weight,))
        y = call(_Step("product", layer.dot, layer), (x, signs))
        if scale is not None:
            y = call(_Step("scaled", lambda y, scale: y * layer.per_channel(scale), layer), (y, scale))
        if _has_centers(layer, latent):
            y = call(_Step("centers", partial(_plus_centers, layer), layer), (y, x, signs, weight))
        return y if bias is None else call(_Step("bias", lambda y: y + layer.per_channel(layer.bias), layer), (y,))


class _Step:
    """A step of a binary layer, with the name that its node gets."""

    def __init__(self, name: str, function: Callable[..., Tensor], layer: nn.Module) -> None:
        self.__name__ = self.__qualname__ = name
        self.__module__ = __name__
        self.function, self.layer = function, layer

    def __call__(self, *args: Tensor) -> Tensor:
        return self.function(*args)


def _signs(layer: Any, weight: Tensor) -> Tensor:
    return layer.from_filters(layer.weight_binarizer.binarize(layer.filters(weight))[0])  # type: ignore[no-any-return]


def _scale(layer: Any, weight: Tensor) -> Tensor:
    """Return the scale of a layer that `_has_scale`."""
    binarizer = layer.weight_binarizer
    return layer.times_gain(None if binarizer is None else binarizer.scale(layer.filters(weight)))  # type: ignore[no-any-return]


def _has_scale(layer: Any, weight: Tensor) -> bool:
    inputs, weights = layer.input_binarizer, layer.weight_binarizer
    # Asked of the class: to compute it would put down nodes.
    learned = inputs is not None and type(inputs).scale is not InputBinarizer.scale
    return learned or (weights is not None and weights.scale(layer.filters(weight)) is not None)


def _has_centers(layer: Any, weight: Tensor) -> bool:
    inputs, weights = layer.input_binarizer, layer.weight_binarizer
    learned = inputs is not None and type(inputs).offset is not InputBinarizer.offset
    return learned or (weights is not None and weights.offset(layer.filters(weight)) is not None)


def _plus_centers(layer: Any, y: Tensor, x: Tensor, signs: Tensor, weight: Tensor) -> Tensor:
    binarizer, filters = layer.weight_binarizer, layer.filters(weight)
    scale, offset = (None, None) if binarizer is None else (binarizer.scale(filters), binarizer.offset(filters))
    return layer.add_centers(y, x, signs, scale, offset)  # type: ignore[no-any-return]


def _is_of_torch(module: nn.Module) -> bool:
    """Whether a module is one of torch's layers, or a variant of it that computes the same in its own way."""
    if isinstance(module, BinaryLayer):
        return module.weight_binarizer is None and module.input_binarizer is None
    classes = type(module).__mro__[: -len(nn.Module.__mro__)]
    return any(cls.__module__.startswith("torch.nn.") and cls not in CONTAINERS for cls in classes)


class _Values(fx.Interpreter):
    """Computes every node, and keeps its shape and whether it holds signs."""

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            n.meta["shape"] = tuple(value.shape)
            n.meta["binary"] = bool((value.abs() == 1).all()) and self._of_signs(n)
        return value

    def _of_signs(self, node: fx.Node) -> bool:
        target = node.target
        if node.op == "call_module":
            made = self.fetch_attr(str(target))
            if isinstance(made, Binarizer):
                return True
        if isinstance(target, _Step):
            return target.__name__ == "weight_binarizer"
        before = [n for n in node.all_input_nodes if "shape" in n.meta]
        return bool(before) and all(n.meta["binary"] for n in before)  # reshaped, padded


class _Builder:
    """Makes nodes and edges of a traced graph whose values are known."""

    def __init__(self, root: nn.Module, traced: fx.Graph, classes: dict[str, str]) -> None:
        self.root, self.traced, self.classes = root, traced, classes
        self.nodes: dict[str, GraphNode] = {}
        self.edges: list[Edge] = []
        self.names: dict[fx.Node, str] = {}

    def graph(self) -> NetworkGraph:
        for node in self.traced.nodes:
            if node.op == "output":
                self._output(node)
            elif "shape" not in node.meta:
                continue  # a size, or a tuple: passed through below
            elif (same := self._passes(node)) is not None:
                self.names[node] = self.names[same]
                node.meta["binary"] = same.meta["binary"]
            else:
                self._add(node)
        return make_graph(self.nodes.values(), self.edges, self.classes)

    def _passes(self, node: fx.Node) -> fx.Node | None:
        """Return the input of a node that changes nothing."""
        if node.op == "call_module":
            module = self.root.get_submodule(str(node.target))
            nothing = isinstance(module, nn.Identity | nn.Dropout)  # in evaluation
            if nothing or (isinstance(module, Normalize) and module.mean is None):
                return node.all_input_nodes[0]
        before = node.all_input_nodes[0] if node.all_input_nodes else None
        same = node.target in (operator.getitem, "contiguous", "detach", "clone")
        # An average over a map of one pixel changes nothing, either, nor does it to leave out its height and width.
        if before is not None and node.target in (*MEANS, "flatten"):
            same |= _pixels(before) == _pixels(node)
        return before if same and before is not None and "shape" in before.meta else None

    def _add(self, node: fx.Node) -> None:
        module = self.root.get_submodule(str(node.target)) if node.op == "call_module" else None
        function = node.target if isinstance(node.target, _Step) else None
        path = str(node.meta[_PATH])
        label, detail, kind = label_of(node, module, None if function is None else function.layer)
        own = node.target if module is not None else f"{path}.{_short(node)}".lstrip(".")
        name = unused(str(own), self.nodes)
        shape = tuple(node.meta["shape"])
        of_weights = kind == "weights" or _short(node) == "weight_binarizer"
        self.nodes[name] = GraphNode(name, label, detail, kind, path, shape if of_weights else shape[1:])
        self.names[node] = name
        self._connect(node, name)

    def _connect(self, node: fx.Node, name: str) -> None:
        for source in node.all_input_nodes:
            if source in self.names:
                self.edges.append(Edge(self.names[source], name, source.meta["binary"]))

    def _output(self, node: fx.Node) -> None:
        (last,) = node.all_input_nodes
        name = unused("output", self.nodes)
        self.nodes[name] = GraphNode(name, "output", "", "output", "", tuple(last.meta["shape"][1:]))
        self._connect(node, name)


def unused(name: str, taken: Container[str]) -> str:
    """Return `name`, with a number if it is taken.

    Example:
        >>> unused("conv.mean", {"conv.mean": 1})
        'conv.mean_2'
    """
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def _pixels(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of a node's output, without the height and width of a map of one pixel."""
    shape = tuple(node.meta.get("shape", ()))
    return shape[:2] if shape[2:] == (1, 1) else shape


def _short(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return str(node.target).rpartition(".")[2]
    if node.target in MEANS:
        return "mean"
    if node.target is concatenate:
        return "cat"
    return node.target if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.name))
