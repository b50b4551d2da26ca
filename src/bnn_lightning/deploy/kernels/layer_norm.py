"""Calls of the kernel of layer norms."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.call import Address, Count, Field, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import given

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Layer norm of rows: `(x - mean) / sqrt(variance + eps) * scale + shift`, of the features of a row.

    Attributes:
        features: Number of features.
        eps: Added to the variance.
        scale: Shape (features,); None is 1.
        shift: Shape (features,); None is 0.
    """

    features: int
    eps: float
    scale: Array | None = None
    shift: Array | None = None

    def call(self, constants: ConstantSection, x: Address, out: Address, rows: Count, *, node: int = 0) -> KernelCall:
        """Return the call.

        Args:
            constants: Section that takes scale and shift.
            x: Rows, dense.
            out: Place of the result, dense.
            rows: Number of rows.
            node: Number of the value.
        """
        fields: dict[str, Field | None] = {
            "rows": rows,
            "features": self.features,
            "x": x,
            "scale": None if self.scale is None else constants.add(self.scale),
            "shift": None if self.shift is None else constants.add(self.shift),
            "out": out,
            "eps": self.eps,
        }
        return KernelCall("layer_norm", given(fields), node)
