"""Signs as bits.

A bit is 1 for +1 and 0 for -1. A word (int32) holds 32 channels, the first in its lowest bit; bits that are left over
are 0. Activations are (N, H, W, groups * words), weights (groups, blocks, taps, words, 16): a block is 16 output
channels side by side, a tap one of the kernel_height * kernel_width places, row by row.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

WORD = 32
BLOCK = 16


def num_words(channels: int) -> int:
    """Return the number of words that hold `channels` bits."""
    return -(-channels // WORD)


def num_blocks(channels: int) -> int:
    """Return the number of blocks that hold `channels` output channels."""
    return -(-channels // BLOCK)


def pack_bits(bits: Tensor) -> Tensor:
    """Pack the last dimension, 32 to a word.

    Args:
        bits: Bool, (..., C).

    Returns:
        int32, (..., ceil(C / 32)).

    Example:
        >>> pack_bits(torch.tensor([True, False, True]))
        tensor([5], dtype=torch.int32)
    """
    channels = bits.shape[-1]
    padded = F.pad(bits.to(torch.int64), (0, num_words(channels) * WORD - channels))
    weights = torch.arange(WORD, dtype=torch.int64, device=bits.device)
    return (torch.unflatten(padded, -1, (-1, WORD)) << weights).sum(-1).to(torch.int32)


def unpack_bits(words: Tensor, channels: int) -> Tensor:
    """Undo `pack_bits`.

    Args:
        words: int32, (..., W).
        channels: C, at most 32 W.

    Returns:
        Bool, (..., C).

    Example:
        >>> unpack_bits(torch.tensor([5], dtype=torch.int32), 3)
        tensor([ True, False,  True])
    """
    shifts = torch.arange(WORD, dtype=torch.int32, device=words.device)
    return (words.unsqueeze(-1) >> shifts & 1).flatten(-2)[..., :channels].bool()


def pack_activations(x: Tensor, threshold: Tensor | None = None, *, groups: int = 1) -> Tensor:
    """Binarize activations and pack them, each group by itself.

    Args:
        x: Shape (N, C, H, W). NaN, which is no sign, becomes -1.
        threshold: Values, (C,), at and above which the sign is +1; None is 0 everywhere.
        groups: Divides C.

    Returns:
        int32, (N, H, W, groups * ceil(C / groups / 32)).

    Example:
        >>> pack_activations(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1)).flatten()
        tensor([5], dtype=torch.int32)
    """
    bits = x >= (0 if threshold is None else threshold.view(-1, 1, 1))
    return pack_bits(torch.unflatten(bits.movedim(1, -1), -1, (groups, -1))).flatten(-2)


def unpack_activations(words: Tensor, channels: int, *, groups: int = 1) -> Tensor:
    """Undo `pack_activations`.

    Args:
        words: int32, (N, H, W, groups * words).
        channels: C, of all groups.
        groups: Divides C.

    Returns:
        Signs in float32, (N, C, H, W), in the channels_last format.
    """
    bits = unpack_bits(torch.unflatten(words, -1, (groups, -1)), channels // groups).flatten(-2)
    return (2 * bits.to(torch.float32) - 1).movedim(-1, 1)


def pack_weight(signs: Tensor, *, groups: int = 1) -> Tensor:
    """Pack the signs of a convolution's weights.

    Args:
        signs: -1 and +1, (out_channels, in_channels / groups, kernel_height, kernel_width).
        groups: Divides out_channels.

    Returns:
        int32, (groups, blocks, taps, words, 16); output channels beyond the last one are 0.

    Example:
        >>> pack_weight(torch.ones(2, 3, 1, 1)).shape
        torch.Size([1, 1, 1, 1, 16])
    """
    words = torch.unflatten(pack_bits(signs.flatten(2).movedim(1, -1) > 0), 0, (groups, -1))
    channels = words.shape[1]
    padded = F.pad(words, (0, 0, 0, 0, 0, num_blocks(channels) * BLOCK - channels))
    return torch.unflatten(padded, 1, (-1, BLOCK)).movedim(2, -1).contiguous()


def unpack_weight(words: Tensor, out_channels: int, in_channels: int, kernel_size: tuple[int, int]) -> Tensor:
    """Undo `pack_weight`.

    Args:
        words: int32, (groups, blocks, taps, words, 16).
        out_channels: Output channels of all groups.
        in_channels: Input channels of one group.
        kernel_size: Height and width.

    Returns:
        Signs in float32, (out_channels, in_channels, kernel_height, kernel_width).
    """
    groups = words.shape[0]
    rows = words.movedim(-1, 2).flatten(1, 2)[:, : out_channels // groups].flatten(0, 1)
    signs = 2 * unpack_bits(rows, in_channels).to(torch.float32) - 1
    return torch.unflatten(signs.movedim(-1, 1), -1, kernel_size).contiguous()


def tap_sums(signs: Tensor, *, groups: int = 1) -> Tensor:
    """Sum what each tap contributes, counted as -1, where it lies in a zero padding, whose bits are 0.

    Args:
        signs: -1 and +1, (out_channels, in_channels / groups, kernel_height, kernel_width).
        groups: Divides out_channels.

    Returns:
        int32, (taps, groups * blocks * 16): minus the sum over the input channels, 0 beyond the last output channel.
    """
    sums = -signs.flatten(2).sum(1).to(torch.int32).t()
    return spread(sums, groups=groups)


def spread(values: Tensor, *, groups: int = 1, fill: float = 0.0) -> Tensor:
    """Lay values of output channels out as kernels read them: each group filled up to whole blocks.

    Args:
        values: Shape (..., out_channels).
        groups: Divides out_channels.
        fill: Value of the channels that do not exist.

    Returns:
        Shape (..., groups * blocks * 16).

    Example:
        >>> spread(torch.tensor([1.0, 2.0]), groups=2).nonzero().flatten()
        tensor([ 0, 16])
    """
    split = torch.unflatten(values, -1, (groups, -1))
    channels = split.shape[-1]
    return F.pad(split, (0, num_blocks(channels) * BLOCK - channels), value=fill).flatten(-2).contiguous()
