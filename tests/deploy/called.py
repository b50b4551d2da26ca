"""Kernel calls on torch tensors: layers of `deploy.kernels` run by themselves, on the kernel that a test chooses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnn_lightning.deploy.kernels.abi import structure_of
from bnn_lightning.deploy.kernels.call import Address, Count, KernelCall, Region
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.conv2d import Conv2d
from bnn_lightning.deploy.kernels.derive import compute
from bnn_lightning.deploy.kernels.elementwise import FusedElementwise
from bnn_lightning.deploy.kernels.layout import Map, Shape
from bnn_lightning.deploy.kernels.library import Kernel, current_kernel
from bnn_lightning.deploy.kernels.linear import Linear
from bnn_lightning.deploy.kernels.pool import Pool2d, average_parts, sum_parts, sums_size
from bnn_lightning.deploy.kernels.squeeze_excite import ChannelGate

chosen: Callable[[], Any] = current_kernel  # tests replace it


def place(tensor: Tensor) -> Address:
    """Return the place of a tensor, as an offset from the address 0."""
    return Address(Region.ARENA, tensor.data_ptr())


def last(x: Tensor) -> Tensor:
    """Return a map with channels side by side, even where a dimension is 1."""
    number, channels, height, width = x.shape
    return x.permute(0, 2, 3, 1).contiguous().view(number, height, width, channels).permute(0, 3, 1, 2)


def new(number: int, shape: Shape) -> Tensor:
    """Return memory for a map with channels side by side."""
    return torch.full((number, shape[1], shape[2], shape[0]), torch.nan).permute(0, 3, 1, 2)


def run(call: KernelCall, constants: ConstantSection, images: int, kernel: Kernel | None = None) -> None:
    """Run a call whose addresses are those of tensors."""
    section = np.frombuffer(bytes(constants.data), np.uint8)
    derived = np.empty(constants.derived_size, np.uint8)
    compute(tuple(constants.derived), section, derived)
    bases = {Region.CONSTANTS: section.ctypes.data, Region.DERIVED: derived.ctypes.data, Region.ARENA: 0}
    fields: dict[str, int | float] = {}
    for name, value in call.fields.items():
        at = value.at(images) if isinstance(value, Address | Count) else value
        fields[name] = at + bases[value.region] if isinstance(value, Address) else at
    kernel = chosen() if kernel is None else kernel
    assert kernel is not None
    kernel.run(call.kernel, structure_of(call.kernel, fields))


def conv2d(layer: Conv2d, x: Tensor, residual: Tensor | None = None) -> Tensor:
    """Run a real convolution; the result has channels side by side."""
    constants = ConstantSection()
    beside = x.stride(1) == 1 and x.shape[1] > 1
    planes = not beside and layer.reads(planar(x))
    given = x.contiguous() if planes else last(x)
    of = planar(given) if planes else replace(planar(given), planar=False)
    out, added = new(len(x), layer.out_shape(of.shape)), None if residual is None else last(residual)
    work = torch.empty(layer.scratch_size(of), dtype=torch.uint8)
    call = layer.call(
        constants,
        of,
        Map(place(out), layer.out_shape(of.shape)),
        residual=None if added is None else place(added),
        work=place(work) if len(work) else None,
    )
    run(call, constants, len(x))
    return out


def planar(x: Tensor) -> Map:
    """Return a map of images in planes."""
    return Map(place(x), tuple(x.shape[1:]), planar=True, in_bytes=x.dtype == torch.uint8)  # type: ignore[arg-type]


def linear(layer: Linear, x: Tensor) -> Tensor:
    """Run a linear layer."""
    constants, x = ConstantSection(), x.contiguous()
    out = torch.full((len(x), len(layer.weight)), torch.nan)
    run(layer.call(constants, place(x), place(out)), constants, len(x))
    return out


def pool(layer: Pool2d, x: Tensor) -> Tensor:
    """Run a pooling."""
    constants, x = ConstantSection(), last(x)
    of = Map(place(x), tuple(x.shape[1:]))  # type: ignore[arg-type]
    out = new(len(x), layer.out_shape(of.shape))
    run(layer.call(constants, of, Map(place(out), tuple(out.shape[1:]))), constants, len(x))  # type: ignore[arg-type]
    return out


def mean(x: Tensor, before: Tensor | None = None) -> Tensor:
    """Run the averages of each channel over the map, after a PReLU if asked for."""
    constants, x = ConstantSection(), last(x)
    of = Map(place(x), tuple(x.shape[1:]))  # type: ignore[arg-type]
    sums, out = torch.empty(len(x) * sums_size(of.shape) // 4), torch.full((len(x), x.shape[1]), torch.nan)
    slopes = None if before is None else before.numpy()
    run(sum_parts(constants, of, slopes, place(sums)), constants, len(x))
    run(average_parts(of.shape, place(sums), place(out)), constants, len(x))
    return out


def gate(layer: ChannelGate, own: Tensor, other: Tensor | None = None) -> Tensor:
    """Run a gate on averages."""
    constants, own = ConstantSection(), own.contiguous()
    other = None if other is None else other.contiguous()
    work, out = (
        torch.empty(len(own) * layer.work_size // 4),
        torch.full((len(own), len(layer.excite.weight)), torch.nan),
    )
    places = (place(own), None if other is None else place(other), place(work), place(out))
    run(layer.call(constants, *places), constants, len(own))
    return out


def elementwise(
    layer: FusedElementwise, x: Tensor, gate: Tensor | None = None, residual: Tensor | None = None
) -> Tensor:
    """Run a fused elementwise pass."""
    constants, x = ConstantSection(), last(x)
    of = Map(place(x), tuple(x.shape[1:]))  # type: ignore[arg-type]
    gate, residual = None if gate is None else gate.contiguous(), None if residual is None else last(residual)
    out = new(len(x), of.shape)
    call = layer.call(
        constants,
        of,
        Map(place(out), of.shape),
        gate=None if gate is None else place(gate),
        residual=None if residual is None else Map(place(residual), tuple(residual.shape[1:])),  # type: ignore[arg-type]
    )
    run(call, constants, len(x))
    return out
