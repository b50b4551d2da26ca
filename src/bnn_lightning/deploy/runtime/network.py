"""Packed files as networks of torch: `load` one."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.format.container import Container, PackedFileError, read_container
from bnn_lightning.deploy.format.dry_run import check_signs, check_sizes, dry_run
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.format.packed_file import graph_of
from bnn_lightning.deploy.format.plan_section import is_current
from bnn_lightning.deploy.frontend.finite import check_images, refuse_nan_in_graph
from bnn_lightning.deploy.frontend.fresh import floats, pixels
from bnn_lightning.deploy.frontend.inputs import check_range, check_tensor, refuse_jit, refuse_tangents
from bnn_lightning.deploy.frontend.layers import PackedConv2d
from bnn_lightning.deploy.frontend.torch_fallback import for_torch, plain
from bnn_lightning.deploy.frontend.torch_ops import compute
from bnn_lightning.deploy.ir.graph import Constant, ConstantRef, Graph, GraphError, Input, Node, Value
from bnn_lightning.deploy.ir.operations import PARTS
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.ir.types import Images, ShapeError, Type
from bnn_lightning.deploy.kernels.library import current_kernel
from bnn_lightning.deploy.planner.plan import Plan
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.runtime.executor import Executor, FilePlans
from bnn_lightning.deploy.runtime.on_demand import OnDemand, Watch
from bnn_lightning.zoo.files import is_name, packed_file

# Errors that Python and torch raise for arguments that do not fit.
_WHOLE = (torch.int8, torch.int32, torch.int64, torch.bool, torch.uint8)
_WRONG = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, ArithmeticError, MemoryError)


class LoadedNetwork(OnDemand):
    """A packed network, from images to logits. It has no state that changes: threads may share it.

    Buffers and layers are made when they are first asked for: plans do not read them. Where they are changed
    afterwards, plans are made anew.

    Args:
        graph: Operations of the network.
        info: Facts of the network.
        takes_images: Whether images may be refused for their range: inputs of unknown networks are of any range.
        types: Types of its values, where it is known that the last ones are logits, a row for each image.
        plans: Plans of the file that it comes from.
    """

    def __init__(
        self,
        graph: Graph,
        info: PackedInfo,
        *,
        takes_images: bool = True,
        types: Sequence[Type] | None = None,
        plans: FilePlans | None = None,
    ) -> None:
        super().__init__()
        self._hide()
        self.info, self.graph = info, graph
        self._ends = graph.last_uses()
        self._executor, self._changed = Executor(plans), False
        self._types = None if types is None else tuple(types)
        self._readable: bool | None = None
        self._range_is_known = not takes_images
        read = self._read_by_torch()
        # Names of layers with real inputs whose weights are signs.
        self.signs_of_others = sorted(
            constant.name.removeprefix("network.").removesuffix(".weight")
            for index, constant in enumerate(graph.constants)
            if index in read and constant.dtype == "bits"
        )

    def _read_by_torch(self) -> set[int]:
        """Return the constants that are buffers: all but those of binary layers."""
        nodes = (node for node in self.graph.nodes if node.operation != "binary_conv2d")
        return {ref.index for node in nodes for ref in node.constants()}

    def _made(self) -> tuple[dict[str, Tensor | None], dict[str, nn.Module | None]]:
        buffers = {f"constant{i}": _tensor(self.graph.constants[i]) for i in sorted(self._read_by_torch())}
        layers = {
            f"node{number}": _packed_layer(node, self.graph).train(self.training)
            for number, node in enumerate(self.graph.nodes, start=1)
            if node.operation == "binary_conv2d"
        }
        return {**buffers}, {**layers}

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, num_classes).

        Args:
            images: Shape (N, C, H, W), of the size that the network was trained on: uint8, or floating in [0, 1], which
                are computed with in the network's own precision.

        Raises:
            TypeError: No tensor.
            ValueError: Another shape, numbers of another type, NaN or infinite ones.
        """
        refuse_jit()
        check_tensor(images)
        refuse_tangents(images)
        shape = self.info.shape
        if images.dim() != 4 or tuple(images.shape[1:]) != shape:
            raise ValueError(f"Images must have the shape {('N', *shape)}, got {tuple(images.shape)}.")
        if images.dtype not in (torch.uint8, torch.float32):
            if not images.is_floating_point():
                raise ValueError(f"Images must be uint8, or floating in [0, 1], got {images.dtype}.")
            images = images.to(self.dtype)
        check_images(images)
        if not self._range_is_known:
            self._range_is_known = check_range(images)
        return self.run(images)

    def run(self, images: Tensor) -> Tensor:
        """Compute logits of images that are known to be right; see `forward`."""
        if images.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(images.device.type):
            with torch.autocast(images.device.type, enabled=False):  # what torch computes in between is float32, too
                return self.run(images)
        kernel = current_kernel() if can_be_planned(images) and self._for_kernels() else None
        if kernel is not None and self.is_planned:
            return self._executor.run(self, images, kernel)
        return self.run_nodes(for_torch(pixels(images).to(self.dtype)))

    @property
    def dtype(self) -> torch.dtype:
        """Type of its floats: float32, unless it was converted."""
        if not self.is_shown:
            return torch.float32
        return next((tensor.dtype for tensor in self.buffers() if tensor.is_floating_point()), torch.float32)

    def run_nodes(self, images: Tensor, watch: Callable[[Tensor], None] | None = None) -> Tensor:
        """Run the graph node by node: what plans are held to.

        Args:
            images: Floating, in [0, 1].
            watch: Is shown the result of every node.
        """
        values = {0: images}
        for number in range(1, len(self.graph.nodes) + 1):
            values[number] = self.run_node(number, values)
            if watch is not None:
                watch(values[number])
            for value in self._ends[number - 1]:
                del values[value]
        return values[len(self.graph.nodes)]

    def run_node(self, number: int, values: Mapping[int, Tensor]) -> Tensor:
        """Compute one value, by its number, from those before it."""
        node = self.graph.nodes[number - 1]
        inputs = [self._input(item, values) for item in node.inputs]
        if node.operation == "binary_conv2d":
            return self.layer(number)(*inputs)  # type: ignore[no-any-return]
        return compute(node, inputs)

    def layer(self, number: int) -> PackedConv2d:
        """Return the layer that computes a value."""
        layer = self.get_submodule(f"node{number}")
        assert isinstance(layer, PackedConv2d)
        return layer

    def constant(self, item: ConstantRef) -> Tensor:
        """Return a constant, except those of binary layers."""
        return self.get_buffer(f"constant{item.index}")

    @property
    def is_planned(self) -> bool:
        """Whether it runs by a plan: what mixes images of a call has none."""
        if self._types is None:
            try:
                types = tuple(types_of(self.graph, self.info.shape))
                match types[-1]:
                    case Type((Images(1), int()), "f32"):
                        self._types = types
                    case _:
                        self._types = ()
            except ShapeError:
                self._types = ()
        return bool(self._types)

    def plan(self, *, takes_bytes: bool = False) -> Plan:
        """Return the plan that it runs, for images as floats or as bytes."""
        return self._executor.plan(self, takes_bytes=takes_bytes)

    def typed_graph(self, *, takes_bytes: bool) -> TypedGraph:
        """Return its graph with types, and with the tensors that it has now."""
        graph = self._current() if self._changed else self.graph
        if not self.is_planned:
            raise GraphError("The network mixes the images of a call: it has no plan, and torch runs it.")
        return TypedGraph(graph, self._types or (), takes_bytes=takes_bytes)

    def _current(self) -> Graph:
        """Return the graph with the tensors of buffers and layers, which may have been changed."""
        tensors = {int(n.removeprefix("constant")): t for n, t in self.named_buffers(recurse=False)}
        for number, node in enumerate(self.graph.nodes, start=1):
            if node.operation == "binary_conv2d":
                dense = self.layer(number).dense()
                for name in PARTS:
                    tensor = dense[name]
                    if node[name] is not None:
                        index = node[name].index
                        shape = self.graph.constants[index].shape
                        tensors[index] = floats(*shape).zero_() if tensor is None else tensor
        constants = [
            Constant.of(constant.name, constant.dtype, tensors[index].numpy()) if index in tensors else constant
            for index, constant in enumerate(self.graph.constants)
        ]
        return Graph(self.graph.nodes, tuple(constants))

    def _for_kernels(self) -> bool:
        """Whether the tensors are what kernels read, looked up once, as there are hundreds, and no layer has hooks."""
        if self._watch is None:
            return True
        self._update()
        if self._readable is None:
            self._readable = self._watch.counts and are_for_kernels(self)
        return self._readable and not self._watch.has_hooks()

    def _update(self) -> None:
        if self._watch is not None and self._watch.has_changed():
            self._executor.clear()
            self._readable, self._changed, self._watch = None, True, Watch(self)

    def _input(self, item: Input, values: Mapping[int, Tensor]) -> Tensor:
        return values[item.number] if isinstance(item, Value) else self.constant(item)

    def extra_repr(self) -> str:
        return f"{self.info.name}, {'x'.join(map(str, self.info.shape))}"


def load(source: str | Path | bytes) -> LoadedNetwork:
    """Load a packed network; images in, logits out.

    All of the file is checked before anything is computed: lengths, checksums, types, and that every node takes what
    it gets.

    Args:
        source: A file that `save` or `bnn export` wrote, its bytes, or a name of the zoo such as "zoo:mnist_mlp".

    Raises:
        ZooError: The zoo has no such network.
        PackedFileError: It is damaged, truncated, or does not hold a network that this package can run.
        OSError: It cannot be opened.
    """
    if not isinstance(source, bytes) and is_name(source):
        source = packed_file(source)
    container = read_container(source)
    name = "The file" if isinstance(source, bytes) else f"`{source}`"
    current_kernel()  # a wrong BNN_KERNEL is no fault of the file
    try:
        info = PackedInfo.from_plain(container.header.get("info"))
        graph = graph_of(container)
        check_sizes(graph, len(container.data))
        refuse_nan_in_graph(graph)
        check_signs(graph)
        takes_images = container.header.get("takes_images") is not False or info.preparation is not None
        types = dry_run(graph, info.shape, info.class_names)
        plans = _plans_of(container, info.shape, types[-1].elements)
        return LoadedNetwork(graph, info, takes_images=takes_images, types=types, plans=plans).eval()
    except _WRONG as error:
        raise PackedFileError(f"{name} does not hold a network that can be run: {error}") from error


def _plans_of(container: Container, shape: tuple[int, int, int], num_classes: int) -> FilePlans | None:
    """Return the plans of a file, checked; None where there are none, or those of another version."""
    kernel = current_kernel()
    if not is_current(container.plan) or kernel is None:
        return None
    plans = FilePlans(container)
    plans.check(kernel, shape, num_classes)
    return plans


def are_for_kernels(network: nn.Module) -> bool:
    """Whether all tensors lie in the memory of the CPU, and all floats are float32."""
    tensors = (*network.parameters(), *network.buffers())
    return all(item.is_cpu and item.dtype in (torch.float32, *_WHOLE) for item in tensors)


def can_be_planned(images: Tensor) -> bool:
    """Whether these are plain images on the CPU: neither traced nor differentiated."""
    readable = images.is_cpu and images.dtype in (torch.float32, torch.uint8) and images.numel() > 0
    return readable and plain(images)


def _packed_layer(node: Node, graph: Graph) -> PackedConv2d:
    parts = {name: node[name] for name in PARTS}
    tensors = {name: None if ref is None else _tensor(graph.constants[ref.index]) for name, ref in parts.items()}
    geometry: dict[str, Any] = {name: tuple(node[name]) for name in ("stride", "padding", "dilation")}
    geometry |= {"groups": node["groups"], "pad_value": float(node["pad_value"])}
    layer = PackedConv2d.from_dense(tensors, **geometry)
    layer.low, layer.high = (None if bound is None else float(bound) for bound in (node["low"], node["high"]))
    layer._of_channels_last = True  # the faster format: nothing in a graph writes in place
    return layer


def _tensor(constant: Constant) -> Tensor:
    array = constant.array
    if not array.size:
        return floats(*array.shape)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.float() if tensor.dtype == torch.int8 and constant.dtype == "bits" else tensor
