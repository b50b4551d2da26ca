"""From a network of packed layers to a graph."""

import copy
import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn

from bnn_lightning.deploy.frontend.batch_norm import batch_norm_affine
from bnn_lightning.deploy.frontend.layers import PackedConv2d
from bnn_lightning.deploy.frontend.out_of_place import out_of_place
from bnn_lightning.deploy.ir.graph import (
    AttributeValue,
    Constant,
    ConstantRef,
    Graph,
    GraphError,
    Input,
    Node,
    Value,
)
from bnn_lightning.deploy.ir.operations import OPERATIONS, PARTS

_ATEN = torch.ops.aten
_OURS = torch.ops.bnn_lightning
_SAME = (_ATEN.clone.default, _ATEN.alias.default, _ATEN.detach.default, _ATEN.contiguous.default)
_BATCH_NORM = _ATEN._native_batch_norm_legit_no_training.default
# They are read where they are used; what an assertion says of a parameter was so when it was traced.
_READ_BY_OTHERS = (_ATEN.sym_size.int, _ATEN._assert_tensor_metadata.default, _OURS.pack_activations.default)
_KNOWN = (*_SAME, *_READ_BY_OTHERS, _OURS.binary_conv2d.default, _BATCH_NORM)
# Errors of torch.export, beside its own, where Python looks at values or shapes.
TRACING_ERRORS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_RESHAPE = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default)


class _Root(nn.Module):
    """A network below the name that its tensors have in files."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


class Trace:
    """The operations of a network of packed layers, traced once; its tensors are read whenever it becomes a graph.

    Args:
        network: With packed layers in it.
        example: Images, (N, C, H, W), N at least 2; the number of images stays free, their size does not.

    Attributes:
        constants: Tensors that are neither parameters nor buffers of the network, by name.

    Raises:
        GraphError: It cannot be traced.
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module, example: Tensor) -> None:
        self._root = _Root(network)
        self._root.train(network.training)
        try:
            # Two images: torch takes a single one for a constant.
            traced = torch.export.export(self._root, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
            self._graph = copy.deepcopy(traced.graph)
            if not out_of_place(self._graph, _is_known):
                self._graph = traced.run_decompositions({}).graph
        except (*TRACING_ERRORS, torch._dynamo.exc.TorchDynamoException) as error:
            raise GraphError(f"The network cannot be traced: {error}") from error
        signature = traced.graph_signature
        self._names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self._names |= signature.inputs_to_lifted_tensor_constants
        self.constants = {name: item for name, item in traced.constants.items() if isinstance(item, Tensor)}

    @torch.no_grad()
    def graph(self) -> Graph:
        """Return the operations, with the tensors that the network has now.

        Raises:
            GraphError: It computes with operations that graphs do not know.
        """
        own = (*self._root.named_parameters(remove_duplicate=False), *self._root.named_buffers(remove_duplicate=False))
        return _Capture(self._root, self._names, {**self.constants, **dict(own)}).run(self._graph)


def capture(network: nn.Module, example: Tensor) -> Graph:
    """Trace a network of packed layers, and say it in the operations of a graph; see `Trace`."""
    return Trace(network, example).graph()


class _Capture:
    def __init__(self, root: nn.Module, names: dict[str, str], state: dict[str, Tensor]) -> None:
        self.root, self.names, self.state = root, dict(names), state
        self.nodes: list[Node] = []
        self.constants: dict[str, Constant] = {}
        self.places: dict[str, int] = {}
        self.values: dict[fx.Node, Value] = {}

    def run(self, graph: fx.Graph) -> Graph:
        self._refuse_unknown(graph)
        for node in graph.nodes:
            if node.op == "placeholder" and node.name not in self.names:
                self.values[node] = Value(0)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                outputs = node.args[0]
                if len(outputs) != 1 or self.values.get(outputs[0]) != Value(len(self.nodes)):
                    raise GraphError(
                        "The network's output must be what its last operation gives, one tensor, not "
                        f"{len(outputs)}: wrap it, so that it returns logits alone."
                    )
        return Graph(tuple(self.nodes), tuple(self.constants.values()))

    def _refuse_unknown(self, graph: fx.Graph) -> None:
        unknown: dict[str, list[str]] = {}
        for node in graph.nodes:
            if node.op == "call_function" and not _is_known(node):
                unknown.setdefault(str(node.target), []).append(self._place(node))
        if unknown:
            listed = ", ".join(f"`{target}` (at {', '.join(places)})" for target, places in unknown.items())
            raise GraphError(f"{listed} cannot be written to a packed file; known: {', '.join(sorted(_READERS))}.")

    def _place(self, node: fx.Node) -> str:
        """Return the name of the module that a node belongs to, or the node's own in a module of several."""
        *_, path = ["", *(path.partition("@")[0] for path, _ in node.meta.get("nn_module_stack", {}).values())]
        own = not any(True for _ in self.root.get_submodule(path).children())
        return path.removeprefix("network.") if own else node.name

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        if target in _SAME or (target is operator.getitem and node.args[1] == 0) or _keeps_shape(node):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if source in self.values:
                self.values[node] = self.values[source]
            elif source.name in self.names:
                self.names[node.name] = self.names[source.name]
        elif target in _READ_BY_OTHERS:
            return
        elif target is _OURS.binary_conv2d.default:
            self.values[node] = self._emit(node, "binary_conv2d", *self._binary(node))
        elif target is _BATCH_NORM:
            self.values[node] = self._emit(node, "affine", self._norm(node), {})
        else:
            self.values[node] = self._emit(node, *_READERS[_name(target)](self, _arguments(node)))

    def _emit(
        self, node: fx.Node, name: str, inputs: list[Input], attributes: dict[str, AttributeValue | None]
    ) -> Value:
        known = OPERATIONS[name].attributes
        given = {key: value for key, value in attributes.items() if value is not None and value != known[key].default}
        self.nodes.append(Node(name, tuple(inputs), given, self._place(node)))
        return Value(len(self.nodes))

    def input(self, item: Any) -> Input:
        """Return a tensor that an operation reads."""
        if isinstance(item, int | float):  # on the left of a difference or a quotient
            return self._constant(f"number {item}", torch.tensor(float(item), dtype=torch.float32))
        if item in self.values:
            return self.values[item]
        if item.name in self.names:
            return self._constant(self._name(item), self._tensor(item))
        raise GraphError(f"`{item.name}` is a size that depends on the images; a packed file holds constants.")

    def _constant(self, name: str, tensor: Tensor) -> ConstantRef:
        if name not in self.places:
            self.places[name] = len(self.constants)
            self.constants[name] = _constant_of(name, tensor)
        return ConstantRef(self.places[name])

    def _norm(self, node: fx.Node) -> list[Input]:
        x, *parameters, _, eps = node.args
        gain, offset, mean, variance = (None if item is None else self._tensor(item) for item in parameters)
        assert mean is not None
        assert variance is not None
        assert isinstance(eps, float)
        scale, shift = batch_norm_affine(mean, variance, gain, offset, eps)
        prefix = self._name(parameters[2]).rpartition(".")[0]
        return [self.input(x), self._constant(f"{prefix}.scale", scale), self._constant(f"{prefix}.shift", shift)]

    def _name(self, node: Any) -> str:
        """Return the name of a parameter or buffer in the network."""
        return self.names[node.name]

    def _tensor(self, node: Any) -> Tensor:
        return self.state[self._name(node)]

    def _binary(self, node: fx.Node) -> tuple[list[Input], dict[str, AttributeValue | None]]:
        packing = node.args[0]
        assert isinstance(packing, fx.Node)
        name = self._name(node.args[1]).rpartition(".")[0]
        layer = self.root.get_submodule(name)
        assert isinstance(layer, PackedConv2d)
        residual = node.args[10] if len(node.args) > 10 else None
        dense = layer.dense()
        parts = {key: self._constant(f"{name}.{key}", part) for key in PARTS if (part := dense[key]) is not None}
        geometry: dict[str, AttributeValue | None] = {
            "stride": list(layer.stride),
            "padding": list(layer.padding),
            "dilation": list(layer.dilation),
            "groups": layer.groups,
            "pad_value": int(layer.pad_value),
            "low": layer.low,
            "high": layer.high,
        }
        return [self.input(item) for item in (packing.args[0], residual) if item is not None], {**parts, **geometry}


def _constant_of(name: str, tensor: Tensor) -> Constant:
    try:
        values = tensor.detach().cpu().numpy()
    except TypeError as error:  # numpy has no bfloat16
        raise GraphError(f"`{name}` is {tensor.dtype}, which a packed file does not hold.") from error
    return Constant.of_array(name, values)


def _is_known(node: fx.Node) -> bool:
    if node.target is operator.getitem:  # of several results; operations that have more than one are none of ours
        return bool(node.args[1] == 0)
    return node.target in _KNOWN or _name(node.target) in _READERS


def _name(target: Any) -> str:
    name: Callable[[], str] | None = getattr(target, "name", None)
    return name().removeprefix("aten::") if callable(name) else ""


def _keeps_shape(node: fx.Node) -> bool:
    """Whether a node is a view of the shape that its input has already."""
    source = node.args[0] if node.target in _RESHAPE else None
    return isinstance(source, fx.Node) and bool(source.meta["val"].shape == node.meta["val"].shape)


def _arguments(node: fx.Node) -> dict[str, Any]:
    """Return all arguments of a call of torch by name."""
    target: Any = node.target
    arguments = target._schema.arguments
    given = dict(zip((argument.name for argument in arguments), node.args, strict=False)) | node.kwargs
    return {argument.name: given.get(argument.name, argument.default_value) for argument in arguments}


# Readers of torch's operations: from all arguments by name to an operation, its inputs, and its attributes.

_Call = tuple[str, list[Input], dict[str, AttributeValue | None]]
_Reader = Callable[[_Capture, dict[str, Any]], _Call]


def _reader(
    operation: str,
    inputs: tuple[str, ...] = ("self",),
    attributes: Mapping[str, str] = MappingProxyType({}),
    fixed: Mapping[str, Any] = MappingProxyType({}),
) -> _Reader:
    """Return what reads a call whose arguments are an operation's inputs and attributes under other names.

    Args:
        operation: Its name.
        inputs: Arguments that are tensors.
        attributes: Attributes by name, and the arguments that they are read from.
        fixed: Arguments that an operation does not have, and the value that they must have.
    """

    def read(capture: _Capture, given: dict[str, Any]) -> _Call:
        for name, wanted in fixed.items():
            if given[name] != wanted:
                raise GraphError(f"`{operation}` with {name}={given[name]} cannot be written to a packed file.")
        tensors = [capture.input(given[name]) for name in inputs if given[name] is not None]
        return operation, tensors, {name: _plain(operation, name, given[key]) for name, key in attributes.items()}

    return read


def _same(*names: str) -> dict[str, str]:
    """Return attributes that arguments have the names of."""
    return {name: name for name in names}


def _arithmetic(operation: str) -> _Reader:
    def read(capture: _Capture, given: dict[str, Any]) -> _Call:
        left, right = given["self"], given["other"]
        if given.get("alpha", 1) != 1:
            raise GraphError(f"`{operation}` with alpha={given['alpha']} cannot be written to a packed file.")
        if isinstance(right, int | float):
            return operation, [capture.input(left)], {"other": right}
        if isinstance(left, int | float) and not right.meta["val"].is_floating_point():
            raise GraphError(f"`{operation}` of {left} and whole numbers cannot be written to a packed file.")
        return operation, [capture.input(left), capture.input(right)], {}

    return read


def _reversed(operation: str) -> _Reader:
    """Return what reads an operation of a number and a tensor: `1 - x`, `1 / x`."""

    def read(capture: _Capture, given: dict[str, Any]) -> _Call:
        if given.get("alpha", 1) != 1:
            raise GraphError(f"`{operation}` with alpha={given['alpha']} cannot be written to a packed file.")
        return operation, [capture.input(given.get("other", 1)), capture.input(given["self"])], {}

    return read


def _cat(capture: _Capture, given: dict[str, Any]) -> _Call:
    return "cat", [capture.input(item) for item in given["tensors"]], {"dim": given["dim"]}


def _clamp(low: str, high: str) -> _Reader:
    def read(capture: _Capture, given: dict[str, Any]) -> _Call:
        bounds = {"low": given[low], "high": given[high]}
        free = {"low": -math.inf, "high": math.inf}
        return "clamp", [capture.input(given["self"])], {k: None if v == free[k] else v for k, v in bounds.items()}

    return read


def _relu6(capture: _Capture, given: dict[str, Any]) -> _Call:
    return "clamp", [capture.input(given["self"])], {"low": 0.0, "high": 6.0}


def _expand(capture: _Capture, given: dict[str, Any]) -> _Call:
    known = [-1 if isinstance(size, fx.Node) else int(size) for size in given["size"]]  # the images keep their number
    return "expand", [capture.input(given["self"])], {"shape": known}


def _pool(operation: str, *more: str) -> _Reader:
    attributes = {name: name for name in ("kernel_size", "stride", "padding", *more)}
    read = _reader(operation, ("self",), attributes)
    return lambda capture, given: read(capture, given | {"stride": given["stride"] or given["kernel_size"]})


def _squeeze(capture: _Capture, given: dict[str, Any]) -> _Call:
    dims = given["dim"] if isinstance(given["dim"], list | tuple) else [given["dim"]]
    return "squeeze", [capture.input(given["self"])], {"dims": list(dims)}


def _transposed(capture: _Capture, given: dict[str, Any]) -> _Call:
    return "transpose", [capture.input(given["self"])], {"dim0": 0, "dim1": 1}


def _reshape(sizes: str) -> _Reader:
    def read(capture: _Capture, given: dict[str, Any]) -> _Call:
        known = [-1 if isinstance(size, fx.Node) else int(size) for size in given[sizes]]
        if known.count(-1) > 1:
            raise GraphError("A view with more than one free size cannot be written to a packed file.")
        return "reshape", [capture.input(given["self"])], {"shape": known}

    return read


def _plain(operation: str, name: str, value: Any) -> AttributeValue | None:
    """Return an attribute as graphs hold it."""
    kind = OPERATIONS[operation].attributes[name].kind
    items = value if isinstance(value, list | tuple) else [value]
    if value is not None and not all(isinstance(item, bool | int | float | str) for item in items):
        raise GraphError(f"`{operation}` with {name}={value} cannot be written to a packed file: it holds constants.")
    if value is None or kind not in ("ints", "pair", "quad"):
        return value  # type: ignore[no-any-return]
    return list(items) * 2 if kind == "pair" and len(items) == 1 else list(items)


_FIXED = {"dtype": None}
_READERS: dict[str, _Reader] = {
    **{f"{name}.{kind}": _arithmetic(name) for name in ("add", "sub", "mul", "div") for kind in ("Tensor", "Scalar")},
    **{name: _reader(name) for name in ("hardsigmoid", "hardswish", "neg", "relu", "sigmoid", "silu", "tanh")},
    **{name: _reshape("size") for name in ("view", "_unsafe_view")},
    **{name: _reader(name, attributes=_same("output_size")) for name in ("adaptive_avg_pool2d", "adaptive_max_pool2d")},
    **{name: _reader("amax", attributes={"dims": "dim", "keepdim": "keepdim"}) for name in ("amax", "max.dim")},
    "avg_pool2d": _pool("avg_pool2d", "ceil_mode", "count_include_pad", "divisor_override"),
    "cat": _cat,
    "clamp": _clamp("min", "max"),
    "conv2d": _reader("conv2d", ("input", "weight", "bias"), _same("stride", "padding", "dilation", "groups")),
    "expand": _expand,
    "gelu": _reader("gelu", fixed={"approximate": "none"}),
    "hardtanh": _clamp("min_val", "max_val"),
    "leaky_relu": _reader("leaky_relu", attributes=_same("negative_slope")),
    "linear": _reader("linear", ("input", "weight", "bias")),
    "log_softmax.int": _reader("log_softmax", attributes=_same("dim"), fixed=_FIXED),
    "max_pool2d": _pool("max_pool2d", "dilation", "ceil_mode"),
    "mean.dim": _reader("mean", attributes={"dims": "dim", "keepdim": "keepdim"}, fixed=_FIXED),
    "pad": _reader("pad", attributes={"padding": "pad", "mode": "mode", "value": "value"}),
    "permute": _reader("permute", attributes=_same("dims")),
    "prelu": _reader("prelu", ("self", "weight")),
    "reciprocal": _reversed("div"),
    "relu6": _relu6,
    "reshape": _reshape("shape"),
    "rsub.Scalar": _reversed("sub"),
    "select.int": _reader("select", attributes=_same("dim", "index")),
    "slice.Tensor": _reader("slice", attributes=_same("dim", "start", "end", "step")),
    "softmax.int": _reader("softmax", attributes=_same("dim"), fixed=_FIXED),
    "squeeze.dim": _squeeze,
    "squeeze.dims": _squeeze,
    "sum.dim_IntList": _reader("sum", attributes={"dims": "dim", "keepdim": "keepdim"}, fixed=_FIXED),
    "t": _transposed,
    "transpose.int": _reader("transpose", attributes=_same("dim0", "dim1")),
    "unsqueeze": _reader("unsqueeze", attributes=_same("dim")),
}
