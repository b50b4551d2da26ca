"""Squeeze-and-excite and the second pass behind it on the project's own kernels; see `deploy.real`."""

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.frontend.fresh import floats, zeros
from bnn_lightning.deploy.kernels.abi import Combining, Gating
from bnn_lightning.deploy.kernels.layout import (
    Activation,
    blocked,
    channels_last,
    kernel_for,
    new_map,
    pointer,
    prelu,
    sums_shape,
    unblocked,
)
from bnn_lightning.functional.pack import BLOCK, num_blocks, spread


class Gate(nn.Module):
    """Squeeze-and-excite behind the averages: `sigmoid(excite relu(squeeze m))`, m = own + mix (other - own).

    Args:
        squeeze: Weight, (hidden, channels): float32, or int8 with a scale.
        squeeze_bias: Shape (hidden,), or None.
        excite: Weight, (out_channels, hidden): float32, or int8 with a scale.
        excite_bias: Shape (out_channels,), or None.
        mix: Shape (channels,); None is a gate of a single map.
        squeeze_scale: Shape (hidden,); of int8 weights.
        excite_scale: Shape (out_channels,); of int8 weights.

    Example:
        >>> Gate(torch.ones(1, 4), None, torch.ones(4, 1), None)(torch.zeros(2, 4)).unique()
        tensor([0.5000])
    """

    squeeze: Tensor
    squeeze_bias: Tensor
    squeeze_scale: Tensor | None
    excite: Tensor
    excite_bias: Tensor
    excite_scale: Tensor | None
    mix: Tensor | None

    def __init__(
        self,
        squeeze: Tensor,
        squeeze_bias: Tensor | None,
        excite: Tensor,
        excite_bias: Tensor | None,
        *,
        mix: Tensor | None = None,
        squeeze_scale: Tensor | None = None,
        excite_scale: Tensor | None = None,
    ) -> None:
        super().__init__()
        (self.hidden, self.channels), self.out_channels = squeeze.shape, excite.shape[0]
        self.register_buffer("squeeze", blocked(squeeze.detach()))
        self.register_buffer("excite", blocked(excite.detach()))
        for name, bias, size in (
            ("squeeze_bias", squeeze_bias, self.hidden),
            ("excite_bias", excite_bias, self.out_channels),
        ):
            self.register_buffer(name, spread(zeros(size) if bias is None else bias.detach().float()))
        for name, values in (("squeeze_scale", squeeze_scale), ("excite_scale", excite_scale), ("mix", mix)):
            self.register_buffer(name, None if values is None else spread(values.detach().float()))

    def work(self, number: int) -> tuple[int, int]:
        """Return the shape of the memory that the kernel works in, for a number of images."""
        return number, (num_blocks(self.channels) + num_blocks(self.hidden)) * BLOCK

    def job(self, own: Tensor, other: Tensor | None, work: Tensor, gate: Tensor) -> Gating:
        """Return what the kernel is given: averages and gate without gaps, memory of the shape that `work` returns."""
        parts: dict[str, int | None] = {}
        for name in ("squeeze", "excite"):
            weight: Tensor = getattr(self, name)
            parts[f"{name}_bytes" if weight.dtype == torch.int8 else name] = weight.data_ptr()
            parts[f"{name}_scale"] = pointer(getattr(self, f"{name}_scale"))
            parts[f"{name}_bias"] = pointer(getattr(self, f"{name}_bias"))
        return Gating(
            images=own.shape[0],
            channels=self.channels,
            hidden=self.hidden,
            out_channels=self.out_channels,
            own=own.data_ptr(),
            other=pointer(other),
            mix=pointer(self.mix),
            work=work.data_ptr(),
            gate=gate.data_ptr(),
            **parts,
        )

    def forward(self, own: Tensor, other: Tensor | None = None) -> Tensor:
        """Map the averages of one map, or two, to gates, (N, out_channels).

        Args:
            own: Shape (N, channels).
            other: Of the map that `mix` weighs, (N, channels).
        """
        kernel = kernel_for(own, other)
        if kernel is None:
            return self._in_torch(own, other)
        work, gate = floats(*self.work(own.shape[0])), floats(own.shape[0], self.out_channels)
        kernel.run("gate", self.job(own.contiguous(), None if other is None else other.contiguous(), work, gate))
        return gate

    def _in_torch(self, mean: Tensor, other: Tensor | None) -> Tensor:
        if other is not None and self.mix is not None:
            mean = mean + self.mix[: self.channels] * (other - mean)
        hidden = self._rows("squeeze", mean, self.hidden).relu()
        return self._rows("excite", hidden, self.out_channels).sigmoid()

    def _rows(self, name: str, x: Tensor, outputs: int) -> Tensor:
        scale: Tensor | None = getattr(self, f"{name}_scale")
        y = x @ unblocked(getattr(self, name), outputs).to(x.dtype).t()
        y = y if scale is None else y * scale[:outputs]
        bias: Tensor = getattr(self, f"{name}_bias")
        return y + bias[:outputs]


class Combine(nn.Module):
    """The second pass: everything from the gate on, in one pass over the map.

    `t = x * gate`, `r = prelu(residual)`, `t *= r` where `multiply`, `t = scale * t + bias`, `t = prelu(t)` by `inner`,
    `t += r`, and what `activation` says. Two maps side by side may stand in the place of x, and the residual beside
    itself.

    Args:
        channels: Of the result.
        multiply: Whether the residual multiplies, too (element-wise attention).
        residual_slope: Of a PReLU of the residual, (channels,).
        scale: Shape (channels,); None leaves the affine map out.
        bias: Shape (channels,), with `scale`.
        inner: Slope of a PReLU before the addition, (channels,).
        activation: See `Activation`.

    Raises:
        ValueError: Only one of `scale` and `bias` is given.

    Example:
        >>> layer = Combine(2, scale=torch.ones(2), bias=torch.zeros(2))
        >>> layer(torch.ones(1, 2, 1, 1), torch.full((1, 2), 0.5), torch.ones(1, 2, 1, 1)).flatten()
        tensor([1.5000, 1.5000])
    """

    residual_slope: Tensor | None
    scale: Tensor | None
    bias: Tensor | None
    inner: Tensor | None

    def __init__(
        self,
        channels: int,
        *,
        multiply: bool = False,
        residual_slope: Tensor | None = None,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        inner: Tensor | None = None,
        activation: Activation | None = None,
    ) -> None:
        super().__init__()
        if (scale is None) != (bias is None):
            raise ValueError("`scale` and `bias` must be given together.")
        self.channels, self.multiply = channels, multiply
        self.activation = Activation(channels) if activation is None else activation
        named = {"residual_slope": residual_slope, "scale": scale, "bias": bias, "inner": inner}
        for name, values in named.items():
            self.register_buffer(name, None if values is None else spread(values.detach().float()))

    def job(
        self,
        x: Tensor,
        gate: Tensor | None,
        residual: Tensor | None,
        out: Tensor | None,
        *,
        second: tuple[Tensor, Tensor | None] | None = None,
    ) -> Combining:
        """Return what the kernel is given; maps in the channels_last format.

        Args:
            x: See `forward`.
            gate: See `forward`.
            residual: See `forward`.
            out: What is written to, None for none.
            second: A map whose channels follow upon those of x, whole blocks, and its gate.
        """
        other, other_gate = (None, None) if second is None else second
        return Combining(
            images=x.shape[0],
            parts=sums_shape(x.shape)[1],
            x_channels=x.shape[1],
            residual_channels=0 if residual is None else residual.shape[1],
            multiply=int(self.multiply),
            x=x.data_ptr(),
            gate=pointer(gate),
            second=pointer(other),
            second_gate=pointer(other_gate),
            residual=pointer(residual),
            residual_slope=pointer(self.residual_slope),
            scale=pointer(self.scale),
            bias=pointer(self.bias),
            inner=pointer(self.inner),
            after=self.activation.after(out, x.shape[2], x.shape[3]),
        )

    def forward(self, x: Tensor, gate: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to the same shape, in the channels_last format.

        Args:
            x: What is gated.
            gate: From `Gate`, (N, C).
            residual: What is added, and multiplied with; (N, C, H, W).
        """
        kernel = kernel_for(x, gate, residual)
        if kernel is None:
            return self._in_torch(x, gate, residual)
        x = channels_last(x)
        residual = None if residual is None else channels_last(residual)
        gate = None if gate is None else gate.contiguous()
        out = new_map(*x.shape)
        kernel.run("combine", self.job(x, gate, residual, out))
        return out

    def _in_torch(self, x: Tensor, gate: Tensor | None, residual: Tensor | None) -> Tensor:
        t = x if gate is None else x * gate[:, :, None, None]
        residual = None if residual is None else prelu(residual, self.residual_slope)
        if self.multiply and residual is not None:
            t = t * residual
        if self.scale is not None and self.bias is not None:
            scale, bias = (values[: self.channels].view(-1, 1, 1).to(t.dtype) for values in (self.scale, self.bias))
            t = t * scale + bias
        t = prelu(t, self.inner)
        t = self.activation(t if residual is None else t + residual)
        result: Tensor = t.contiguous(memory_format=torch.channels_last)
        return result
