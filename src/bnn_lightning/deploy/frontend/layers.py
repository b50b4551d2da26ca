"""Layers that hold one bit a weight."""

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._prims_common import suggest_memory_format

from bnn_lightning.deploy.frontend.inputs import check_map, refuse_jit, refuse_tangents, without_gradient
from bnn_lightning.deploy.frontend.torch_fallback import Unpacked, eager, plain
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.kernels.library import current_kernel
from bnn_lightning.functional.pack import num_words, pack_weight, spread, tap_sums, unpack_weight
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.conv import BinaryConv1d, BinaryConv2d
from bnn_lightning.layers.linear import BinaryLinear


class PackedConv2d(nn.Module):
    """A binary convolution on bits, with what may follow it in one pass: affine maps, addition, RPReLU, clamp.

    `clamp(prelu(scale * (gain * dot + offset) + bias + residual + lift) + shift)`; made by `from_layer`, with a scale
    and a bias at most, or by `from_dense`. The sums are exact, and what follows them is rounded where torch rounds it:
    after each operation, but for the product and the sum of an affine map, which batch norm rounds once. The output is
    that of the simulated layer, to the bit, where torch's batch norm and the kernel have fused products and sums, as
    AVX2 and later do.

    Args:
        signs: -1 and +1, (out_channels, in_channels / groups, kernel_height, kernel_width).
        stride: Strides of rows and columns.
        padding: Pixels above, below, on the left and on the right.
        dilation: Dilations of rows and columns.
        groups: Divides both numbers of channels.
        pad_value: 0, -1 or +1.
        threshold: Values, (in_channels,), at and above which an input is +1; None is 0.
    """

    weight: Tensor
    tap_sums: Tensor
    threshold: Tensor
    gain: Tensor | None
    scale: Tensor
    bias: Tensor
    _of_channels_last = False  # weights of this format give it to the result; layers of older pickles have it from here

    def __init__(
        self,
        signs: Tensor,
        *,
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        groups: int = 1,
        pad_value: float = 0.0,
        threshold: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_signs(signs)
        self.out_channels, self.in_channels = signs.shape[0], signs.shape[1]  # the latter of one group
        self.kernel_size = (signs.shape[2], signs.shape[3])
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.pad_value = groups, pad_value
        self.low: float | None = None
        self.high: float | None = None
        self._unpacked = Unpacked()
        like: dict[str, Any] = {"dtype": torch.float32, "device": signs.device}
        self.register_buffer("weight", pack_weight(signs, groups=groups))
        self.register_buffer("tap_sums", tap_sums(signs, groups=groups))
        self.register_buffer("threshold", self._thresholds(threshold, signs.device))
        given = {"scale": torch.ones(self.out_channels, **like), "bias": torch.zeros(self.out_channels, **like)}
        for name in EPILOGUE:
            self.register_buffer(name, self.spread(given[name]) if name in given else None)

    @classmethod
    def from_layer(cls, layer: BinaryConv1d | BinaryConv2d) -> Self:
        """Pack a binary convolution, its scale and its bias.

        Raises:
            ValueError: Its weights are not -1 and +1.
        """
        packed = cls(kernels_of(signs_of(layer)), threshold=input_threshold(layer), **cls.geometry_of(layer))
        packed._of_channels_last = _has_channels_last_weights(layer)
        return packed._take_epilogue(layer)

    @staticmethod
    def geometry_of(layer: BinaryConv1d | BinaryConv2d) -> dict[str, Any]:
        """Return stride, padding, dilation, groups and padding value of a layer, as this class takes them."""
        left, right, *rows = layer._reversed_padding_repeated_twice
        top, bottom = rows or (0, 0)
        return {
            "stride": _pair(layer.stride),
            "padding": (top, bottom, left, right),
            "dilation": _pair(layer.dilation),
            "groups": layer.groups,
            "pad_value": layer.pad_value,
        }

    @classmethod
    def from_dense(cls, tensors: Mapping[str, Tensor | None], **geometry: Any) -> Self:
        """Undo `dense`.

        Args:
            tensors: "signs", and what there is of "threshold", (in_channels,), and of `EPILOGUE`, (out_channels,).
            **geometry: `stride`, `padding`, `dilation`, `groups`, `pad_value`.

        Raises:
            ValueError: A tensor's shape does not fit the signs and the groups.
        """
        signs = tensors["signs"]
        assert signs is not None
        groups = geometry.get("groups", 1)
        inputs = signs.shape[1] * groups if signs.dim() == 4 else 0
        if not inputs or not signs.numel() or signs.shape[0] % groups:
            raise ValueError(f"Signs of the shape {tuple(signs.shape)} are no convolution with {groups} groups.")
        for name, tensor in tensors.items():
            wanted = (inputs if name == "threshold" else signs.shape[0],)
            if name != "signs" and tensor is not None and tuple(tensor.shape) != wanted:
                raise ValueError(f"`{name}` must have the shape {wanted}, got {tuple(tensor.shape)}.")
        new = cls(signs, threshold=tensors.get("threshold"), **geometry)
        for name in EPILOGUE:
            tensor = tensors.get(name)
            if tensor is not None:
                setattr(new, name, new.spread(tensor))
        return new

    def dense(self) -> dict[str, Tensor | None]:
        """Return the tensors in torch's own layout, as `from_dense` takes them; None is what has no effect."""
        channels, threshold = self.out_channels // self.groups, self._dense_threshold()

        def gather(values: Tensor | None) -> Tensor | None:
            return None if values is None else torch.unflatten(values, 0, (self.groups, -1))[:, :channels].flatten()

        return {
            "signs": self.binary_weight,
            **{name: gather(getattr(self, name)) for name in EPILOGUE},
            "threshold": threshold if threshold.any() else None,
        }

    @property
    def binary_weight(self) -> Tensor:
        """The signs in the layout of torch: for networks that read them beside calling the layer."""
        return unpack_weight(self.weight, self.out_channels, self.in_channels, self.kernel_size)

    @property
    def epilogue(self) -> list[Tensor | None]:
        """The values of `EPILOGUE`, in its order, as kernels read them."""
        return [getattr(self, name) for name in EPILOGUE]

    def spread(self, values: Tensor) -> Tensor:
        """Lay (out_channels,) values out as kernels read them."""
        return spread(values.detach().to(torch.float32), groups=self.groups)

    @torch.no_grad()
    def copy_(self, layer: BinaryLayer) -> None:
        """Take signs, scale, bias and threshold of a layer like the one that this was made from, in place.

        Raises:
            ValueError: Its weights are not -1 and +1.
        """
        signs = signs_of(layer)
        check_signs(signs)
        signs = kernels_of(signs)
        self.weight.copy_(pack_weight(signs, groups=self.groups))
        self.tap_sums.copy_(tap_sums(signs, groups=self.groups))
        self.threshold.copy_(self._thresholds(input_threshold(layer), signs.device))
        for name, values in epilogue_of(layer).items():
            getattr(self, name).copy_(self.spread(values))
        self._of_channels_last = _has_channels_last_weights(layer)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map real-valued (N, groups * in_channels, H, W) to (N, out_channels, H', W').

        The result has the memory format of torch's convolution, so that what a network does with views of it, and in
        place, has the same effect.

        Raises:
            ValueError: Another number of channels, or maps that are smaller than the kernel.
            RuntimeError: It is traced by `torch.jit`, or differentiated in forward mode.
        """
        refuse_jit()
        x = input
        if x.dim() != 4 or x.shape[1] != self.groups * self.in_channels:
            raise ValueError(
                f"The input must have the shape (N, {self.groups * self.in_channels}, H, W), got {tuple(x.shape)}."
            )
        check_map(x.shape[2:], self.kernel_size, self.dilation, self.padding)
        tensors = (x,) if residual is None else (x, residual)
        refuse_tangents(*tensors)
        if eager(*tensors) and not plain(*tensors):
            with torch.no_grad():
                y = self._compute(x, residual)
            return without_gradient(y, *tensors)
        return self._compute(x, residual)

    def _compute(self, x: Tensor, residual: Tensor | None) -> Tensor:
        # `plain` first: compilers that trace this do not look for a kernel.
        tensors = (x, self.weight) if residual is None else (x, self.weight, residual)
        if plain(*tensors) and (current_kernel() is None or not x.is_cpu):
            return self._compute_in_torch(x, residual)
        top, _, left, _ = self.padding
        packed = torch.ops.bnn_lightning.pack_activations(
            x, self.threshold, self.groups, self.padding, self.pad_value == 1
        )
        zeros = self.pad_value == 0 and any(self.padding)
        return torch.ops.bnn_lightning.binary_conv2d(  # type: ignore[no-any-return]
            packed,
            self.weight,
            self.tap_sums,
            self.epilogue,
            self.out_channels,
            self.in_channels,
            self.kernel_size,
            self.stride,
            self.dilation,
            [top, left, x.shape[2], x.shape[3]] if zeros else [],
            residual,
            self.low,
            self.high,
            self._gives_channels_last(x),
        )

    def _compute_in_torch(self, x: Tensor, residual: Tensor | None) -> Tensor:
        return torch.ops.bnn_lightning.binary_conv2d.unpacked(  # type: ignore[no-any-return]
            x,
            self._unpacked.signs(self.weight, lambda: self.binary_weight),
            self._dense_threshold(),
            self.epilogue,
            self.groups,
            self.stride,
            self.dilation,
            self.padding,
            self.pad_value,
            residual,
            self.low,
            self.high,
            self._gives_channels_last(x),
        )

    def _gives_channels_last(self, x: Tensor) -> bool:
        return self._of_channels_last or is_channels_last(x)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._unpacked.clear()
        return super()._apply(fn, recurse)  # type: ignore[no-any-return,no-untyped-call]

    def extra_repr(self) -> str:
        return (
            f"{self.groups * self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, pad_value={self.pad_value:g}"
        )

    def _dense_threshold(self) -> Tensor:
        """Return the thresholds in torch's own layout, (groups * in_channels,)."""
        return torch.unflatten(self.threshold, 0, (self.groups, -1))[:, : self.in_channels].flatten()

    def _thresholds(self, threshold: Tensor | None, device: torch.device) -> Tensor:
        """Return (groups * words * 32) thresholds, +inf where there is no channel."""
        channels = self.groups * self.in_channels
        zeros = torch.zeros(channels, dtype=torch.float32, device=device)
        values = zeros if threshold is None else threshold.detach().to(torch.float32)
        missing = num_words(self.in_channels) * 32 - self.in_channels
        return F.pad(values.expand(channels).reshape(self.groups, -1), (0, missing), value=float("inf")).flatten()

    def _take_epilogue(self, layer: BinaryLayer) -> Self:
        for name, values in epilogue_of(layer).items():
            setattr(self, name, self.spread(values))
        return self.train(layer.training)


class PackedConv1d(PackedConv2d):
    """A binary 1-d convolution on bits: a 2-d one of maps with one row."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map real-valued (N, groups * in_channels, L) to (N, out_channels, L').

        Raises:
            ValueError: Another number of channels, or sequences that are shorter than the kernel.
        """
        channels = self.groups * self.in_channels
        if input.dim() != 3 or input.shape[1] != channels:
            raise ValueError(f"The input must have the shape (N, {channels}, L), got {tuple(input.shape)}.")
        y = super().forward(input.unsqueeze(2), None if residual is None else residual.unsqueeze(2))
        return y.squeeze(2)

    def _gives_channels_last(self, x: Tensor) -> bool:
        return False


class PackedLinear(PackedConv2d):
    """A binary linear layer on bits: a 1x1 convolution of images of one pixel."""

    @classmethod
    def from_linear(cls, layer: BinaryLinear) -> Self:
        """Pack a binary linear layer, its scale and its bias.

        Raises:
            ValueError: Its weights are not -1 and +1.
        """
        packed = cls(kernels_of(signs_of(layer)), threshold=input_threshold(layer))
        return packed._take_epilogue(layer)

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Map real-valued (..., in_features) to (..., out_features).

        Raises:
            ValueError: Another number of features.
        """
        features, x = self.groups * self.in_channels, input
        if x.dim() == 0 or x.shape[-1] != features:
            raise ValueError(f"The input must have the shape (..., {features}), got {tuple(x.shape)}.")
        if eager(x) and x.numel() == 0:  # of no image
            return x.new_empty(*x.shape[:-1], self.out_channels)
        more = None if residual is None else residual.reshape(-1, residual.shape[-1], 1, 1)
        y = super().forward(x.reshape(-1, features, 1, 1), more)
        return y.reshape(*x.shape[:-1], self.out_channels)


def kernels_of(signs: Tensor) -> Tensor:
    """View weights of a linear layer or a 1-d convolution as those of a 2-d one, whose kernels have one row.

    Example:
        >>> [tuple(kernels_of(torch.ones(shape)).shape) for shape in ((2, 3), (2, 3, 5), (2, 3, 5, 4))]
        [(2, 3, 1, 1), (2, 3, 1, 5), (2, 3, 5, 4)]
    """
    size = signs.shape[2:]
    return signs.reshape(*signs.shape[:2], *[1] * (2 - len(size)), *size)


def check_signs(signs: Tensor) -> None:
    """Refuse weights that are not binary.

    Raises:
        ValueError: An element is neither -1 nor +1.
    """
    others = signs[(signs != 1) & (signs != -1)]
    if others.numel():
        raise ValueError(
            f"Packed weights must be -1 or +1, got {others.numel()} other values, such as {others[0].item():g}: finish "
            "the annealing of the network, or clean the checkpoint of NaN."
        )


def signs_and_scale(layer: BinaryLayer) -> tuple[Tensor, Tensor | None]:
    """Return the binary filters that a layer multiplies with, and the scale that follows, (out_channels,), or None."""
    filters = layer.filters(layer.weight)
    if layer.weight_binarizer is None:
        return filters.detach(), None
    signs, scale = layer.weight_binarizer.binarize(filters)
    return signs.detach(), None if scale is None else scale.detach()


def signs_of(layer: BinaryLayer) -> Tensor:
    """Return the binary filters that a layer multiplies with, (out_channels, ...)."""
    return signs_and_scale(layer)[0]


def epilogue_of(layer: BinaryLayer) -> dict[str, Tensor]:
    """Return what a layer does with its sums, in the names of `EPILOGUE`: scale, bias, and the terms of centers."""
    inputs, weights, scale = layer.input_binarizer, layer.weight_binarizer, signs_and_scale(layer)[1]
    offset = None if weights is None else weights.offset(layer.filters(layer.weight))
    center = None if inputs is None else inputs.offset()
    # A product with the scale is rounded before anything is added: that is the gain's place.
    product = "scale" if layer.bias is None and offset is None and center is None else "gain"
    values = {product: layer.times_gain(scale), "bias": layer.bias}
    values["pull"] = None if offset is None else layer.times_gain(offset)
    if center is not None:
        values |= {"center": center, "tap_scale": scale, "tap_offset": offset}
    # As the layer views them: a scale may have the shape (out_channels, 1, 1, 1), too.
    each = (len(layer.filters(layer.weight)), *[1] * (layer.weight.dim() - 2))
    return {
        name: layer.per_channel(value.detach()).expand(each).flatten()
        for name, value in values.items()
        if value is not None
    }


def input_threshold(layer: BinaryLayer) -> Tensor | None:
    """Return the thresholds of a layer's input binarizer, (in_channels,) or (1,), None for zero."""
    return None if layer.input_binarizer is None else layer.input_binarizer.threshold()


def _has_channels_last_weights(layer: BinaryLayer) -> bool:
    return layer.weight.dim() == 4 and is_channels_last(layer.weight)


def is_channels_last(x: Tensor) -> bool:
    """Whether torch's convolutions give their results in the channels_last format for this input or weight."""
    return suggest_memory_format(x) == torch.channels_last


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    """Return what holds for rows and columns; a sequence has one row."""
    return (1, value[0]) if len(value) == 1 else (value[0], value[1])
