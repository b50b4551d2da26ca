"""From a network of packed layers to a graph."""

import copy
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._decomp import get_decompositions
from torch.export.graph_signature import ExportGraphSignature, OutputKind

from bnn_lightning.deploy.frontend.any_number import any_number, export_for_any_number
from bnn_lightning.deploy.frontend.batch_norm import batch_norm_affine
from bnn_lightning.deploy.frontend.layers import PackedConv2d
from bnn_lightning.deploy.frontend.out_of_place import out_of_place, write_sizes, writes_in_place
from bnn_lightning.deploy.frontend.readers import READERS
from bnn_lightning.deploy.frontend.state import Places, refuse_counters, settings_of
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
from bnn_lightning.layers.binary import BinaryLayer

_ATEN = torch.ops.aten
_OURS = torch.ops.bnn_lightning
_SAME = (_ATEN.clone.default, _ATEN.alias.default, _ATEN.detach.default, _ATEN.contiguous.default)
_BATCH_NORM = _ATEN._native_batch_norm_legit_no_training.default
# They are read where they are used; what an assertion says of a parameter was so when it was traced.
_READ_BY_OTHERS = (_ATEN.sym_size.int, _ATEN._assert_tensor_metadata.default, _OURS.pack_activations.default)
_SPLITS = (_ATEN.split.Tensor, _ATEN.split_with_sizes.default)  # their parts are slices
_KNOWN = (*_SAME, *_SPLITS, *_READ_BY_OTHERS, _OURS.binary_conv2d.default, _BATCH_NORM)
# Errors of torch.export, beside its own, where Python looks at values or shapes.
TRACING_ERRORS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
_RESHAPE = (_ATEN.view.default, _ATEN.squeeze.dims)


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return what operations without a reader consist of."""
    known: dict[Any, Callable[..., Any]] = {**get_decompositions([_ATEN.stack])}
    known |= {_ATEN.avg_pool1d.default: _avg_pool1d, _ATEN.max_pool1d.default: _max_pool1d}
    return known | {_ATEN.conv2d.padding: _conv2d}


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: str = "valid",
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolve with the padding "same" or "valid": where it is odd, torch pads one more on the right and below."""
    around = [0, 0]
    if padding == "same":
        total = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
        around = [both // 2 for both in total]
        if any(both % 2 for both in total):
            x = _ATEN.pad.default(x, [0, total[1] % 2, 0, total[0] % 2])
    convolved: Tensor = _ATEN.conv2d.default(x, weight, bias, stride, around, dilation, groups)
    return convolved


def _avg_pool1d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    windows = [1, *kernel_size], [1, *(stride or kernel_size)], [0, *padding]
    pooled: Tensor = _ATEN.avg_pool2d.default(x.unsqueeze(-2), *windows, ceil_mode, count_include_pad)
    return pooled.squeeze(-2)


def _max_pool1d(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> Tensor:
    windows = [1, *kernel_size], [1, *(stride or kernel_size)], [0, *padding], [1, *dilation]
    pooled: Tensor = _ATEN.max_pool2d.default(x.unsqueeze(-2), *windows, ceil_mode)
    return pooled.squeeze(-2)


class _Root(nn.Module):
    """A network below the name that its tensors have in files.

    Args:
        network: The network.
        note: Takes its `settings_of` before and after a call. `torch.export` restores what is held here itself.
    """

    def __init__(self, network: nn.Module, note: Callable[[Places], None]) -> None:
        super().__init__()
        self.network, self._note = network, note

    def forward(self, images: Tensor) -> Any:
        self._note(settings_of(self.network))
        result = self.network(images)
        self._note(settings_of(self.network))
        return result


class Trace:
    """The operations of a network of packed layers, traced once; its tensors are read whenever it becomes a graph.

    Args:
        network: With packed layers in it.
        example: Images, (N, C, H, W), N at least 2; the number of images stays free, their size does not.

    Attributes:
        constants: Tensors that are neither parameters nor buffers of the network, by name.
        writes_in_place: Whether it overwrites tensors, so that images of another memory format may have other results.

    Raises:
        GraphError: It cannot be traced.
    """

    @torch.no_grad()
    def __init__(self, network: nn.Module, example: Tensor) -> None:
        settings: list[Places] = []
        self._root = _Root(network, settings.append)
        self._root.training = network.training  # not that of the modules within
        try:
            traced = export_for_any_number(self._root, example)
            refuse_counters(network, example, *settings[:2])
            self._graph = copy.deepcopy(traced.graph)
            self.writes_in_place = writes_in_place(self._graph)
            write_sizes(self._graph)
            if not out_of_place(self._graph, _is_known):
                with any_number():
                    decomposed = traced.run_decompositions(_decompositions())
                _refuse_writes(decomposed.graph_signature)
                self._graph = decomposed.graph
                write_sizes(self._graph)
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
        unpacked: dict[str, str] = {}
        for node in graph.nodes:
            if node.op == "call_function" and not _is_known(node):
                layer = self._binary_layer(node)
                if layer is None:
                    unknown.setdefault(str(node.target), []).append(self._place(node))
                else:
                    unpacked[layer] = type(self.root.get_submodule(layer)).__name__
        if not unknown and not unpacked:
            return
        listed = [f"`{name.removeprefix('network.')}` ({kind}, not packed)" for name, kind in unpacked.items()]
        listed += [f"`{target}` (at {', '.join(places)})" for target, places in unknown.items()]
        remedy = ": write format=torch, or format=onnx where they have no `forward` and no hooks of their own."
        if unknown:
            remedy = f"; known: {', '.join(sorted(READERS))}."
        raise GraphError(f"{', '.join(listed)} cannot be written to a packed file{remedy}")

    def _binary_layer(self, node: fx.Node) -> str | None:
        """Return the name of the binary layer that a node belongs to, None for other nodes."""
        paths = [path.partition("@")[0] for path, _ in node.meta.get("nn_module_stack", {}).values()]
        return next((path for path in paths if isinstance(self.root.get_submodule(path), BinaryLayer)), None)

    def _place(self, node: fx.Node) -> str:
        """Return the name of the module that a node belongs to, or the node's own in a module of several."""
        *_, path = ["", *(path.partition("@")[0] for path, _ in node.meta.get("nn_module_stack", {}).values())]
        own = not any(True for _ in self.root.get_submodule(path).children())
        return path.removeprefix("network.") if own else node.name

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        if _is_part(node):
            self.values[node] = self._emit(node, "slice", *self._part(node))
        elif target in _SAME or (target is operator.getitem and node.args[1] == 0) or _keeps_shape(node):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if source in self.values:
                self.values[node] = self.values[source]
            elif source.name in self.names:
                self.names[node.name] = self.names[source.name]
        elif target in (*_READ_BY_OTHERS, *_SPLITS):
            return
        elif target is _OURS.binary_conv2d.default:
            self.values[node] = self._emit(node, "binary_conv2d", *self._binary(node))
        elif target is _BATCH_NORM:
            self.values[node] = self._emit(node, "affine", self._norm(node), {})
        else:
            self.values[node] = self._emit(node, *READERS[_name(target)](self, _arguments(node)))

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

    def _part(self, node: fx.Node) -> tuple[list[Input], dict[str, AttributeValue | None]]:
        given, place = _arguments(node.args[0]), node.args[1]
        assert isinstance(place, int)
        x, dim = given["self"], given["dim"]
        whole = x.meta["val"].shape[dim]
        if not isinstance(whole, int):
            raise GraphError("The images of a call cannot be split in a packed file.")
        sizes = given["split_sizes"] if "split_sizes" in given else [given["split_size"]] * (place + 1)
        start = sum(sizes[:place])
        return [self.input(x)], {"dim": dim, "start": start, "end": min(start + sizes[place], whole)}

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


def _refuse_writes(signature: ExportGraphSignature) -> None:
    """Refuse a network that writes into its images or tensors: results that it does not return."""
    for output in signature.output_specs:
        if output.kind is OutputKind.USER_INPUT_MUTATION:
            raise GraphError("it writes into its images, and a graph does not: begin with images.clone().")
        if output.kind not in (OutputKind.USER_OUTPUT, OutputKind.TOKEN):
            name = str(output.target).removeprefix("network.")
            raise GraphError(
                f"it writes into the tensor `{name}`, and a graph computes the same in each call: keep such state "
                "outside of it."
            )


def _constant_of(name: str, tensor: Tensor) -> Constant:
    try:
        values = tensor.detach().cpu().numpy()
    except TypeError as error:  # numpy has no bfloat16
        raise GraphError(f"`{name}` is {tensor.dtype}, which a packed file does not hold.") from error
    return Constant.of_array(name, values)


def _is_part(node: fx.Node) -> bool:
    """Whether a node is a part of what was split."""
    source = node.args[0] if node.target is operator.getitem else None
    return isinstance(source, fx.Node) and source.target in _SPLITS


def _is_known(node: fx.Node) -> bool:
    if _is_part(node):
        return True
    if node.target is operator.getitem:  # of several results; operations that have more than one are none of ours
        return bool(node.args[1] == 0)
    return node.target in _KNOWN or _name(node.target) in READERS


def _name(target: Any) -> str:
    name: Callable[[], str] | None = getattr(target, "name", None)
    return name().removeprefix("aten::") if callable(name) else ""


def _keeps_shape(node: fx.Node) -> bool:
    """Whether a node is a view of the shape that its input has already."""
    source = node.args[0] if node.target in _RESHAPE else None
    return isinstance(source, fx.Node) and bool(source.meta["val"].shape == node.meta["val"].shape)


def _arguments(node: Any) -> dict[str, Any]:
    """Return all arguments of a call of torch by name."""
    target: Any = node.target
    arguments = target._schema.arguments
    given = dict(zip((argument.name for argument in arguments), node.args, strict=False)) | node.kwargs
    return {argument.name: given.get(argument.name, argument.default_value) for argument in arguments}
