"""From a packed network to the program and the tensors of a file."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from bnn_lightning.deploy.format.container import Array
from bnn_lightning.deploy.frontend.layers import PARTS, PackedConv2d
from bnn_lightning.deploy.frontend.pack import PackedNetwork
from bnn_lightning.deploy.frontend.torch_ops import TORCH_OPERATIONS
from bnn_lightning.deploy.ir.graph import Argument, Program, Step, Stored, Value
from bnn_lightning.deploy.passes.fold_epilogue import batch_norm_affine

_ATEN = torch.ops.aten
_OURS = torch.ops.bnn_lightning
_SAME = (_ATEN.clone.default, _ATEN.alias.default, _ATEN.detach.default, _ATEN.contiguous.default)
_RESHAPE = (_ATEN.view.default, _ATEN._unsafe_view.default, _ATEN.reshape.default)
_DTYPES = {torch.float32: "f32", torch.int8: "i8", torch.int32: "i32", torch.int64: "i64"}
_FEW = 64  # a tensor of fewer signs is not worth the name of another type


class LoweringError(ValueError):
    """A network does something that a packed file cannot say."""


@dataclass
class Lowered:
    """A network as a file holds it.

    Attributes:
        program: Its steps.
        tensors: By name, the dtype to store and the values, in the order of the table.
        num_classes: Columns of the logits.
    """

    program: Program
    tensors: dict[str, tuple[str, Array]] = field(default_factory=dict)
    num_classes: int = 0


@torch.no_grad()
def lower(packed: PackedNetwork, example: Tensor) -> Lowered:
    """Trace a packed network, and say it in the operations of a file.

    Args:
        packed: From `pack`.
        example: Images, (N, C, H, W), N at least 2; the number of images stays free, their size does not.

    Raises:
        LoweringError: It cannot be traced, or computes with an operation that files do not know.
    """
    try:
        # Two images: torch takes a single one for a constant.
        traced = torch.export.export(packed, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        graph = traced.run_decompositions({}).graph_module.graph
    except (RuntimeError, TypeError, ValueError, torch._dynamo.exc.TorchDynamoException) as error:
        raise LoweringError(f"The network cannot be traced: {error}") from error
    signature = traced.graph_signature
    names = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    names |= signature.inputs_to_lifted_tensor_constants
    return _Lowering(packed, names, {**traced.state_dict, **traced.constants}).run(graph)


class _Lowering:
    def __init__(self, packed: nn.Module, names: dict[str, str], state: dict[str, Tensor]) -> None:
        self.packed, self.names, self.state = packed, names, state
        self.steps: list[Step] = []
        self.tensors: dict[str, tuple[str, Array]] = {}
        self.places: dict[str, int] = {}
        self.values: dict[fx.Node, Value] = {}

    def run(self, graph: fx.Graph) -> Lowered:
        for node in graph.nodes:
            if node.op == "placeholder" and node.name not in self.names:
                self.values[node] = Value(0)
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                outputs = node.args[0]
                if len(outputs) != 1 or self.values.get(outputs[0]) != Value(len(self.steps)):
                    raise LoweringError(
                        "The network's output must be what its last operation gives, one tensor, not "
                        f"{len(outputs)}: wrap it, so that it returns logits alone."
                    )
                shape = outputs[0].meta["val"].shape
        return Lowered(Program(tuple(self.steps)), self.tensors, int(shape[1]) if len(shape) == 2 else 0)

    def _call(self, node: fx.Node) -> None:
        target: Any = node.target
        if target in _SAME or (target is operator.getitem and node.args[1] == 0):
            source = node.args[0]
            assert isinstance(source, fx.Node)
            if source in self.values:
                self.values[node] = self.values[source]
        elif target in (_ATEN.sym_size.int, _ATEN._assert_tensor_metadata.default, _OURS.pack_activations.default):
            return  # read where they are used; what an assertion says of a parameter was so when it was traced
        elif target is _OURS.binary_conv2d.default:
            self.values[node] = self._emit("binary_conv2d", self._binary(node))
        elif target is _ATEN._native_batch_norm_legit_no_training.default:
            self.values[node] = self._emit("affine", self._norm(node))
        elif target in _RESHAPE:
            self.values[node] = self._emit("reshape", [self._argument(node.args[0]), self._sizes(node.args[1])])
        elif (name := _name(target)) in TORCH_OPERATIONS:
            self.values[node] = self._emit(name, [self._argument(item) for item in _positional(node)])
        else:
            raise LoweringError(
                f"`{target}` (at `{node.name}`) cannot be written to a packed file; those that can: "
                f"{', '.join(sorted(TORCH_OPERATIONS))}."
            )

    def _emit(self, name: str, arguments: list[Argument]) -> Value:
        self.steps.append(Step(name, tuple(arguments)))
        return Value(len(self.steps))

    def _argument(self, item: Any) -> Argument:
        if isinstance(item, fx.Node):
            if item in self.values:
                return self.values[item]
            if item.name in self.names:
                return self._stored(self._name(item), self._tensor(item))
            raise LoweringError(f"`{item.name}` is a size that depends on the images; a packed file holds constants.")
        if isinstance(item, list | tuple):
            return [self._argument(inner) for inner in item]
        if item is None or isinstance(item, bool | int | float | str):
            return item
        raise LoweringError(f"{item!r} cannot be written to a packed file.")

    def _sizes(self, sizes: Any) -> Argument:
        known: list[Argument] = [-1 if isinstance(size, fx.Node) else int(size) for size in sizes]
        if known.count(-1) > 1:
            raise LoweringError("A view with more than one free size cannot be written to a packed file.")
        return known

    def _stored(self, name: str, tensor: Tensor) -> Stored:
        if name not in self.places:
            self.places[name] = len(self.tensors)
            self.tensors[name] = _stored_form(name, tensor)
        return Stored(self.places[name])

    def _norm(self, node: fx.Node) -> list[Argument]:
        x, *parameters, _, eps = node.args
        gain, offset, mean, variance = (None if item is None else self._tensor(item) for item in parameters)
        assert mean is not None
        assert variance is not None
        assert isinstance(eps, float)
        scale, shift = batch_norm_affine(mean, variance, gain, offset, eps)
        prefix = self._name(parameters[2]).rpartition(".")[0]
        return [
            self._argument(x),
            self._stored(f"{prefix}.scale", scale),
            self._stored(f"{prefix}.shift", shift),
        ]

    def _name(self, node: Any) -> str:
        """Return the name of a parameter or buffer in the network."""
        return self.names[node.name]

    def _tensor(self, node: Any) -> Tensor:
        return self.state[self._name(node)]

    def _binary(self, node: fx.Node) -> list[Argument]:
        packing = node.args[0]
        assert isinstance(packing, fx.Node)
        name = self._name(node.args[1]).rpartition(".")[0]
        layer = self.packed.get_submodule(name)
        assert isinstance(layer, PackedConv2d)
        residual = node.args[11] if len(node.args) > 11 else None
        tensors = {key: value for key, value in layer.dense().items() if value is not None}
        stored: dict[str, Argument] = {key: self._stored(f"{name}.{key}", value) for key, value in tensors.items()}
        geometry: list[Argument] = [list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups]
        return [
            self._argument(packing.args[0]),
            self._argument(residual),
            *(stored.get(key) for key in PARTS),
            *geometry,
            *(layer.pad_value, layer.low, layer.high),
        ]


def _stored_form(name: str, tensor: Tensor) -> tuple[str, Array]:
    tensor = tensor.detach().cpu()
    if tensor.dtype not in _DTYPES:
        raise LoweringError(f"`{name}` is {tensor.dtype}; a packed file holds {', '.join(map(str, _DTYPES))}.")
    values: Array = tensor.numpy()
    signs = tensor.is_floating_point() and values.size >= _FEW and bool(np.all(np.abs(values) == 1))
    return ("bits" if signs else _DTYPES[tensor.dtype]), values


def _name(target: Any) -> str:
    name: Callable[[], str] | None = getattr(target, "name", None)
    return name().removeprefix("aten::") if callable(name) else ""


def _positional(node: fx.Node) -> list[Any]:
    """Return the arguments, which a file lists without names."""
    given = {**node.kwargs}
    for argument in node.target._schema.arguments:  # type: ignore[union-attr]
        if given.get(argument.name, argument.default_value) == argument.default_value:
            given.pop(argument.name, None)
    if given:
        raise LoweringError(f"`{node.target}` with {', '.join(given)} cannot be written to a packed file.")
    return list(node.args)
