from itertools import chain

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bnn_lightning.data.sampler import EpochSampler, evaluation_slices, training_slices


def images(slices: list[slice]) -> list[int]:
    return list(chain.from_iterable(range(s.start, s.stop) for s in slices))


@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 7))
def test_evaluation_covers_each_image_once(num_images: int, batch_size: int, parts: int) -> None:
    shards = [evaluation_slices(num_images, batch_size, rank=rank, parts=parts) for rank in range(parts)]
    assert images(list(chain.from_iterable(shards))) == list(range(num_images))
    sizes = [s.stop - s.start for s in chain.from_iterable(shards)]
    assert all(1 <= size <= batch_size for size in sizes)
    if num_images >= 2 * parts and batch_size > 1:
        assert len({len(shard) for shard in shards}) == 1


@given(st.integers(0, 300), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4), st.booleans())
def test_training_steps_hold_the_same_images_on_any_layout(
    num_images: int, local: int, parts: int, accumulate: int, drop_last: bool
) -> None:
    batch_size = local * parts * accumulate
    shards = [
        training_slices(num_images, batch_size, rank=r, parts=parts, accumulate=accumulate, drop_last=drop_last)
        for r in range(parts)
    ]
    assert len({len(shard) for shard in shards}) == 1
    steps = len(shards[0]) // accumulate
    for step in range(steps):
        window = slice(step * accumulate, (step + 1) * accumulate)
        micro = [s for shard in shards for s in shard[window]]
        assert len({s.stop - s.start for s in micro}) == 1
        start, size = step * batch_size, len(images(micro))
        assert sorted(images(micro)) == list(range(start, start + size))
        assert size == batch_size or (step == steps - 1 and not drop_last)
    seen = len(images(list(chain.from_iterable(shards))))
    assert num_images - seen < (batch_size if drop_last else parts * accumulate)


def test_steps_of_the_papers() -> None:
    assert len(training_slices(50_000, 128, rank=0, parts=1, accumulate=1, drop_last=True)) == 390
    assert len(training_slices(60_000, 256, rank=0, parts=1, accumulate=1, drop_last=False)) == 235
    assert len(training_slices(1_281_167, 256, rank=3, parts=8, accumulate=1, drop_last=True)) == 5004


def sampler(num_images: int = 100, *, rank: int = 0, parts: int = 1, seed: int | None = 0) -> EpochSampler:
    slices = training_slices(num_images, 20, rank=rank, parts=parts, accumulate=1, drop_last=True)
    return EpochSampler(torch.arange(num_images) * 10, slices, split="train", seed=seed)


def test_order_is_a_permutation_that_seed_and_epoch_decide() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        s = sampler(seed=seed)
        s.set_epoch(epoch)
        return s.order().tolist()

    assert sorted(order(0, 0)) == list(range(0, 1000, 10))
    assert order(0, 3) == order(0, 3)
    assert len({tuple(order(s, e)) for s in range(3) for e in range(3)}) == 9


def test_order_mixes_well() -> None:
    epochs = []
    for epoch in range(2000):
        s = sampler(50)
        s.set_epoch(epoch)
        epochs.append(s.order() // 10)
    first = torch.bincount(torch.stack(epochs)[:, 0], minlength=50).double()
    assert ((first - 40) ** 2 / 40).sum() < 85.4  # chi-square, 49 degrees of freedom, 0.1 %


def test_ranks_share_the_batches_of_one_process() -> None:
    whole = [b.indices for b in sampler()]
    halves = [[b.indices for b in sampler(rank=rank, parts=2)] for rank in range(2)]
    assert all(torch.equal(torch.cat([a, b]), c) for a, b, c in zip(*halves, whole, strict=True))


def test_start_skips_batches() -> None:
    s = sampler()
    whole = [b.indices.tolist() for b in s]
    s.start = 3
    assert [b.indices.tolist() for b in s] == whole[3:]
    assert len(s) == 5


def test_without_seed_images_come_as_they_stand() -> None:
    s = sampler(seed=None)
    s.set_epoch(7)
    batches = list(s)
    assert torch.cat([b.indices for b in batches]).tolist() == list(range(0, 1000, 10))
    assert {(b.epoch, b.split) for b in batches} == {(7, "train")}


@pytest.mark.parametrize("num_images", [50_000])
def test_order_of_a_large_set_has_no_repetition(num_images: int) -> None:
    assert len(torch.unique(sampler(num_images).order())) == num_images
