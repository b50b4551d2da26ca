"""Packed files as networks: `load` one, `save` one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.format.container import (
    Container,
    PackedFileError,
    container_bytes,
    read_container,
    write_whole,
)
from bnn_lightning.deploy.format.dry_run import check_names, check_sizes, dry_run
from bnn_lightning.deploy.frontend.capture import lower
from bnn_lightning.deploy.frontend.finite import check_images, from_json, refuse_nan_in_file, to_json
from bnn_lightning.deploy.frontend.fresh import CPU, floats, pixels
from bnn_lightning.deploy.frontend.inputs import check_range, check_tensor, refuse_jit, refuse_tangents
from bnn_lightning.deploy.frontend.layers import PARTS, PackedConv2d
from bnn_lightning.deploy.frontend.pack import PackedNetwork
from bnn_lightning.deploy.frontend.torch_fallback import for_torch, plain
from bnn_lightning.deploy.frontend.torch_ops import OPERATIONS
from bnn_lightning.deploy.ir.graph import Argument, Program, Step, Stored, Value
from bnn_lightning.deploy.kernels.library import current_kernel
from bnn_lightning.deploy.passes.quantize_stem import round_stem
from bnn_lightning.deploy.passes.quantize_weights import round_rest
from bnn_lightning.deploy.runtime.plans import Plans
from bnn_lightning.utils.image_size import plain_size, sides

# Precision of real-valued weights in a file; what the first convolution computes with.
Rest = Literal["fp32", "int8"]
Stem = Literal["fp32", "u8"]
# What Python and torch raise where arguments do not fit.
_WRONG = (ValueError, TypeError, AttributeError, LookupError, RuntimeError, ArithmeticError, MemoryError)


@dataclass(frozen=True)
class PackedInfo:
    """What a packed file says of its network.

    Attributes:
        name: Of the architecture.
        in_channels: Channels of the images.
        image_size: Height and width of the images, one number for both where they are equal.
        class_names: One a class; empty if they are not known.
        provenance: Where it comes from: configuration, commit, accuracy, checksum of the checkpoint ...
        preparation: Preparation of pictures; None where it is not known, as in files of older versions.
    """

    name: str
    in_channels: int
    image_size: int | tuple[int, int]
    class_names: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    preparation: Preparation | None = None

    def __post_init__(self) -> None:
        if self.preparation is not None and self.shape != (self.preparation.channels, *self.preparation.size):
            made = "x".join(map(str, (self.preparation.channels, *self.preparation.size)))
            raise ValueError(
                f"`preparation` makes images of {made}, the network takes {'x'.join(map(str, self.shape))}."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image: channels, height, width."""
        return (self.in_channels, *sides(self.image_size))

    @classmethod
    def from_plain(cls, plain: Any) -> "PackedInfo":
        """Read what `plain` returned.

        Raises:
            ValueError: Something is missing, or of another type.
        """
        match plain:
            case {
                "name": str(name),
                "in_channels": int(channels),
                "image_size": int() | [_, _] as size,
                "class_names": [*names],
                "provenance": dict(provenance),
            } if type(channels) is int and channels > 0 and all(isinstance(n, str) for n in names):
                preparation = plain.get("preparation")
                preparation = None if preparation is None else Preparation.from_plain(preparation)
                return cls(name, channels, plain_size(size), tuple(names), from_json(provenance), preparation)
        raise ValueError("It does not say which network it holds, and for which images.")

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        size = self.image_size if isinstance(self.image_size, int) else list(self.image_size)
        plain = {**vars(self), "image_size": size, "class_names": list(self.class_names)}
        plain["provenance"] = to_json(self.provenance)
        del plain["preparation"]
        return plain if self.preparation is None else {**plain, "preparation": self.preparation.plain()}


class LoadedNetwork(nn.Module):
    """A packed network, from images to logits. It has no state that changes: threads may share it.

    Its tensors are what the file holds, and meant to stay: plans keep what they make of them, so that tensors that are
    changed in place (but for `load_state_dict`) would count in part only.

    Args:
        program: What it does.
        container: The tensors.
        info: What it is.

    Raises:
        ValueError: An operation is unknown, or arguments do not fit.
    """

    def __init__(self, program: Program, container: Container, info: PackedInfo) -> None:
        super().__init__()
        self.info = info
        self.steps = program.steps
        self._ends = program.last_uses()
        self._plans = Plans()
        self._readable: bool | None = None
        self._range_is_known = container.header.get("takes_images") is False
        stored = {s.index for step in program.steps if step.operation != "binary_conv2d" for s in step.stored()}
        # Names of layers with real inputs whose weights are signs.
        self.signs_of_others = sorted(
            entry.name.removeprefix("network.").removesuffix(".weight")
            for index, entry in enumerate(container.entries)
            if index in stored and entry.dtype == "bits"
        )
        for index in stored:
            self.register_buffer(f"tensor{index}", _tensor(container, index))
        for number, step in enumerate(program.steps, start=1):
            if step.operation == "binary_conv2d":
                self.add_module(f"step{number}", _packed_layer(step, container))
            elif step.operation not in OPERATIONS:
                raise ValueError(f"`{step.operation}` is no operation of packed files.")

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
        if kernel is not None:
            return self._plans.run(self, images, kernel)
        return self.run_steps(for_torch(pixels(images).to(self.dtype)))

    @property
    def dtype(self) -> torch.dtype:
        """What it computes with: float32, unless it was converted."""
        return next((tensor.dtype for tensor in self.buffers() if tensor.is_floating_point()), torch.float32)

    def run_steps(self, images: Tensor, watch: Callable[[Tensor], None] | None = None) -> Tensor:
        """Run the program operation by operation: what plans are held to.

        Args:
            images: Floating, in [0, 1].
            watch: Is shown the result of every step.
        """
        values = {0: images}
        for number in range(1, len(self.steps) + 1):
            values[number] = self.run_step(number, values)
            if watch is not None:
                watch(values[number])
            for value in self._ends[number - 1]:
                del values[value]
        return values[len(self.steps)]

    def run_step(self, number: int, values: Mapping[int, Tensor]) -> Tensor:
        """Compute one value, by its number, from those before it."""
        step = self.steps[number - 1]
        if step.operation == "binary_conv2d":
            x, residual = (self._argument(item, values) for item in step.arguments[:2])
            return self.layer(number)(x, residual)  # type: ignore[no-any-return]
        return OPERATIONS[step.operation](*(self._argument(item, values) for item in step.arguments))

    def layer(self, number: int) -> PackedConv2d:
        """Return the layer that computes a value."""
        layer = self.get_submodule(f"step{number}")
        assert isinstance(layer, PackedConv2d)
        return layer

    def stored(self, item: Stored) -> Tensor:
        """Return a tensor of the file, except those of binary layers."""
        return self.get_buffer(f"tensor{item.index}")

    def _for_kernels(self) -> bool:
        """Whether the tensors are what kernels read; looked up once, as there are hundreds."""
        if self._readable is None:
            floats = [tensor.dtype for tensor in self.buffers() if tensor.is_floating_point()]
            self._readable = all(tensor.is_cpu for tensor in self.buffers()) and set(floats) <= {torch.float32}
        return self._readable

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of `nn.Module`."""
        self._plans.clear()
        return super().load_state_dict(*args, **kwargs)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._plans.clear()  # they point to tensors that move
        self._readable = None
        return super()._apply(fn, recurse)  # type: ignore[no-any-return,no-untyped-call]

    def _argument(self, item: Argument, values: Mapping[int, Tensor]) -> Any:
        match item:
            case Value(number):
                return values[number]
            case Stored():
                return self.stored(item)
            case list():
                return [self._argument(inner, values) for inner in item]
        return item

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
            (`round_rest`), a quarter of the size.
        stem: What the convolution that reads the images computes with: "fp32", or "u8", bytes for pixels and int8 for
            weights (`round_stem`).

    Returns:
        The sizes of the parts.

    Raises:
        LoweringError: The network does what a file cannot say, or has no stem that takes bytes.
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
    lowered = lower(packed, torch.rand(2, *info.shape, dtype=torch.float32, device=CPU))
    check_names(info.class_names, lowered.num_classes)
    lowered = round_stem(lowered) if stem == "u8" else lowered
    lowered = round_rest(lowered) if rest == "int8" else lowered
    header = {"program": lowered.program.plain(), "info": info.plain(), "rest": rest, "stem": stem}
    data, num_header = container_bytes({**header, "takes_images": packed.takes_images}, lowered.tensors)
    try:
        load(data)
    except PackedFileError as error:
        raise ValueError(f"`{path}` was not written, since it could not be loaded. {error}") from error
    write_whole(path, data)
    container = read_container(data)
    sizes = {"bits": 0, "rest": 0}
    for entry in container.entries:
        sizes["bits" if entry.dtype == "bits" else "rest"] += entry.num_bytes
    return FileSizes(len(data), num_header, sizes["bits"], sizes["rest"])


def load(source: str | Path | bytes) -> LoadedNetwork:
    """Load a packed network; images in, logits out.

    All of the file is checked before anything is computed: lengths, checksums, types, and by a run without data that
    every step takes what it gets.

    Args:
        source: A file that `save` or `bnn export` wrote, or its bytes.

    Raises:
        PackedFileError: It is damaged, truncated, or does not hold a network that this package can run.
        OSError: It cannot be opened.
    """
    container = read_container(source)
    name = "These bytes" if isinstance(source, bytes) else f"`{source}`"
    current_kernel()  # a wrong BNN_KERNEL is no fault of the file
    try:
        info = PackedInfo.from_plain(container.header.get("info"))
        program = Program.from_plain(container.header.get("program"), num_tensors=len(container.entries))
        check_sizes(program, container)
        refuse_nan_in_file(container)
        network = LoadedNetwork(program, container, info).eval()
        dry_run(network)
    except _WRONG as error:
        raise PackedFileError(f"{name} does not hold a network that can be run: {error}") from error
    return network.requires_grad_(False)


def _can_be_planned(images: Tensor) -> bool:
    """Whether these are plain images on the CPU: neither traced nor differentiated."""
    readable = images.is_cpu and images.dtype in (torch.float32, torch.uint8) and images.numel() > 0
    return readable and plain(images)


def _packed_layer(step: Step, container: Container) -> PackedConv2d:
    try:
        _, _, *parts, stride, padding, dilation, groups, pad_value, low, high = step.arguments
        named = dict(zip(PARTS, parts, strict=True))
    except ValueError as error:
        raise ValueError(f"A binary convolution has {9 + len(PARTS)} arguments, not {len(step.arguments)}.") from error
    tensors = {key: None if part is None else _of_file(part, container) for key, part in named.items()}
    if tensors["signs"] is None:
        raise ValueError("A binary convolution has no signs.")
    if pad_value not in (0, 1, -1):
        raise ValueError(f"A padding value must be 0, -1 or +1, got {pad_value!r:.60}.")
    geometry = {
        "stride": _whole_numbers(stride, 2, least=1),
        "padding": _whole_numbers(padding, 4, least=0),
        "dilation": _whole_numbers(dilation, 2, least=1),
        "groups": _whole_numbers([groups], 1, least=1)[0],
        "pad_value": float(pad_value),
    }
    layer = PackedConv2d.from_dense(tensors, **geometry)
    layer.low, layer.high = (None if bound is None else float(bound) for bound in (low, high))  # type: ignore[arg-type]
    return layer


def _whole_numbers(given: Any, number: int, *, least: int) -> tuple[int, ...]:
    fits = isinstance(given, list) and len(given) == number
    if not fits or not all(type(item) is int and least <= item < 1 << 16 for item in given):
        raise ValueError(f"{given!r:.60} is not a list of {number} whole numbers from {least} on.")
    return tuple(given)


def _of_file(part: Argument, container: Container) -> Tensor:
    if not isinstance(part, Stored):
        raise ValueError(f"{part!r:.60} is not a tensor of the file.")
    return _tensor(container, part.index)


def _tensor(container: Container, index: int) -> Tensor:
    array = container.array(index)
    if not array.size:
        return floats(*array.shape)
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    return tensor.float() if tensor.dtype == torch.int8 and container.entries[index].dtype == "bits" else tensor
