"""Stratified split of a training set."""

import torch
from torch import Tensor

from bnn_lightning.data.random import SPLIT, random_bits


def stratified_split(labels: Tensor, fraction: float, *, seed: int) -> tuple[Tensor, Tensor]:
    """Split images so that every class has its share in both parts.

    Args:
        labels: (N,), int64.
        fraction: Share of the second part. It gets exactly round(fraction N) images, and of each class its share
            rounded down or up (those with the largest remainders up; a class of one image last, which would be missing
            in the first part).
        seed: Seed that chooses the images of each class.

    Returns:
        Two ascending tensors of indices, which together are every index once.

    Raises:
        ValueError: A part would be empty.

    Example:
        >>> rest, held = stratified_split(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 0.25, seed=0)
        >>> len(rest), sorted(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])[held].tolist())
        (6, [0, 1])
    """
    total = round(fraction * len(labels))
    if not 0 < total < len(labels):
        raise ValueError(f"`val_fraction` must leave images in both parts of {len(labels)}, got {fraction}.")
    counts = torch.bincount(labels)
    shares = counts.to(torch.float64) * fraction
    quota = shares.floor().to(torch.int64)
    remainders = shares - quota
    remainders[counts == 1] *= 1e-9
    quota[torch.argsort(remainders, descending=True, stable=True)[: total - int(quota.sum())]] += 1
    keys = random_bits(torch.arange(len(labels)), SPLIT, seed=seed, epoch=-1)[0]
    shuffled = torch.argsort(keys, stable=True)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    first = torch.cumsum(counts, 0) - counts
    rank_in_class = torch.arange(len(labels)) - first[labels[by_class]]
    held = torch.zeros(len(labels), dtype=torch.bool)
    held[by_class] = rank_in_class < quota[labels[by_class]]
    index = torch.arange(len(labels))
    return index[~held], index[held]
