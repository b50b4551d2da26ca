"""Properties of every binarizer, and the state of the annealed ones."""

import inspect
from typing import Any

import pytest
import torch

from bnn_lightning import binarizers
from bnn_lightning.binarizers import (
    AnnealedBinarizer,
    Binarizer,
    InputBinarizer,
    Libra,
    ReSTE,
    SignEDE,
    WeightBinarizer,
    XNORScale,
    binarizer_factory,
    list_binarizers,
)

# Of quantizers to two bits, by default.
VALUES = {
    "DoReFaInput": [0.0, 1.0, 2.0, 3.0],
    "DoReFaWeights": [-3.0, -1.0, 1.0, 3.0],
    "TernaryWeights": [-1.0, 0.0, 1.0],
}


def at_the_end(binarizer: Binarizer) -> Binarizer:
    if isinstance(binarizer, AnnealedBinarizer):
        binarizer.set_progress(1.0)
    return binarizer


@pytest.mark.parametrize("name", list_binarizers())
def test_every_binarizer_gives_exact_signs_and_a_gradient(name: str) -> None:
    binarizer = at_the_end(binarizer_factory(name)(4))
    x = torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = binarizer(x)
    values = VALUES.get(name, [-1.0, 1.0])
    assert y.unique().tolist() == values
    assert binarizer.gives_signs == (values == [-1.0, 1.0])
    assert binarizer.is_binary
    assert binarizer.bits == (1 if binarizer.gives_signs else 2)
    (y * torch.randn_like(y)).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("name", list_binarizers(WeightBinarizer))
def test_weight_binarizers_sign_their_latent_and_agree_with_binarize(name: str) -> None:
    binarizer = at_the_end(binarizer_factory(name)(4))
    assert isinstance(binarizer, WeightBinarizer)
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    signs, scale = binarizer.binarize(weight)
    latent = binarizer.latent(weight)
    assert torch.equal(signs > 0, latent >= 0 if name != "TernaryWeights" else latent > 0.7 * weight.abs().mean())
    assert torch.equal(signs, binarizer(weight))
    again = binarizer.scale(weight)
    assert (scale is None) == (again is None)
    if scale is not None and again is not None:
        assert scale.shape == (4,)
        torch.testing.assert_close(scale, again)


@pytest.mark.parametrize(
    "name", [n for n in list_binarizers() if issubclass(getattr(binarizers, n), AnnealedBinarizer)]
)
def test_annealed_state_travels_in_the_state_dict(name: str) -> None:
    binarizer, other = binarizer_factory(name)(1), binarizer_factory(name)(1)
    assert isinstance(binarizer, AnnealedBinarizer)
    binarizer.set_progress(0.6)
    other.load_state_dict(binarizer.state_dict())
    x = torch.linspace(-2, 2, 9).view(3, 3)
    gradients = []
    for module in (binarizer, other):
        leaf = x.clone().requires_grad_()
        module(leaf).sum().backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)
    with pytest.raises(ValueError, match=r"between 0 and 1, got 1\.5"):
        binarizer.set_progress(1.5)


def test_ede_follows_the_published_schedule() -> None:
    ede = SignEDE()
    for epoch, expected in ((0, 0.001), (350, 0.1), (699, 9.869286)):
        ede.set_progress(epoch / 700)
        assert ede.t.item() == pytest.approx(expected, rel=1e-6)


def test_xnor_scale_trains_the_weight_through_the_scale_too() -> None:
    weight = torch.tensor([[0.5, -1.5]], requires_grad=True)
    signs, scale = XNORScale(clip=1.0).binarize(weight)
    assert scale is not None
    (signs * scale[:, None]).sum().backward()
    # d/dw of sum_i sign(w_i) s: s * [|w_i| <= 1] + sign(w_i) / n * sum_j sign(w_j)
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("gradient", ["full", "detached", "identity"])
def test_gradients_of_a_scaled_weight_are_those_of_its_paper(gradient: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    signs, scale = XNORScale(clip=1.0, gradient=gradient).binarize(weight)
    (signs * scale[:, None] * upstream).sum().backward()
    w = weight.detach()
    inside, alpha = (w.abs() <= 1).double(), w.abs().mean(1, keepdim=True)
    of_scale = w.sign() * (w.sign() * upstream).sum(1, keepdim=True) / 8
    expected = {
        "full": alpha * inside * upstream + of_scale,
        "detached": alpha * inside * upstream,
        "identity": inside * upstream,
    }
    torch.testing.assert_close(weight.grad, expected[gradient])


def test_a_channel_of_zeros_has_no_scale_and_a_finite_gradient() -> None:
    weight = torch.zeros(2, 3, requires_grad=True)
    signs, scale = XNORScale(gradient="identity").binarize(weight)
    (signs * scale[:, None]).sum().backward()
    assert weight.grad is not None
    assert not scale.any()
    assert weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("SignST", {}, "Did you mean `SignSTE`"),
        ("SignSTE", {"clp": 1.0}, "has no option `clp`. It has: clip"),
        ("SignSTE", {"clip": -1.0}, "`clip` must be positive, got -1.0"),
        ("SignEDE", {"t_min": 5.0, "t_max": 1.0}, "0 < t_min <= t_max"),
        ("ReSTE", {"power_end": 0.5}, "`power_end` must be at least 1"),
        ("ReSTE", {"limit": 9.0}, "`limit` must be positive and at most"),
        ("ReSTE", {"clip": 0.0}, "`clip` must be positive"),
        ("SwishSign", {"beta": 0.0}, "`beta` must be positive"),
        ("Libra", {"eps": 0.0}, "`eps` must be positive"),
        ("WeightSign", {"clip": 0.0}, "`clip` must be positive"),
        ("ReCUWeights", {"tau_start": 0.4}, "0.5 < tau_start <= tau_end < 1"),
        ("DoReFaInput", {"bits": 0}, "`bits` must be a whole number between 1 and 8, got 0"),
        ("DoReFaWeights", {"bits": 1}, "`bits` must be a whole number between 2 and 8, got 1"),
        ("TernaryWeights", {"threshold": -1.0}, "`threshold` must not be negative, got -1.0"),
        ("TernaryWeights", {"clip": 0.0}, "`clip` must be positive"),
        ("XNORScale", {"gradient": "none"}, "`gradient` must be one of"),
    ],
)
def test_wrong_options_are_named_before_a_network_is_built(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        binarizer_factory(name, **options)


def test_every_exported_concrete_binarizer_is_known_by_name() -> None:
    abstract = {"Binarizer", "InputBinarizer", "WeightBinarizer", "AnnealedBinarizer", "BinarizerFactory", "EDE"}
    exported = {
        name
        for name in binarizers.__all__
        if inspect.isclass(getattr(binarizers, name)) and issubclass(getattr(binarizers, name), binarizers.Binarizer)
    }
    assert exported - abstract == set(list_binarizers())


def test_kinds_are_told_apart() -> None:
    assert isinstance(ReSTE(), InputBinarizer)
    assert not isinstance(Libra(), InputBinarizer)
    assert Libra().scale_is_power_of_two
    assert not XNORScale().scale_is_power_of_two
