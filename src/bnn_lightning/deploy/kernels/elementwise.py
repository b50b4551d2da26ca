"""Calls of the fused elementwise pass: everything from a gate to the next layer's signs, in one pass over the map."""

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.call import Address, Field, KernelCall
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.layout import IMAGES, Activation, Map, given, num_parts, placed

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class FusedElementwise:
    """A pass over a map: gate, product, affine map, PReLU, addition, and an activation.

    `t = x * gate`, `r = prelu(residual)`, `t *= r` where `multiply`, `t = scale * t + bias`, `t = prelu(t)` by `inner`,
    `t += r`, and what `activation` says. Two maps side by side may stand in the place of x, and the residual beside
    itself.

    Attributes:
        activation: Activation of the channels of the result.
        multiply: Whether the residual multiplies, too (element-wise attention).
        residual_slope: Slope of a PReLU of the residual, (channels,).
        scale: Shape (channels,); None leaves the affine map out.
        bias: Shape (channels,), with `scale`.
        inner: Slope of a PReLU before the addition, (channels,).

    Raises:
        ValueError: Only one of `scale` and `bias` is given.
    """

    activation: Activation
    multiply: bool = False
    residual_slope: Array | None = None
    scale: Array | None = None
    bias: Array | None = None
    inner: Array | None = None

    def __post_init__(self) -> None:
        if (self.scale is None) != (self.bias is None):
            raise ValueError("`scale` and `bias` must be given together.")

    def call(
        self,
        constants: ConstantSection,
        x: Map,
        out: Map | None,
        *,
        gate: Address | None = None,
        residual: Map | None = None,
        second: tuple[Map, Address | None] | None = None,
        node: int = 0,
    ) -> KernelCall:
        """Return the call for dense maps of one height and width.

        Args:
            constants: Section that takes the values of channels.
            x: The map.
            out: Place of the result; None writes no floats.
            gate: Gates of x, (N, channels of x).
            residual: Summand or factor; fewer channels than the result's are read again and again.
            second: A map whose channels follow upon those of x, whole blocks, and its gate.
            node: Number of the value.
        """
        channels, height, width = x.shape
        other, other_gate = (None, None) if second is None else second
        values = {"residual_slope": self.residual_slope, "scale": self.scale, "bias": self.bias, "inner": self.inner}
        fields: dict[str, Field | None] = {
            "images": IMAGES,
            "parts": num_parts(height * width),
            "x_channels": channels,
            "residual_channels": None if residual is None else residual.shape[0],
            "multiply": int(self.multiply),
            "x": x.address,
            "gate": gate,
            "second": None if other is None else other.address,
            "second_gate": other_gate,
            "residual": None if residual is None else residual.address,
            **{name: placed(constants, v) for name, v in values.items()},
        }
        after = self.activation.fields(constants, out, height, width)
        return KernelCall("combine", {**given(fields), **after}, node)


def halving(call: KernelCall, constants: ConstantSection, slope: Array | None, out: Map) -> KernelCall:
    """Return a call that writes averages over 2x2 of its result, too; what is left of an odd side by itself.

    Args:
        call: Call of a fused elementwise pass.
        constants: Section that takes the slopes.
        slope: Slope of a PReLU before the averages, (channels,).
        out: Place of the averages, dense.
    """
    half_slope = placed(constants, slope)
    more = given({"half": out.address, "half_slope": half_slope})
    return KernelCall(call.kernel, {**call.fields, **more}, call.node)
