"""The slow arithmetic on packed signs that every kernel is held to."""

import torch
from torch import Tensor


def packed_dot(
    x: Tensor,
    weight: Tensor,
    *,
    out_channels: int,
    in_channels: int,
    kernel_size: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Convolve packed activations with packed weights by xor and bit counts: the reference of all kernels, and slow.

    Args:
        x: int32, (N, H, W, groups * words), padded already.
        weight: int32, (groups, blocks, taps, words, 16).
        out_channels: Output channels of all groups.
        in_channels: Input channels of one group.
        kernel_size: Height and width.
        stride: Stride of rows and columns.
        dilation: Dilation of rows and columns.

    Returns:
        Sums of products of signs, int32, (N, out_channels, out_height, out_width).

    References:
        Rastegari et al., XNOR-Net, ECCV 2016, section 3.2.
    """
    groups, taps = weight.shape[0], kernel_size[0] * kernel_size[1]
    reach = [dilation[i] * (kernel_size[i] - 1) for i in (0, 1)]
    size = [(x.shape[1 + i] - reach[i] - 1) // stride[i] + 1 for i in (0, 1)]
    rows = weight.movedim(-1, 2).flatten(1, 2)[:, : out_channels // groups]
    unlike = torch.zeros(x.shape[0], *size, groups, rows.shape[1], dtype=torch.int32, device=x.device)
    for tap in range(taps):
        top, left = (tap // kernel_size[1]) * dilation[0], (tap % kernel_size[1]) * dilation[1]
        window = x[:, top :: stride[0], left :: stride[1]][:, : size[0], : size[1]]
        window = torch.unflatten(window, -1, (groups, 1, -1))
        unlike += _count_bits(window ^ rows[:, :, tap]).sum(-1, dtype=torch.int32)
    return (taps * in_channels - 2 * unlike).flatten(-2).movedim(-1, 1)


def _count_bits(words: Tensor) -> Tensor:
    """Count the bits of each word."""
    halves = words.to(torch.int64) & 0xFFFFFFFF
    halves = halves - (halves >> 1 & 0x55555555)
    halves = (halves & 0x33333333) + (halves >> 2 & 0x33333333)
    halves = halves + (halves >> 4) & 0x0F0F0F0F
    return (halves * 0x01010101 >> 24 & 0xFF).to(torch.int32)
