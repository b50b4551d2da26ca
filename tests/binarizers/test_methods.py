"""AdaBin, ReCU, DoReFa and ternary weights: value and gradient against the formulas, number by number in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bnn_lightning.binarizers import (
    AdaBinInput,
    AdaBinWeights,
    DoReFaInput,
    DoReFaWeights,
    ReCUInput,
    ReCUWeights,
    TemperatureSign,
    TernaryWeights,
    binarizer_factory,
)

X = torch.tensor([[-1.7, -0.4, 0.0, 0.3], [0.45, 1.0, 1.2, 3.0]], dtype=torch.float64)
UP = torch.tensor([[1.0, -2.0, 3.0, 0.5], [2.0, 1.0, -1.0, 4.0]], dtype=torch.float64)
W = torch.tensor([[0.7, -0.2, 0.1, -1.3, 0.4], [0.3, 0.35, -0.9, 0.2, 0.6]], dtype=torch.float64)
UP_W = torch.tensor([[1.0, 2.0, -1.0, 0.5, 3.0], [-2.0, 1.0, 0.7, 1.5, -0.3]], dtype=torch.float64)


def gradient(function: Callable[[Tensor], Tensor], x: Tensor, upstream: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (function(leaf) * upstream).sum().backward()
    assert leaf.grad is not None
    return leaf.grad


def numeric(function: Callable[[list[float]], float], x: Tensor, step: float = 1e-6) -> Tensor:
    """Return the derivative of a plain function of all elements, by central differences."""
    values, found = x.flatten().tolist(), []
    for index in range(len(values)):
        pair = [[v + sign * step * (i == index) for i, v in enumerate(values)] for sign in (1, -1)]
        found.append((function(pair[0]) - function(pair[1])) / (2 * step))
    return torch.tensor(found, dtype=torch.float64).view_as(x)


def test_adabin_activations_are_alpha_times_sign_plus_beta() -> None:
    binarizer = AdaBinInput().double()
    alpha, beta = 0.8, 0.25
    binarizer.alpha.data.fill_(alpha)
    binarizer.beta.data.fill_(beta)

    def value(x: Tensor) -> Tensor:
        return binarizer.scale() * binarizer(x) + binarizer.offset()

    expected = [[alpha * ((1.0 if (v - beta) / alpha >= 0 else -1.0) + beta) for v in row] for row in X.tolist()]
    torch.testing.assert_close(value(X).detach(), torch.tensor(expected, dtype=torch.float64))
    binarizer.zero_grad()
    of_x = gradient(value, X, UP)
    # d/dx alpha F((x - beta) / alpha) = f(z), f = max(2 - 2|z|, 0); of beta alpha - f(z); of alpha s + beta - z f(z).
    dalpha = dbeta = 0.0
    wanted = []
    for v, u in zip(X.flatten().tolist(), UP.flatten().tolist(), strict=True):
        z = (v - beta) / alpha
        slope = max(2 - 2 * abs(z), 0.0)
        wanted.append(u * slope)
        dbeta += u * (alpha - slope)
        dalpha += u * ((1.0 if z >= 0 else -1.0) + beta - z * slope)
    torch.testing.assert_close(of_x.flatten(), torch.tensor(wanted, dtype=torch.float64))
    assert binarizer.beta.grad is not None
    assert binarizer.alpha.grad is not None
    assert binarizer.beta.grad.item() == pytest.approx(dbeta, rel=1e-12)
    assert binarizer.alpha.grad.item() == pytest.approx(dalpha, rel=1e-12)
    assert torch.equal(binarizer(X) > 0, binarizer.threshold() <= X)


def softened(t: float, values: list[float], fixed: list[float]) -> list[float]:
    """Return deviation * (sign + k (tanh(t z) - tanh(t z0))) + mean: equal at `fixed`, with EDE's derivative there."""

    def standard(row: list[float]) -> tuple[list[float], float, float]:
        mean = sum(row) / len(row)
        deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / len(row))
        return [(v - mean) / deviation for v in row], mean, deviation

    z, mean, deviation = standard(values)
    z0 = standard(fixed)[0]
    k = max(1 / t, 1.0)
    soft = [
        (1.0 if old >= 0 else -1.0) + k * (math.tanh(t * new) - math.tanh(t * old))
        for new, old in zip(z, z0, strict=True)
    ]
    return [deviation * s + mean for s in soft]


@pytest.mark.parametrize("t", [0.3, 2.0])
def test_adabin_weights_are_deviation_times_sign_plus_mean(t: float) -> None:
    binarizer = AdaBinWeights().double()
    binarizer.t.fill_(t)

    def value(weight: Tensor) -> Tensor:
        signs, scale = binarizer.binarize(weight)
        assert scale is not None
        return signs * scale[:, None] + binarizer.offset(weight)[:, None]

    expected = torch.tensor([softened(t, row, row) for row in W.tolist()], dtype=torch.float64)
    torch.testing.assert_close(value(W), expected)

    def total(values: list[float]) -> float:
        rows = [softened(t, values[5 * i : 5 * i + 5], W[i].tolist()) for i in range(2)]
        return sum(v * u for row, up in zip(rows, UP_W.tolist(), strict=True) for v, u in zip(row, up, strict=True))

    torch.testing.assert_close(gradient(value, W, UP_W), numeric(total, W), rtol=1e-6, atol=1e-8)


def test_adabin_weights_of_one_value_are_that_value_and_finite() -> None:
    weight = torch.full((2, 3), 0.25, requires_grad=True)
    binarizer = AdaBinWeights()
    signs, scale = binarizer.binarize(weight)
    value = signs * scale[:, None] + binarizer.offset(weight)[:, None]
    value.sum().backward()
    torch.testing.assert_close(value.detach(), weight.detach())
    assert weight.grad is not None
    assert weight.grad.isfinite().all()


def test_a_ramp_on_adabin_weights_has_their_centers_and_none_on_few_bits() -> None:
    ramp = TemperatureSign(base=binarizer_factory("AdaBinWeights"))
    offset = ramp.offset(W)
    assert offset is not None
    torch.testing.assert_close(offset, W.mean(1))
    with pytest.raises(ValueError, match="`base` must give signs, got TernaryWeights with values of 2 bits"):
        TemperatureSign(base=binarizer_factory("TernaryWeights"))


def recu_latent(row: list[float], limit: float | None) -> list[float]:
    mean = sum(row) / len(row)
    variance = sum((v - mean) ** 2 for v in row) / (len(row) - 1)
    standard = [(v - mean) / (math.sqrt(variance + 1e-5) / (2 * math.sqrt(2))) for v in row]
    return standard if limit is None else [min(max(v, -limit), limit) for v in standard]


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_recu_weights_clamp_to_the_quantile(progress: float) -> None:
    binarizer = ReCUWeights(2).double()
    binarizer.set_progress(progress)
    a = (0.99 - 0.85) / (math.e - 1)
    tau = a * math.exp(progress) + 0.85 - a
    assert binarizer.tau.item() == pytest.approx(tau, rel=1e-6)
    magnitudes = [abs(v) for row in W.tolist() for v in recu_latent(row, None)]
    limit = -sum(magnitudes) / len(magnitudes) * math.log(2 - 2 * binarizer.tau.item())
    expected = [recu_latent(row, limit) for row in W.tolist()]
    torch.testing.assert_close(binarizer.latent(W), torch.tensor(expected, dtype=torch.float64))
    signs, scale = binarizer.binarize(W)
    assert signs.tolist() == [[1.0 if v >= 0 else -1.0 for v in row] for row in expected]
    assert scale is binarizer.alpha
    assert ((scale >= 0) & (scale < 1)).all()

    def total(values: list[float]) -> float:
        rows = [recu_latent(values[5 * i : 5 * i + 5], limit) for i in range(2)]
        return sum(v * u for row, up in zip(rows, UP_W.tolist(), strict=True) for v, u in zip(row, up, strict=True))

    torch.testing.assert_close(gradient(binarizer, W, UP_W), numeric(total, W), rtol=1e-6, atol=1e-7)


def test_recu_activations_are_divided_by_the_deviation_of_their_image_in_training() -> None:
    binarizer = ReCUInput()
    fixed = X.tolist()

    def standard(row: list[float]) -> list[float]:
        mean = sum(row) / len(row)
        variance = sum((v - mean) ** 2 for v in row) / (len(row) - 1)
        return [v / math.sqrt(variance + 1e-5) for v in row]

    def total(values: list[float]) -> float:
        result = 0.0
        for i, up in enumerate(UP.tolist()):
            new, old = standard(values[4 * i : 4 * i + 4]), standard(fixed[i])
            # ApproxSign's derivative max(2 - 2|a|, 0) at `fixed`.
            result += sum(max(2 - 2 * abs(o), 0.0) * n * u for n, o, u in zip(new, old, up, strict=True))
        return result

    torch.testing.assert_close(gradient(binarizer, X, UP), numeric(total, X), rtol=1e-6, atol=1e-8)
    signs = binarizer(X)
    binarizer.eval()
    assert torch.equal(binarizer(X), signs)
    plain = torch.tensor([[max(2 - 2 * abs(v), 0.0) for v in row] for row in fixed], dtype=torch.float64)
    torch.testing.assert_close(gradient(binarizer, X, UP), plain * UP)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_dorefa_activations(bits: int) -> None:
    quantizer, n = DoReFaInput(bits), 2**bits - 1

    def value(x: Tensor) -> Tensor:
        return quantizer(x) * quantizer.scale().double()

    expected = [[round(n * min(max(v, 0.0), 1.0)) / n for v in row] for row in X.tolist()]
    torch.testing.assert_close(value(X), torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=0)
    assert torch.equal(quantizer(X), quantizer(X).round())
    inside = ((X >= 0) & (X <= 1)).double()
    torch.testing.assert_close(gradient(value, X, UP), inside * UP, rtol=1e-7, atol=0)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_dorefa_weights(bits: int) -> None:
    quantizer, n = DoReFaWeights(bits), 2**bits - 1

    def value(weight: Tensor) -> Tensor:
        levels, scale = quantizer.binarize(weight)
        assert scale is not None
        return levels * scale[:, None]

    largest = max(abs(math.tanh(v)) for v in W.flatten().tolist())
    expected = [[2 * round(n * (math.tanh(v) / (2 * largest) + 0.5)) / n - 1 for v in row] for row in W.tolist()]
    torch.testing.assert_close(value(W), torch.tensor(expected, dtype=torch.float64))
    assert set(quantizer(W).flatten().tolist()) <= set(range(-n, n + 1, 2))
    slope = (1 - torch.tanh(W) ** 2) / largest
    torch.testing.assert_close(gradient(value, W, UP_W), slope * UP_W)
    assert quantizer(torch.zeros(2, 3)).tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(("threshold", "scaled"), [(None, True), (0.05, False), (0.3, True)])
def test_ternary_weights(threshold: float | None, scaled: bool) -> None:
    quantizer = TernaryWeights(threshold, scaled=scaled)
    magnitudes = [abs(v) for v in W.flatten().tolist()]
    delta = 0.7 * sum(magnitudes) / len(magnitudes) if threshold is None else threshold
    levels, scale = quantizer.binarize(W)
    assert levels.tolist() == [[0.0 if abs(v) <= delta else math.copysign(1.0, v) for v in row] for row in W.tolist()]
    kept = [m for m in magnitudes if m > delta]
    assert (scale is None) == (not scaled)
    if scale is not None:
        assert scale.tolist() == pytest.approx([sum(kept) / len(kept)] * 2, rel=1e-12)
        assert not scale.requires_grad
    inside = (W.abs() <= 1).double()
    assert torch.equal(gradient(quantizer, W, UP_W), inside * UP_W)
    assert TernaryWeights().scale(torch.zeros(2, 3)).tolist() == [0.0, 0.0]
    assert quantizer(torch.tensor([[torch.nan, 1.0]])).isnan().tolist() == [[True, False]]
