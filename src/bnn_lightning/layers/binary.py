"""What binary layers have in common: signs, exact dot product, scale, bias."""

from typing import Any

from torch import Tensor, nn

from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer


def check_pad_value(pad_value: float) -> float:
    """Return `pad_value` as a float.

    Raises:
        ValueError: It is not 0, -1 or +1.
    """
    if pad_value not in (0, -1, 1):
        raise ValueError(f"`pad_value` must be 0, -1 or +1 (the value after binarization), got {pad_value}.")
    return float(pad_value)


def check_input_binarizer(given: object) -> InputBinarizer | None:
    """Return the binarizer of a layer's input, or None.

    Raises:
        TypeError: It is no `InputBinarizer`.
    """
    if given is None or isinstance(given, InputBinarizer):
        return given
    raise TypeError(f"`input_binarizer` must be an InputBinarizer, such as SignSTE(), or None, got {_what(given)}.")


def check_weight_binarizer(given: object) -> WeightBinarizer | None:
    """Return the binarizer of a layer's weights, or None.

    Raises:
        TypeError: It is no `WeightBinarizer`.
    """
    if given is None or isinstance(given, WeightBinarizer):
        return given
    raise TypeError(f"`weight_binarizer` must be a WeightBinarizer, such as XNORScale(), or None, got {_what(given)}.")


def _what(given: object) -> str:
    if isinstance(given, type):
        return f"the class {given.__name__}: give an object of it, {given.__name__}(...)"
    return f"the name {given!r}" if isinstance(given, str) else type(given).__name__


class BinaryLayer(nn.Module):
    """The arithmetic of a layer with binary weights; mixed into torch's own layers.

    `forward` is `scaled_dot` and then the bias. Self-knowledge distillation watches and replaces `scaled_dot`.
    """

    weight: Tensor
    bias: Any  # Parameter or None: torch's own layers annotate it each in their way
    input_binarizer: InputBinarizer | None
    weight_binarizer: WeightBinarizer | None

    @property
    def is_binary_layer(self) -> bool:
        """Whether the weights are binarized."""
        return self.weight_binarizer is not None

    @property
    def binary_weight(self) -> Tensor:
        """The unscaled signs that `forward` multiplies with, shaped like `weight` (the weight itself if not binary)."""
        return self.weight if self.weight_binarizer is None else self.weight_binarizer(self.weight)

    @property
    def latent_weight(self) -> Tensor:
        """The real-valued tensor whose signs are `binary_weight` (the weight itself if not binary)."""
        return self.weight if self.weight_binarizer is None else self.weight_binarizer.latent(self.weight)

    def dot(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, x_is_binary: bool = False) -> Tensor:
        """Multiply activations with weights, with the layer's geometry."""
        raise TypeError(f"{type(self).__name__} does not define `dot`; a binary layer has to.")

    def per_channel(self, values: Tensor) -> Tensor:
        """View (out_channels,) values so that they broadcast against the layer's output."""
        raise TypeError(f"{type(self).__name__} does not define `per_channel`; a binary layer has to.")

    def scaled_dot(self, x: Tensor) -> Tensor:
        """Return the binary dot product times the scale: the output before the bias.

        Args:
            x: The real-valued input of the layer.
        """
        signs: Tensor = self.weight
        scale: Tensor | None = None
        if self.weight_binarizer is not None:
            signs, scale = self.weight_binarizer.binarize(self.weight)
        if self.input_binarizer is not None:
            x = self.input_binarizer(x)
        binary = self.input_binarizer is not None and self.input_binarizer.is_binary
        if scale is None:
            return self.dot(x, signs, x_is_binary=binary)
        if self.weight_binarizer is not None and self.weight_binarizer.scale_is_power_of_two:
            # A power of two changes exponents only: sums of +-s are s times the sums of +-1, to the bit.
            return self.dot(x, signs * scale.view(-1, *[1] * (signs.dim() - 1)), x_is_binary=binary)
        return self.dot(x, signs, x_is_binary=binary) * self.per_channel(scale)

    def binary_forward(self, x: Tensor) -> Tensor:
        """Return `scaled_dot(x)` plus the bias, where there is one."""
        y = self.scaled_dot(x)
        return y if self.bias is None else y + self.per_channel(self.bias)
