"""Calls of the kernel of squeeze-and-excite gates, behind the averages."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.call import Address, Field, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import BLOCK, IMAGES, given, num_blocks, placed, spread
from bnn_lightning.deploy.kernels.weights import Source, blocked_weight

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Dense:
    """A small matrix product: weights in float32, or in int8 times a scale, and a bias.

    Attributes:
        weight: Shape (outputs, inputs), float32 or int8.
        bias: Shape (outputs,), or None.
        scale: Shape (outputs,); of int8 weights.
        source: Constant of the weight in the graph; None: it was computed.
    """

    weight: Array
    bias: Array | None = None
    scale: Array | None = None
    source: Source | None = None

    def fields(self, constants: ConstantSection, name: str) -> dict[str, Field | None]:
        """Return the fields of a product by its name."""
        weight = blocked_weight(constants, self.weight, self.source)
        bias = np.zeros(len(self.weight)) if self.bias is None else self.bias
        return {
            f"{name}_bytes" if self.weight.dtype == np.int8 else name: weight,
            f"{name}_scale": placed(constants, self.scale),
            f"{name}_bias": constants.add(spread(bias)),
        }


@dataclass(frozen=True, eq=False)
class ChannelGate:
    """Squeeze-and-excite: `sigmoid(excite relu(squeeze m))`, m = own + mix (other - own) of averages.

    Attributes:
        squeeze: From channels to hidden ones.
        excite: From hidden channels to those of the gate.
        mix: Shape (channels,); None is a gate of a single map.
    """

    squeeze: Dense
    excite: Dense
    mix: Array | None = None

    @property
    def work_size(self) -> int:
        """Bytes of an image that the kernel works in."""
        hidden, channels = self.squeeze.weight.shape
        return 4 * (num_blocks(channels) + num_blocks(hidden)) * BLOCK

    def call(
        self,
        constants: ConstantSection,
        own: Address,
        other: Address | None,
        work: Address,
        gate: Address,
        *,
        node: int = 0,
    ) -> KernelCall:
        """Return the call for averages, (N, channels).

        Args:
            constants: Section that takes weights and parameters.
            own: Averages of the map.
            other: Averages of the map that `mix` weighs.
            work: Memory of `work_size` bytes an image.
            gate: Place of the result, (N, out_channels).
            node: Number of the value.
        """
        hidden, channels = self.squeeze.weight.shape
        fields: dict[str, Field | None] = {
            "images": IMAGES,
            "channels": channels,
            "hidden": hidden,
            "out_channels": len(self.excite.weight),
            "own": own,
            "other": other,
            "mix": placed(constants, self.mix),
            **self.squeeze.fields(constants, "squeeze"),
            **self.excite.fields(constants, "excite"),
            "work": work,
            "gate": gate,
        }
        return KernelCall("gate", given(fields), node)
