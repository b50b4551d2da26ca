"""MixUp and CutMix of drawn batches: images and labels in the same ratio, drawn by (seed, epoch, batch, rank)."""

import pytest
import torch
from torch import Tensor

from bnn_lightning.data import MixupCutmix

Batch = tuple[Tensor, Tensor]


def batch(number: int = 16, size: tuple[int, int] = (9, 7)) -> Batch:
    """Images whose pixels differ from image to image everywhere."""
    images = torch.arange(number, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, *size) / number
    return images.clone(), torch.arange(number) % 5


def expected_shares(labels: Tensor, share: float) -> Tensor:
    shares = torch.zeros(len(labels), 5)
    for i, (own, other) in enumerate(zip(labels, labels.roll(1), strict=True)):
        shares[i, own] += share
        shares[i, other] += 1 - share
    return shares


def test_mixup_adds_images_and_labels_in_one_ratio() -> None:
    images, labels = batch()
    mixed, larger, shares = MixupCutmix(mixup=0.5)(images, labels, 5, epoch=2, batch=3)
    other = images.roll(1, 0)
    ratios = (mixed - other) / (images - other)
    share = float(ratios.mean())
    assert 0 < share < 1
    torch.testing.assert_close(ratios, torch.full_like(ratios, share), atol=1e-4, rtol=0)
    torch.testing.assert_close(shares, expected_shares(labels, share), atol=1e-4, rtol=0)
    assert torch.equal(larger, labels if share > 0.5 else labels.roll(1))


@pytest.mark.parametrize("number", range(12))
def test_cutmix_takes_a_box_and_its_share(number: int) -> None:
    images, labels = batch()
    mixed, larger, shares = MixupCutmix(cutmix=1.0)(images, labels, 5, epoch=0, batch=number)
    own = mixed == images
    assert torch.equal(own | (mixed == images.roll(1, 0)), torch.ones_like(own))
    inside = ~own[0, 0]
    assert torch.equal(inside.expand_as(own), ~own)
    rows, columns = inside.any(1), inside.any(0)
    assert torch.equal(inside, rows[:, None] & columns[None])
    for line in (rows, columns):
        assert int((line[1:] & ~line[:-1]).sum()) + int(line[0]) <= 1  # one run
    share = float(own[0, 0].double().mean())
    torch.testing.assert_close(shares, expected_shares(labels, share), atol=1e-6, rtol=0)
    assert torch.equal(larger, shares.argmax(1))


def test_ratios_are_those_of_the_beta_distribution() -> None:
    images, labels = torch.zeros(2, 1, 1, 1), torch.arange(2)
    for alpha in (0.2, 1.0, 3.0):
        mix = MixupCutmix(mixup=alpha)
        drawn = torch.stack([mix(images, labels, 2, epoch=0, batch=number)[2][0, 0] for number in range(2000)])
        assert drawn.mean().item() == pytest.approx(0.5, abs=0.04)
        assert drawn.var().item() == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.02)


def test_probabilities_of_mixing_and_of_cutmix() -> None:
    images, labels = batch(8)
    mix = MixupCutmix(mixup=1.0, cutmix=1.0, cutmix_share=0.25, probability=0.5)
    drawn = [mix(images, labels, 5, epoch=0, batch=number)[0] for number in range(600)]
    untouched = [torch.equal(mixed, images) for mixed in drawn]
    from_one = [bool(((mixed == images) | (mixed == images.roll(1, 0))).all()) for mixed in drawn]
    assert sum(untouched) / 600 == pytest.approx(0.5, abs=0.08)
    assert (sum(from_one) - sum(untouched)) / 600 == pytest.approx(0.125, abs=0.05)
    never = MixupCutmix(mixup=1.0, probability=0.0)(images, labels, 5, epoch=0, batch=0)
    assert torch.equal(never[0], images)
    assert torch.equal(never[1], labels)
    assert torch.equal(never[2], torch.nn.functional.one_hot(labels, 5).float())


def test_a_function_of_seed_epoch_batch_and_rank_alone() -> None:
    images, labels = batch()
    mix = MixupCutmix(mixup=1.0, cutmix=1.0)
    first = mix(images, labels, 5, epoch=1, batch=2, rank=3)
    torch.manual_seed(7)
    again = mix(images, labels, 5, epoch=1, batch=2, rank=3)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(7)))
    others = [
        mix(images, labels, 5, epoch=2, batch=2, rank=3),
        mix(images, labels, 5, epoch=1, batch=3, rank=3),
        mix(images, labels, 5, epoch=1, batch=2, rank=2),
        MixupCutmix(mixup=1.0, cutmix=1.0, seed=1)(images, labels, 5, epoch=1, batch=2, rank=3),
    ]
    assert not any(torch.equal(first[0], other[0]) for other in others)


def test_half_precision_stays() -> None:
    images, labels = batch()
    mixed, _, shares = MixupCutmix(cutmix=1.0)(images.bfloat16(), labels, 5, epoch=0, batch=0)
    assert (mixed.dtype, shares.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "both are 0"),
        ({"mixup": -1.0}, "`mixup`"),
        ({"cutmix": 1.0, "probability": 2.0}, "`probability`"),
        ({"cutmix": 1.0, "cutmix_share": -0.1}, "`cutmix_share`"),
        ({"cutmix": 1.0, "seed": -1}, "`seed`"),
    ],
)
def test_values_out_of_range(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MixupCutmix(**options)  # type: ignore[arg-type]
