import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bnn_lightning.metrics import EpochMeans, FlipRate, count_correct


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(0, 10**6))
def test_flips_against_plain_counting(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    before = [torch.randint(-1, 2, (size,), generator=generator).float() for size in sizes]
    after = [torch.randint(-1, 2, (size,), generator=generator).float() for size in sizes]
    rate = FlipRate()
    rate.update(before)
    assert rate.compute() == 0
    rate.update(after)
    flips = [
        sum((x >= 0) != (y >= 0) for x, y in zip(b.tolist(), a.tolist(), strict=True))
        for b, a in zip(before, after, strict=True)
    ]
    assert float(rate.compute()) == pytest.approx(sum(flips) / sum(sizes))
    assert rate.per_tensor().tolist() == pytest.approx([flip / size for flip, size in zip(flips, sizes, strict=True)])


def test_state_goes_on() -> None:
    rate, resumed = FlipRate(), FlipRate()
    rate.update([torch.tensor([1.0, -1.0, 0.0])])
    assert not resumed.is_primed
    resumed.load_state_dict(rate.state_dict())
    for metric in (rate, resumed):
        assert metric.is_primed
        metric.update([torch.tensor([-1.0, -1.0, 1.0])])
    assert rate.compute() == resumed.compute() == pytest.approx(1 / 3)
    assert rate.state_dict()["signs"].numel() == 1  # one bit a weight


def test_other_weights_are_refused() -> None:
    rate = FlipRate()
    rate.update([torch.ones(20)])
    with pytest.raises(ValueError, match="the same tensors every time"):
        rate.update([torch.ones(3)])


def test_means_weigh_samples_equally() -> None:
    means = EpochMeans(["loss", "acc"])
    for mean, correct, number in ((1.0, 3, 4), (4.0, 0, 2)):
        means.update([torch.tensor(mean) * number, torch.tensor(correct)], number)
    assert {name: float(value) for name, value in means.compute().items()} == {"loss": 2.0, "acc": 0.5}


def test_means_survive_half_precision_and_checkpoints() -> None:
    means = EpochMeans(["loss"], persistent=True).to(torch.bfloat16)
    for _ in range(1000):
        means.update([torch.tensor(1.001)], 1)
    resumed = EpochMeans(["loss"], persistent=True)
    resumed.load_state_dict(means.state_dict())
    for metric in (means, resumed):
        metric.update([torch.tensor(1.001)], 1)
        assert float(metric.compute()["loss"]) == pytest.approx(1.001, rel=1e-6)
    assert not EpochMeans(["loss"]).state_dict()


@pytest.mark.parametrize("k", [1, 2, 5])
def test_count_correct(k: int) -> None:
    logits = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(64) % 4
    ranks = [
        sorted(row, reverse=True).index(row[label]) for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    assert int(count_correct(logits, labels, k)) == sum(rank < k for rank in ranks)
