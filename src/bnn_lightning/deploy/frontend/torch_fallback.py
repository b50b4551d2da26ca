"""Packed layers where no kernel runs: torch convolves signs that were unpacked once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.deploy.frontend.torch_library import LIBRARY, Window, convolve

LIBRARY.define(  # type: ignore[no-untyped-call]
    "binary_conv2d.unpacked(Tensor x, Tensor signs, Tensor threshold, Tensor?[] epilogue, SymInt groups, "
    "SymInt[] stride, SymInt[] dilation, SymInt[] padding, float pad_value, Tensor? residual=None, "
    "float? low=None, float? high=None, bool channels_last=True) -> Tensor",
)


def eager(*tensors: Tensor) -> bool:
    """Whether these are tensors with values in them, and not traced."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
        return False
    return all(type(tensor) in (Tensor, torch.nn.Parameter) for tensor in tensors)


def plain(*tensors: Tensor) -> bool:
    """Whether these are tensors with values in them, and neither traced nor differentiated."""
    return eager(*tensors) and not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def for_torch(images: Tensor) -> Tensor:
    """Lay images out as packed layers leave their results, so that all of a network is computed in one layout.

    Torch adds in another order in each layout, and it is faster in this one. A single channel stays as it is.
    """
    if not (images.is_cpu and plain(images)) or images.dim() != 4 or images.shape[1] == 1:
        return images
    return images.contiguous(memory_format=torch.channels_last)


class Unpacked:
    """The signs of a layer in float32: as much memory as the float layer's weights, from the first call on.

    They are made anew when the packed ones change; copies of a layer begin without.
    """

    def __init__(self) -> None:
        self._held: tuple[Tensor, int, int, Tensor] | None = None  # whose, its address and version; the signs

    def __deepcopy__(self, memo: dict[int, Any]) -> "Unpacked":
        return Unpacked()

    def __reduce__(self) -> tuple[type["Unpacked"], tuple[()]]:
        return Unpacked, ()

    @property
    def num_bytes(self) -> int:
        """Bytes that are held."""
        return 0 if self._held is None else self._held[3].nbytes

    def clear(self) -> None:
        """Forget the signs."""
        self._held = None

    def signs(self, weight: Tensor, unpack: Callable[[], Tensor]) -> Tensor:
        """Return -1 and +1, (out_channels, in_channels / groups, kernel_height, kernel_width).

        Args:
            weight: The packed ones.
            unpack: Returns the signs of `weight`.
        """
        held = self._held
        if weight.is_inference():  # whose changes nobody counts
            return _channels_last(unpack())
        if held is None or held[0] is not weight or held[1:3] != (weight.data_ptr(), weight._version):
            held = (weight, weight.data_ptr(), weight._version, _channels_last(unpack()))
            self._held = held
        return held[3]


def _channels_last(signs: Tensor) -> Tensor:
    return signs.contiguous(memory_format=torch.channels_last)


def _conv(
    x: Tensor,
    signs: Tensor,
    threshold: Tensor,
    epilogue: Sequence[Tensor | None],
    groups: int,
    stride: Sequence[int],
    dilation: Sequence[int],
    padding: Sequence[int],
    pad_value: float,
    residual: Tensor | None = None,
    low: float | None = None,
    high: float | None = None,
    channels_last: bool = True,
) -> Tensor:
    # In place, and not by `where`, which is three times as slow.
    images = (x >= threshold.view(-1, 1, 1).to(x.dtype)).to(signs.dtype).mul_(2).sub_(1)
    top, bottom, left, right = padding
    around = [top, left]
    if pad_value or top != bottom or left != right:
        images, around = F.pad(images, (left, right, top, bottom), value=pad_value), [0, 0]
    if images.shape[1] == 1:
        # In the strides of channels_last a single channel makes torch (2.11 to 2.14) read some strided windows wrongly.
        images = images.clone(memory_format=torch.contiguous_format)
    window = Window(tuple(stride), tuple(around), tuple(dilation), groups)
    return convolve(images, signs, window, residual, epilogue, low, high, channels_last=channels_last)


LIBRARY.impl("binary_conv2d.unpacked", _conv, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
