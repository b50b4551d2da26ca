"""Standardization and scales against plain Python."""

import statistics

import pytest
import torch

from bnn_lightning.functional import libra_standardise, power_of_two_scale, xnor_scale


def test_libra_standardise_is_centred_over_the_unbiased_deviation() -> None:
    weight = torch.randn(3, 2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    got = libra_standardise(weight, eps=1e-30)
    for channel, row in zip(got, weight, strict=True):
        values = row.flatten().tolist()
        mean, deviation = statistics.fmean(values), statistics.stdev(values)
        expected = torch.tensor([(value - mean) / deviation for value in values], dtype=torch.float64)
        torch.testing.assert_close(channel.flatten(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 4])
def test_a_constant_channel_gives_zeros_and_finite_gradients(count: int) -> None:
    weight = torch.full((1, count), 0.7, requires_grad=True)
    y = libra_standardise(weight)
    y.sum().backward()
    assert y.abs().max() == 0
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_power_of_two_scale_rounds_the_exponent() -> None:
    magnitudes = [1.0, 0.8, 1.41, 0.7, 3.0, 0.3]
    latent = torch.tensor([[value, -value] for value in magnitudes], dtype=torch.float64, requires_grad=True)
    got = power_of_two_scale(latent)
    assert got.tolist() == [1, 1, 1, 0.5, 4, 0.25]
    assert not got.requires_grad


def test_xnor_scale_is_the_mean_magnitude_with_its_gradient() -> None:
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.5]], requires_grad=True)
    scale = xnor_scale(weight)
    scale.sum().backward()
    assert scale.tolist() == [1.5, 0.5]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.5, -0.5], [0.5, 0.5]]
