import random

import pytest
import torch

from bnn_lightning.data import random as counter
from bnn_lightning.data.random import integers, random_bits, uniform

MASK = (1 << 64) - 1


def splitmix(state: int) -> int:
    """SplitMix64's output function, as published, on Python integers."""
    z = state & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


@pytest.mark.parametrize("seed", [0, 1, 2023, 2**40, -5])
@pytest.mark.parametrize("epoch", [0, 1, 699])
def test_bits_equal_splitmix_in_plain_python(seed: int, epoch: int) -> None:
    gamma = 0x9E3779B97F4A7C15
    key = splitmix(splitmix(seed + gamma) + (epoch + 1) * gamma)
    index = [0, 1, 49_999, 1_281_166]
    expected = [[splitmix((i * 64 + s) * gamma + key) >> 32 for i in index] for s in range(3, 7)]
    assert random_bits(torch.tensor(index), range(3, 7), seed=seed, epoch=epoch).tolist() == expected


def test_an_image_draws_alike_in_any_batch() -> None:
    whole = random_bits(torch.arange(1000), range(8), seed=1, epoch=2)
    chosen = torch.tensor([999, 3, 3, 500])
    assert torch.equal(random_bits(chosen, range(8), seed=1, epoch=2), whole[:, chosen])


@pytest.mark.parametrize("change", [{"seed": 1}, {"epoch": 1}])
def test_seeds_and_epochs_are_uncorrelated(change: dict[str, int]) -> None:
    index = torch.arange(100_000)
    a = uniform(random_bits(index, range(2), seed=0, epoch=0)).double()
    b = uniform(random_bits(index, range(2), **{"seed": 0, "epoch": 0, **change})).double()
    rows = torch.cat([a, b, a.roll(1, dims=1)])
    off_diagonal = torch.corrcoef(rows) - torch.eye(6)
    assert off_diagonal.abs().max() < 5 / 100_000**0.5


def test_users_of_streams_do_not_share_one() -> None:
    users = [counter.AUGMENTATION, counter.LIGHTING, counter.SPLIT, counter.ORDER]
    taken = [stream for user in users for stream in user]
    assert len(taken) == len(set(taken))
    assert max(taken) < 64


def test_integers_and_uniform_cover_their_range_evenly() -> None:
    bits = random_bits(torch.arange(90_000), range(1), seed=0, epoch=0)[0]
    counts = torch.bincount(integers(bits, 9), minlength=9).double()
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 26.1  # chi-square, 8 degrees of freedom, 0.1 %
    values = uniform(bits)
    assert values.dtype == torch.float32
    assert 0 <= values.min() < 1e-3
    assert 1 - 1e-3 < values.max() < 1
    assert uniform(torch.tensor([2**32 - 1])).item() < 1
    assert integers(torch.tensor([2**32 - 1]), 9).item() == 8


def test_global_random_state_is_left_alone() -> None:
    torch.manual_seed(0)
    random.seed(0)
    before = torch.get_rng_state(), random.getstate()
    random_bits(torch.arange(10), range(4), seed=0, epoch=0)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
