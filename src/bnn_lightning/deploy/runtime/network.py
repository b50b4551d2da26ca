"""Packed files as networks: `load` one, `save` one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.format.container import PackedFileError, container_bytes, read_container
from bnn_lightning.deploy.format.dry_run import check_sizes, dry_run
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.format.layouts import plain_layout, to_layout
from bnn_lightning.deploy.format.packed_file import graph_of, write_whole
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.frontend.capture import capture
from bnn_lightning.deploy.frontend.finite import check_images, refuse_nan_in_graph
from bnn_lightning.deploy.frontend.fresh import CPU, floats, pixels
from bnn_lightning.deploy.frontend.inputs import check_range, check_tensor, refuse_jit, refuse_tangents
from bnn_lightning.deploy.frontend.layers import PackedConv2d
from bnn_lightning.deploy.frontend.pack import PackedNetwork
from bnn_lightning.deploy.frontend.torch_fallback import for_torch, plain
from bnn_lightning.deploy.frontend.torch_ops import compute
from bnn_lightning.deploy.ir.graph import Constant, ConstantRef, Graph, GraphError, Input, Node, Value
from bnn_lightning.deploy.ir.operations import PARTS
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.ir.types import Images, ShapeError, Type
from bnn_lightning.deploy.kernels.constants import ConstantSection, Placement
from bnn_lightning.deploy.kernels.library import current_kernel
from bnn_lightning.deploy.passes.quantize_stem import quantize_stem
from bnn_lightning.deploy.passes.quantize_weights import quantize_weights
from bnn_lightning.deploy.planner.plan import Plan
from bnn_lightning.deploy.planner.planner import make_plans
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.runtime.executor import Executor
from bnn_lightning.zoo import is_name, packed_file

# Precision of real-valued weights in a file; what the first convolution computes with.
Rest = Literal["fp32", "int8"]
Stem = Literal["fp32", "u8"]
# What Python and torch raise where arguments do not fit.
_WRONG = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, ArithmeticError, MemoryError)


class LoadedNetwork(nn.Module):
    """A packed network, from images to logits. It has no state that changes: threads may share it.

    Its tensors are what the file holds, and meant to stay: plans keep what they make of them, so that tensors that are
    changed in place (but for `load_state_dict`) would count in part only.

    Args:
        graph: What it does.
        info: What it is.
        takes_images: Whether images may be refused for their range: inputs of unknown networks are of any range.

    Raises:
        ValueError: Attributes or constants do not fit.
    """

    def __init__(self, graph: Graph, info: PackedInfo, *, takes_images: bool = True) -> None:
        super().__init__()
        self.info, self.graph = info, graph
        self._ends = graph.last_uses()
        self._executor, self._changed = Executor(), False
        self._types: tuple[Type, ...] | None = None
        self._readable: bool | None = None
        self._range_is_known = not takes_images
        read = {ref.index for node in graph.nodes if node.operation != "binary_conv2d" for ref in node.constants()}
        # Names of layers with real inputs whose weights are signs.
        self.signs_of_others = sorted(
            constant.name.removeprefix("network.").removesuffix(".weight")
            for index, constant in enumerate(graph.constants)
            if index in read and constant.dtype == "bits"
        )
        for index in read:
            self.register_buffer(f"constant{index}", _tensor(graph.constants[index]))
        for number, node in enumerate(graph.nodes, start=1):
            if node.operation == "binary_conv2d":
                self.add_module(f"node{number}", _packed_layer(node, graph))

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
        self._range_is_known = self._range_is_known or check_range(images)
        if images.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(images.device.type):
            with torch.autocast(images.device.type, enabled=False):  # what torch computes in between is float32, too
                return self._logits(images)
        return self._logits(images)

    def _logits(self, images: Tensor) -> Tensor:
        kernel = current_kernel() if _can_be_planned(images) and self._for_kernels() else None
        if kernel is not None and self.is_planned:
            return self._executor.run(self, images, kernel)
        return self.run_nodes(for_torch(pixels(images).to(self.dtype)))

    @property
    def dtype(self) -> torch.dtype:
        """What it computes with: float32, unless it was converted."""
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
        """Whether the tensors are what kernels read; looked up once, as there are hundreds."""
        if self._readable is None:
            floats = [tensor.dtype for tensor in self.buffers() if tensor.is_floating_point()]
            self._readable = all(tensor.is_cpu for tensor in self.buffers()) and set(floats) <= {torch.float32}
        return self._readable

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of `nn.Module`."""
        self._executor.clear()
        self._changed = True
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._executor.clear()
        self._readable, self._changed = None, True
        return super()._apply(fn, recurse)  # type: ignore[no-any-return,no-untyped-call]

    def _input(self, item: Input, values: Mapping[int, Tensor]) -> Tensor:
        return values[item.number] if isinstance(item, Value) else self.constant(item)

    def extra_repr(self) -> str:
        return f"{self.info.name}, {'x'.join(map(str, self.info.shape))}"


@dataclass(frozen=True)
class FileSizes:
    """Bytes of a packed file.

    Attributes:
        total: Of the file.
        header: Of its header, compressed.
        binary: Of the signs.
        rest: Of all other tensors.
    """

    total: int
    header: int
    binary: int
    rest: int


def save(
    packed: PackedNetwork, path: str | Path, info: PackedInfo, *, rest: Rest = "fp32", stem: Stem = "fp32"
) -> FileSizes:
    """Write a packed network to one file.

    Args:
        packed: From `pack`.
        path: The file; an older one is replaced when the new one is complete.
        info: What the network is.
        rest: Weights of real convolutions and linear layers: "fp32", or "int8" with a scale of each output channel
            (`quantize_weights`), a quarter of the size.
        stem: What the convolution that reads the images computes with: "fp32", or "u8", bytes for pixels and int8 for
            weights (`quantize_stem`).

    Returns:
        The sizes of the parts.

    Raises:
        GraphError: The network does what a file cannot say, or has no stem that takes bytes.
        ValueError: There are names for another number of classes; `info` holds other values than plain ones; an unknown
            `rest` or `stem`; or `load` would refuse the file. Nothing is written then.

    Example:
        >>> import tempfile
        >>> from bnn_lightning.deploy import pack
        >>> from bnn_lightning.models import create_backbone
        >>> packed = pack(create_backbone("resnet20", num_classes=10, image_size=32).eval())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sizes = save(packed, f"{folder}/net.bnn", PackedInfo("resnet20", in_channels=3, image_size=32))
        ...     network = load(f"{folder}/net.bnn")
        >>> sizes.binary, network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
        (33408, torch.Size([1, 10]))
    """
    for name, value, known in (("rest", rest, get_args(Rest)), ("stem", stem, get_args(Stem))):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {list(known)}, got {value!r}.")
    graph = capture(packed, torch.rand(2, *info.shape, dtype=torch.float32, device=CPU))
    graph = quantize_stem(graph) if stem == "u8" else graph
    graph = quantize_weights(graph) if rest == "int8" else graph
    header = {"graph": graph.plain(), "info": info.plain(), "rest": rest, "stem": stem}
    data, _ = container_bytes({**header, "takes_images": packed.takes_images}, graph.constants)
    try:
        load(data)
    except PackedFileError as error:
        raise ValueError(f"`{path}` was not written, since it could not be loaded. {error}") from error
    data, num_header = _with_plans(graph, {**header, "takes_images": packed.takes_images}, info)
    write_whole(path, data)
    container = read_container(data)
    sizes = {"bits": 0, "rest": 0}
    for entry in container.entries:
        sizes["bits" if entry.dtype == "bits" else "rest"] += entry.num_bytes
    return FileSizes(len(data), num_header, sizes["bits"], sizes["rest"])


def _with_plans(graph: Graph, header: Mapping[str, Any], info: PackedInfo) -> tuple[bytes, int]:
    """Return the bytes of a file with the plans that run it without torch, and the length of its header.

    A graph that mixes the images of a call has none.
    """
    section = ConstantSection()
    try:
        plans = make_plans(graph, types_of(graph, info.shape), section)
    except (GraphError, ShapeError):
        return container_bytes(header, graph.constants)
    operations = {number: graph.nodes[number - 1].operation for plan in plans for number in plan.torch_nodes}
    plan = PlanSection(plans, info.name, info.class_names, info.preparation, operations).to_bytes()
    placed = {
        number: (place.offset, place.layout, place.groups)
        for number, place in section.placements.items()
        if _lies_at(graph.constants[number], place, section.data)
    }
    for number, constant in enumerate(graph.constants):
        if number not in placed:  # parameters that kernels read as they are lie in the section already
            layout = plain_layout(constant.dtype)
            placed[number] = section.add(to_layout(constant.array, layout, constant.dtype)).offset, layout, 1
    return container_bytes(header, graph.constants, placed=placed, section=section.data, plan=plan)


def _lies_at(constant: Constant, place: Placement, section: bytearray) -> bool:
    """Whether a section has exactly this constant in a place: kernels may read it in another type."""
    try:
        stored = to_layout(constant.array, place.layout, constant.dtype, place.groups).tobytes()
    except ValueError:
        return False
    return section[place.offset : place.offset + len(stored)] == stored


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
    name = "These bytes" if isinstance(source, bytes) else f"`{source}`"
    current_kernel()  # a wrong BNN_KERNEL is no fault of the file
    try:
        info = PackedInfo.from_plain(container.header.get("info"))
        graph = graph_of(container)
        check_sizes(graph, len(container.data))
        refuse_nan_in_graph(graph)
        takes_images = container.header.get("takes_images") is not False
        dry_run(graph, info.shape, info.class_names)
        network = LoadedNetwork(graph, info, takes_images=takes_images).eval()
    except _WRONG as error:
        raise PackedFileError(f"{name} does not hold a network that can be run: {error}") from error
    return network.requires_grad_(False)


def _can_be_planned(images: Tensor) -> bool:
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
    return layer


def _tensor(constant: Constant) -> Tensor:
    array = constant.array
    if not array.size:
        return floats(*array.shape)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.float() if tensor.dtype == torch.int8 and constant.dtype == "bits" else tensor
