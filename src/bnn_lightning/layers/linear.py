"""A fully connected layer with binary weights and activations."""

from functools import partial
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers.base import InputBinarizer, WeightBinarizer
from bnn_lightning.functional.dot import binary_dot
from bnn_lightning.layers.binary import BinaryLayer, check_binarizers


class BinaryLinear(BinaryLayer, nn.Linear):
    """A drop-in `torch.nn.Linear` whose input and weights are binarized.

    With both binarizers None it is torch's layer: same signature, defaults and output. The dot product is computed on
    exact signs; the weight binarizer's scale and the bias come after it.

    Args:
        in_features ... dtype: As `torch.nn.Linear`.
        input_binarizer: Binarizes the input, or None for a real-valued input.
        weight_binarizer: Binarizes the weights, or None for real-valued weights.

    Example:
        >>> from bnn_lightning.binarizers import SignSTE, WeightSign
        >>> linear = BinaryLinear(4, 2, bias=False, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
        >>> linear(torch.randn(3, 4)).detach().abs().max() <= 4
        tensor(True)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        input_binarizer: InputBinarizer | None = None,
        weight_binarizer: WeightBinarizer | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        check_binarizers(input_binarizer, weight_binarizer)
        self.input_binarizer, self.weight_binarizer = input_binarizer, weight_binarizer

    @classmethod
    def from_linear(cls, linear: nn.Linear, **binarizers: Any) -> Self:
        """Make a binary layer that shares the parameters of `linear`.

        Args:
            linear: A linear layer; its weight and bias become those of the result.
            **binarizers: `input_binarizer`, `weight_binarizer`.
        """
        new = cls(linear.in_features, linear.out_features, linear.bias is not None, device="meta", **binarizers)
        return new.share(linear)

    def dot(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, x_is_binary: bool = False) -> Tensor:
        """Multiply `x`, (N, ..., in_features), with the transpose of `weight`, (out_features, in_features).

        Args:
            x: Binarized or real.
            weight: Binarized or real.
            bias: Shape (out_features,) or None.
            x_is_binary: Whether `x` holds -1 and +1 only, which saves memory for the backward pass.
        """
        return binary_dot(partial(F.linear, bias=bias), x, weight, x_is_binary=x_is_binary)

    def input_sums(self, x: Tensor, *, x_is_binary: bool = False) -> Tensor:
        return self.dot(x, self.weight.new_ones(1, self.in_features), x_is_binary=x_is_binary)

    def tap_sums(self, x: Tensor, weight: Tensor) -> Tensor:
        return weight.sum(1)

    def per_channel(self, values: Tensor) -> Tensor:
        return values

    def forward(self, input: Tensor) -> Tensor:
        if self.input_binarizer is None and self.weight_binarizer is None:
            return nn.Linear.forward(self, input)
        self._check_channels(input)
        return self.binary_forward(input)

    def _check_channels(self, input: Tensor) -> None:
        threshold = None if self.input_binarizer is None or input.dim() < 3 else self.input_binarizer.threshold()
        if threshold is not None and threshold.numel() > 1:
            raise ValueError(
                f"{type(self.input_binarizer).__name__} has a threshold for each channel, dimension 1, and the "
                f"channels of an input of shape {tuple(input.shape)} are the last dimension: take another binarizer "
                "here, such as ApproxSign."
            )
