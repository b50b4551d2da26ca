"""Recomputation in backward keeps no tensors, and changes no gradient of first or second order."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from bnn_lightning.functional import call, prelu, recomputable, recompute
from bnn_lightning.models import create_backbone


def leaves() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 4, 4), (3,), (2, 3, 1, 1))
    x, slope, gate = (torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes)
    return x.requires_grad_(), slope.requires_grad_(), gate.requires_grad_()


def chain(x: Tensor, slope: Tensor, gate: Tensor) -> Tensor:
    return call(torch.square, recomputable(torch.mul, recomputable(prelu, x, slope), gate))


def plain(x: Tensor, slope: Tensor, gate: Tensor) -> Tensor:
    return (prelu(x, slope) * gate).square()


def test_first_and_second_derivatives_are_those_of_the_plain_operations() -> None:
    def derivatives(function: object) -> list[Tensor]:
        inputs = leaves()
        first = torch.autograd.grad(function(*inputs).pow(2).sum(), inputs, create_graph=True)  # type: ignore[operator]
        return [*first, *torch.autograd.grad(sum(g.pow(2).sum() for g in first), inputs)]

    for got, expected in zip(derivatives(chain), derivatives(plain), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("checkpointed", [False, True])
def test_nothing_keeps_the_values(checkpointed: bool) -> None:
    x, slope, gate = leaves()
    seen: list[StorageWeakRef] = []

    def forward() -> Tensor:
        activated = recomputable(prelu, x * 1, slope)
        gated = recomputable(torch.mul, activated, gate)
        seen.extend(StorageWeakRef(value.value.untyped_storage()) for value in (activated, gated))
        return call(torch.square, gated)

    y = checkpoint(forward, use_reentrant=False) if checkpointed else forward()
    assert all(ref.expired() for ref in seen)
    got = torch.autograd.grad(y.sum(), [x, slope, gate])
    expected = torch.autograd.grad(plain(x, slope, gate).sum(), [x, slope, gate])
    for gradient, reference in zip(got, expected, strict=True):
        assert torch.equal(gradient, reference)


def test_under_func_and_compile() -> None:
    inputs = leaves()
    expected = torch.autograd.grad(plain(*inputs).sum(), inputs)
    transformed = torch.func.grad(lambda *xs: chain(*xs).sum(), argnums=(0, 1, 2))(*inputs)
    compiled = torch.compile(chain, fullgraph=True, backend="aot_eager")(*inputs)
    for got in (transformed, torch.autograd.grad(compiled.sum(), inputs)):
        for gradient, reference in zip(got, expected, strict=True):
            torch.testing.assert_close(gradient, reference)


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("name", ["bnext_tiny", "bnext18"])
def test_networks_have_the_same_gradients_to_the_bit(name: str, bf16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    options = {"depths": (2, 1)} if name == "bnext_tiny" else {}
    network = create_backbone(name, num_classes=10, image_size=32, width=8, **options)
    images = torch.rand(4, 3, 32, 32)

    def gradients() -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = network(images).logsumexp(1).sum()
        return torch.autograd.grad(loss, list(network.parameters()))

    computed_again = gradients()
    monkeypatch.setattr(recompute, "_recipes", lambda inputs: nullcontext())
    for got, kept in zip(computed_again, gradients(), strict=True):
        assert torch.equal(got, kept)
