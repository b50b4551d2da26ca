"""Random numbers that are pure functions of (seed, epoch, image), alike on every device and in every batch.

Batched draws are counter-based. Transforms of torchvision, which draw from torch's generator, run under a keyed one.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_MASK = (1 << 64) - 1
# The constants of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_STREAMS = 64

# Who draws from which of an image's 64 streams: where two shared one, flips would follow the order of the epoch.
AUGMENTATION = range(6)
LIGHTING = range(8, 14)
SPLIT = range(61, 62)
ORDER = range(62, 64)


def _signed(value: int) -> int:
    """Map 64 bits to the int64 of the same bits."""
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _mix_int(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right as if it were unsigned."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def epoch_key(seed: int, epoch: int) -> int:
    """Mix `seed` and `epoch` into 64 bits."""
    return _mix_int(_mix_int(seed + _GAMMA) + (epoch + 1) * _GAMMA)


@contextmanager
def keyed_generator(seed: int, epoch: int, *indices: int) -> Iterator[None]:
    """Seed torch's generator of the CPU by (seed, epoch, indices) within a block, and restore its state afterwards.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch.
        *indices: The image; or the batch and the rank.

    Example:
        >>> with keyed_generator(0, 1, 5):
        ...     first = torch.rand(3)
        >>> with keyed_generator(0, 1, 5):
        ...     bool((torch.rand(3) == first).all())
        True
    """
    key = epoch_key(seed, epoch)
    for index in indices:
        key = _mix_int(key + (index + 1) * _MIX_2)
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(key)
    try:
        yield
    finally:
        torch.set_rng_state(state)


def random_bits(index: Tensor, streams: range, *, seed: int, epoch: int) -> Tensor:
    """Draw 32 random bits for every index and stream.

    Args:
        index: Index of the image of each draw, (N,), int64, on any device.
        streams: Index of one of the 64 independent streams of an image.
        seed: Seed of the run.
        epoch: Number of the epoch.

    Returns:
        Integers in [0, 2**32), (streams, N), int64.

    Example:
        >>> batch = random_bits(torch.tensor([3, 5, 8]), range(2), seed=0, epoch=1)
        >>> alone = random_bits(torch.tensor([8]), range(2), seed=0, epoch=1)
        >>> bool((batch[:, 2:] == alone).all())
        True

    References:
        SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    stream = torch.arange(streams.start, streams.stop, device=index.device).unsqueeze(1)
    x = (index * _STREAMS + stream) * _signed(_GAMMA) + _signed(epoch_key(seed, epoch))
    x = (x ^ _shift(x, 30)) * _signed(_MIX_1)
    x = (x ^ _shift(x, 27)) * _signed(_MIX_2)
    return _shift(x ^ _shift(x, 31), 32)


def integers(bits: Tensor, high: int) -> Tensor:
    """Map 32 random bits to integers in [0, high)."""
    return (bits * high) >> 32


def uniform(bits: Tensor) -> Tensor:
    """Map 32 random bits to float32 in [0, 1), exactly alike on every device."""
    return (bits >> 8).to(torch.float32) * 2.0**-24
