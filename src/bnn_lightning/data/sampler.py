"""Sampler: images of each batch on each rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from bnn_lightning.data.random import ORDER, random_bits


class Indices(NamedTuple):
    """Batch of a loader over images in memory; the data module turns it into images on the device."""

    indices: Tensor
    epoch: int
    split: str


def training_slices(
    num_images: int, batch_size: int, *, rank: int, parts: int, accumulate: int, drop_last: bool
) -> list[slice]:
    """Cut an epoch's order into the micro-batches of one rank.

    The images of an optimizer step are `batch_size` neighbors of the order, however many ranks and micro-batches
    share them.

    Args:
        num_images: Length of the order.
        batch_size: Images an optimizer step, over all ranks and micro-batches.
        rank: This rank.
        parts: Number of ranks.
        accumulate: Micro-batches an optimizer step.
        drop_last: Leave out the incomplete last batch. Otherwise it is shared out in equal parts, so that every rank's
            gradient has the same weight, and the few images that cannot be shared are left out of this epoch.

    Returns:
        One slice of the order for each micro-batch.

    Example:
        >>> training_slices(10, 4, rank=1, parts=2, accumulate=1, drop_last=False)
        [slice(2, 4, None), slice(6, 8, None), slice(9, 10, None)]
    """
    full, rest = divmod(num_images, batch_size)
    sizes = [batch_size] * full + ([] if drop_last else [rest])
    slices, start = [], 0
    for size in sizes:
        local = size // (parts * accumulate)
        offsets = [start + (micro * parts + rank) * local for micro in range(accumulate)] if local else []
        slices += [slice(offset, offset + local) for offset in offsets]
        start += size
    return slices


def evaluation_slices(num_images: int, batch_size: int, *, rank: int, parts: int) -> list[slice]:
    """Cut the images into the batches of one rank: each image exactly once over all ranks, nothing padded.

    All ranks get the same number of batches where each has an image for each of them (collectives inside a forward,
    as FSDP has, need that).

    Args:
        num_images: Number of images.
        batch_size: Images a batch and rank.
        rank: This rank.
        parts: Number of ranks.

    Example:
        >>> evaluation_slices(9, 4, rank=0, parts=2), evaluation_slices(9, 4, rank=1, parts=2)
        ([slice(0, 4, None), slice(4, 5, None)], [slice(5, 8, None), slice(8, 9, None)])
    """
    share, more = divmod(num_images, parts)
    start = rank * share + min(rank, more)
    count = share + (rank < more)
    sizes = [batch_size] * (count // batch_size) + ([count % batch_size] if count % batch_size else [])
    if more and rank >= more and share % batch_size == 0 and share and batch_size > 1:
        sizes[-1:] = [batch_size - 1, 1]
    ends = [start + sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


@dataclass(frozen=True, kw_only=True)
class Copies:
    """Repeated augmentation: several copies of an image in one batch, told apart by their index.

    Args:
        repeats: Copies of an image in a batch.
        batch_size: Images an optimizer step; divisible by `repeats`.
        offset: Added to the index for each further copy: the number of images of the set.

    Example:
        >>> Copies(repeats=2, batch_size=4, offset=100).repeat(torch.arange(8)).tolist()
        [0, 1, 100, 101, 2, 3, 102, 103]

    References:
        Hoffer et al., "Augment your batch: better training with larger batches", 2019.
    """

    repeats: int
    batch_size: int
    offset: int

    def repeat(self, order: Tensor) -> Tensor:
        """Return an order of the same length that goes through the first images of `order`.

        The first copies of a batch come before its second ones: ranks that share it each see different images.
        """
        step, within = (
            part(torch.arange(len(order)), self.batch_size) for part in (torch.floor_divide, torch.remainder)
        )
        images = self.batch_size // self.repeats
        return order[step * images + within % images] + within // images * self.offset


class EpochSampler:
    """Yield one `Indices` a batch, in an order that depends on (seed, epoch) alone.

    Args:
        indices: The images to go through, (N,), int64.
        slices: Slice of the order of each batch of this rank.
        split: Written into each batch.
        seed: Seed of the order; None goes through `indices` as they stand.
        copies: Repeated augmentation; None shows each image once.

    Attributes:
        epoch: Lightning sets it through `set_epoch` at the start of each epoch.
        start: The batch that the next iteration begins with.
    """

    def __init__(
        self,
        indices: Tensor,
        slices: Sequence[slice],
        *,
        split: str,
        seed: int | None = None,
        copies: Copies | None = None,
    ) -> None:
        self.indices = indices
        self.copies = copies
        self.slices = list(slices)
        self.split = split
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self) -> Tensor:
        """Return the order of this epoch, before it is cut for the ranks, (N,)."""
        if self.seed is None:
            return self.indices
        # Sorting by a hash of the position, rather than `torch.randperm`, holds across versions of torch.
        position = torch.arange(len(self.indices))
        keys = random_bits(position, ORDER, seed=self.seed, epoch=self.epoch)
        order = self.indices[torch.argsort((keys[0] << 31) | (keys[1] >> 1), stable=True)]
        return order if self.copies is None else self.copies.repeat(order)

    def __len__(self) -> int:
        return len(self.slices)

    def __iter__(self) -> Iterator[Indices]:
        order, epoch = self.order(), self.epoch
        for part in self.slices[self.start :]:
            yield Indices(order[part], epoch, self.split)
