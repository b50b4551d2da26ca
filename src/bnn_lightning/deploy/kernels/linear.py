"""Calls of the kernel of linear layers of rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.call import Address, Field, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import IMAGES, Activation, given, placed, spread
from bnn_lightning.deploy.kernels.weights import Source, blocked_weight

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer, with weights in float32, or in int8 times a scale of each output.

    Attributes:
        weight: Shape (out_features, in_features), float32 or int8.
        bias: Shape (out_features,), or None.
        scale: Shape (out_features,); needed for int8.
        activation: None is nothing.
        source: Constant of the weight in the graph; None: it was computed.

    Raises:
        ValueError: `scale` belongs to int8 weights, and to these alone.
    """

    weight: Array
    bias: Array | None = None
    scale: Array | None = None
    activation: Activation | None = None
    source: Source | None = None

    def __post_init__(self) -> None:
        if (self.weight.dtype == np.int8) != (self.scale is not None):
            raise ValueError("`scale` belongs to int8 weights, and to these alone.")

    def call(self, constants: ConstantSection, x: Address, out: Address, *, node: int = 0) -> KernelCall:
        """Return the call for dense rows, one an image.

        Args:
            constants: Section that takes weights and parameters.
            x: Rows, (N, in_features).
            out: Place of the result, (N, out_features).
            node: Number of the value.
        """
        outputs, inputs = self.weight.shape
        whole = self.weight.dtype == np.int8
        weight = blocked_weight(constants, self.weight, self.source)
        fields: dict[str, Field | None] = {
            "rows": IMAGES,
            "factors": inputs,
            "x_row": inputs,
            "x": x,
            "bytes" if whole else "weight": weight,
            "scale": placed(constants, self.scale),
            "bias": constants.add(spread(np.zeros(outputs) if self.bias is None else self.bias)),
            "after.out": out,
            "after.width": IMAGES,
        }
        activation = self.activation or Activation(outputs)
        return KernelCall("linear", {**activation.fields(constants, None, 1, 0), **given(fields)}, node)
