"""Calls of the kernel of real convolutions in groups, depthwise ones among them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.call import Address, Field, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import BLOCK, IMAGES, Activation, Map, Pair, given, placed
from bnn_lightning.deploy.kernels.weights import Source, blocked_weight

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class GroupConv2d:
    """A real convolution in groups, and what follows it: bias, affine map, PReLU, shift and clamp.

    Attributes:
        weight: Shape (out_channels, in_channels / groups, kernel_height, kernel_width).
        groups: Divides the channels.
        activation: Activation of the channels of the result.
        bias: Shape (out_channels,), or None.
        stride: Stride of rows and columns.
        padding: Padding of rows and columns, on both sides.
        dilation: Dilation of rows and columns.
        affine: Scale and shift, (out_channels,) each, of what follows the bias; None is nothing.
        source: Constant of the weight in the graph; None: it was computed.
    """

    weight: Array
    groups: int
    activation: Activation
    bias: Array | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    affine: tuple[Array, Array] | None = None
    source: Source | None = None

    @property
    def is_depthwise(self) -> bool:
        """Whether each group has one channel and one result: the kernel takes 16 groups at a time."""
        return self.weight.shape[1] == 1 and len(self.weight) == self.groups

    @property
    def has_whole_blocks(self) -> bool:
        """Whether the blocks of groups are full, so that the kernel can write signs of its result."""
        return self.is_depthwise or len(self.weight) // self.groups % BLOCK == 0

    def call(self, constants: ConstantSection, x: Map, out: Map | None, shape: Pair, *, node: int = 0) -> KernelCall:
        """Return the call for a map with channels side by side.

        Args:
            constants: Section that takes weights and parameters.
            x: The map.
            out: Place of the result; None writes no floats.
            shape: Height and width of the result.
            node: Number of the value.
        """
        gain, offset = self.affine or (None, None)
        weight, groups = self.weight.astype(np.float32), 1 if self.is_depthwise else self.groups
        fields: dict[str, Field | None] = {
            "images": IMAGES,
            "height": x.shape[1],
            "width": x.shape[2],
            "groups": self.groups,
            "channels": self.weight.shape[1],
            "kernel_height": self.weight.shape[2],
            "kernel_width": self.weight.shape[3],
            "x": x.address,
            "weight": blocked_weight(constants, weight, self.source, groups=groups),
            "bias": self._parameter(constants, self.bias),
            "gain": self._parameter(constants, gain),
            "offset": self._parameter(constants, offset),
        }
        for name, values in (("stride", self.stride), ("dilation", self.dilation), ("pad", self.padding)):
            fields[f"{name}_y"], fields[f"{name}_x"] = values
        slope, shift = self.activation.slope, self.activation.shift
        activation = replace(
            self.activation,
            slope=None if slope is None else np.pad(slope, (0, BLOCK)),
            shift=None if shift is None else np.pad(shift, (0, BLOCK)),
        )
        return KernelCall("group_convolve", {**given(fields), **activation.fields(constants, out, *shape)}, node)

    def _parameter(self, constants: ConstantSection, values: Array | None) -> Address | None:
        """Return the place of a value of each channel: a block is read from any channel on."""
        return placed(constants, None if values is None else np.pad(values, (0, BLOCK)))
