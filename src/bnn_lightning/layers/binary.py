"""Base of binary layers: signs, exact dot product, scale, bias."""

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer

# Methods that make the sums of signs and what follows them: a subclass may replace any of them.
_ON_SUMS = ("dot", "times_gain", "add_centers", "input_sums", "tap_sums", "per_channel")


def check_pad_value(pad_value: float) -> float:
    """Return `pad_value` as a float.

    Raises:
        ValueError: It is not 0, -1 or +1.
    """
    if pad_value not in (0, -1, 1):
        raise ValueError(f"`pad_value` must be 0, -1 or +1 (the value after binarization), got {pad_value}.")
    return float(pad_value)


def check_binarizers(input_binarizer: object, weight_binarizer: object) -> None:
    """Refuse values that are neither binarizers of a layer's input and weights nor None.

    Raises:
        TypeError: Another object, a class or a name; the message says which.
    """
    for name, given, kind, example in (
        ("input_binarizer", input_binarizer, InputBinarizer, "an InputBinarizer, such as SignSTE()"),
        ("weight_binarizer", weight_binarizer, WeightBinarizer, "a WeightBinarizer, such as XNORScale()"),
    ):
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"`{name}` must be {example}, or None, got {_what(given)}.")


def _what(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}: give an object of it, {given.__name__}(...)"
    return f"the name {given!r}" if isinstance(given, str) else type(given).__name__


def _is_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def input_of(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Return the input of a layer from the arguments of a call: the first one, by its place or by its name."""
    given: Tensor = args[0] if args else next(iter(kwargs.values()))
    return given


class BinaryLayer(nn.Module):
    """The arithmetic of a layer with binary weights; mixed into torch's own layers.

    `forward` is `scaled_dot` and then the bias. Self-knowledge distillation watches and replaces `scaled_dot`.

    Values that are no signs are affine in them: an input is `gain * s + shift` and a weight `scale * r + offset`, with
    numbers gain and shift of the layer and scale and offset of an output channel. Sums run over the taps V of a window
    that lie inside of the padded image, and are exact whole numbers; the rest is computed in the order of

        sum_V (gain * s + shift) * (scale * r + offset)
            = (gain * scale) * sum_V s r + (gain * offset) * sum_V s + shift * (scale * sum_V r + offset * |V|)

    Pixels that are padded with 0 are no taps: a padded value is 0 and not `shift`. Under autocast, to 16 bits, the
    factors are multiplied into the weights, unless a subclass has methods of its own for what follows the sums.
    """

    weight: Tensor
    bias: Any  # Parameter or None: torch's own layers annotate it each in their way
    input_binarizer: InputBinarizer | None
    weight_binarizer: WeightBinarizer | None

    def share(self, layer: nn.Module) -> Self:
        """Take the parameters and the mode of a layer of torch's; return the layer itself."""
        self._parameters.update(layer._parameters)
        return self.train(layer.training)

    @property
    def is_binary_layer(self) -> bool:
        """Whether the weights are binarized."""
        return self.weight_binarizer is not None

    @property
    def binary_weight(self) -> Tensor:
        """The unscaled signs that `forward` multiplies with, shaped like `weight` (the weight itself if not binary)."""
        if self.weight_binarizer is None:
            return self.weight
        return self.from_filters(self.weight_binarizer(self.filters(self.weight)))

    @property
    def latent_weight(self) -> Tensor:
        """The real-valued tensor whose signs are `binary_weight` (the weight itself if not binary)."""
        if self.weight_binarizer is None:
            return self.weight
        return self.from_filters(self.weight_binarizer.latent(self.filters(self.weight)))

    def filters(self, weight: Tensor) -> Tensor:
        """View a weight as (out_channels, ...), as weight binarizers take it."""
        return weight

    def from_filters(self, filters: Tensor) -> Tensor:
        """Undo `filters`."""
        return filters

    def dot(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, x_is_binary: bool = False) -> Tensor:
        """Multiply activations with weights, with the layer's geometry."""
        raise TypeError(f"{type(self).__name__} does not define `dot`; a binary layer has to.")

    def input_sums(self, x: Tensor, *, x_is_binary: bool = False) -> Tensor:
        """Return `sum_V s` for each output channel: the dot product with a filter of ones."""
        raise TypeError(f"{type(self).__name__} does not define `input_sums`; a binary layer has to.")

    def tap_sums(self, x: Tensor, weight: Tensor) -> Tensor:
        """Sum the weights of each output channel that meet a pixel of `x` or of its padding with -1 or +1."""
        raise TypeError(f"{type(self).__name__} does not define `tap_sums`; a binary layer has to.")

    def per_channel(self, values: Tensor) -> Tensor:
        """View (out_channels,) values so that they broadcast against the layer's output."""
        raise TypeError(f"{type(self).__name__} does not define `per_channel`; a binary layer has to.")

    def scaled_dot(self, x: Tensor) -> Tensor:
        """Return the binary dot product times the scale: the output before the bias.

        Args:
            x: The real-valued input of the layer.
        """
        device, binary = x.device.type, False
        signs, scale, offset = self.binarized_weight()
        if self.input_binarizer is not None:
            x = self.input_binarizer(x)
            binary = self.input_binarizer.is_binary and self.input_binarizer.gives_signs
        if _is_autocast(device) and self._has_plain_sums():
            return self._rounded_dot(x, self._weight_values(signs, scale, offset), x_is_binary=binary)
        y = self.dot(x, signs, x_is_binary=binary)
        factor = self.times_gain(scale)
        if factor is not None:
            y = y * self.per_channel(factor)
        return self.add_centers(y, x, signs, scale, offset, x_is_binary=binary)

    def _has_plain_sums(self) -> bool:
        """Whether the methods `_ON_SUMS` are the library's, so that the output is linear in the weights."""
        return all(
            name not in self.__dict__ and getattr(type(self), name).__module__.startswith("bnn_lightning.")
            for name in _ON_SUMS
        )

    def _rounded_dot(self, x: Tensor, weight: Tensor, *, x_is_binary: bool) -> Tensor:
        """Return `scaled_dot` where 16 bits round every sum: scales go to the weights, and maps stay of 16 bits.

        Args:
            x: Binarized input s.
            weight: `scale * r + offset`.
            x_is_binary: Whether `x` holds -1 and +1 only.
        """
        gain = self.times_gain(None)
        y = self.dot(x, weight if gain is None else weight * gain, x_is_binary=x_is_binary)
        shift = None if self.input_binarizer is None else self.input_binarizer.offset()
        return y if shift is None else y + (shift * self.tap_sums(x, weight)).to(y.dtype)

    def _weight_values(self, signs: Tensor, scale: Tensor | None, offset: Tensor | None) -> Tensor:
        """Return the weights that the signs stand for, `scale * r + offset`."""
        if scale is None and offset is None:
            return signs
        filters = self.filters(signs)
        shape = (-1, *[1] * (filters.dim() - 1))
        filters = filters if scale is None else filters * scale.view(shape)
        return self.from_filters(filters if offset is None else filters + offset.view(shape))

    def times_gain(self, values: Tensor | None) -> Tensor | None:
        """Return the scale of the input times `values`, (out_channels,); None is 1."""
        gain = None if self.input_binarizer is None else self.input_binarizer.scale()
        return values if gain is None else gain if values is None else gain * values

    def add_centers(
        self,
        y: Tensor,
        x: Tensor,
        signs: Tensor,
        scale: Tensor | None,
        offset: Tensor | None,
        *,
        x_is_binary: bool = False,
    ) -> Tensor:
        """Add the terms of centers, where input or weights have one, to the scaled dot product.

        Args:
            y: `(gain * scale) * sum_V s r`.
            x: Binarized input s.
            signs: Binary weights r.
            scale: Shape (out_channels,), or None for 1.
            offset: Shape (out_channels,), or None for 0.
            x_is_binary: Whether `x` holds -1 and +1 only, which saves memory for the backward pass.
        """
        if offset is not None:
            factor = self.times_gain(offset)
            assert factor is not None
            y = y + self.per_channel(factor) * self.input_sums(x, x_is_binary=x_is_binary)
        shift = None if self.input_binarizer is None else self.input_binarizer.offset()
        return y if shift is None else y + shift * self._weight_sums(x, signs, scale, offset)

    def binarized_weight(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the signs that are multiplied with, and the scale and the offset that follow."""
        if self.weight_binarizer is None:
            return self.weight, None, None
        filters = self.filters(self.weight)
        signs, scale = self.weight_binarizer.binarize(filters)
        if scale is not None and self.weight_binarizer.scale_is_power_of_two:
            # A power of two changes exponents only: sums of +-s are s times the sums of +-1, to the bit.
            signs, scale = signs * scale.view(-1, *[1] * (signs.dim() - 1)), None
        return self.from_filters(signs), scale, self.weight_binarizer.offset(filters)

    def _weight_sums(self, x: Tensor, signs: Tensor, scale: Tensor | None, offset: Tensor | None) -> Tensor:
        """Return `scale * sum_V r + offset * |V|`, the sum of the weights inside of the padded image.

        Args:
            x: Input, for its size.
            signs: Binary weights r.
            scale: Shape (out_channels,), or None for 1.
            offset: Shape (out_channels,), or None for 0.
        """
        sums = self.tap_sums(x, signs)
        if scale is not None:
            sums = sums * self.per_channel(scale)
        return sums if offset is None else sums + self.per_channel(offset) * self.tap_sums(x, torch.ones_like(signs))

    def binary_forward(self, x: Tensor) -> Tensor:
        """Return `scaled_dot(x)` plus the bias, where there is one."""
        y = self.scaled_dot(x)
        if self.bias is None:
            return y
        bias = self.per_channel(self.bias)
        return y + (bias.to(y.dtype) if _is_autocast(x.device.type) else bias)
