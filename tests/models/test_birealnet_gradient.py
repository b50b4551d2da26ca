"""The gradient of Bi-Real Net's latent weights: the paper's by default, that of the authors' code as an option."""

import pytest
import torch

from bnn_lightning.binarizers import XNORScale, binarizer_factory
from bnn_lightning.layers import binary_layers
from bnn_lightning.models import create_backbone


@pytest.mark.parametrize("name", ["birealnet18", "birealnet34"])
@pytest.mark.parametrize("gradient", ["paper", "code"])
def test_the_gradient_of_a_latent_weight(name: str, gradient: str) -> None:
    torch.manual_seed(0)
    options = {} if gradient == "paper" else {"weight_binarizer": binarizer_factory("XNORScale", gradient="identity")}
    network = create_backbone(name, num_classes=2, image_size=17, width=4, **options)
    layer = next(iter(binary_layers(network).values()))
    assert isinstance(layer.weight_binarizer, XNORScale)
    with torch.no_grad():
        layer.weight[0, 0, 0, 0] = 1.5  # beyond the clip: no gradient
    x = torch.randn(2, layer.weight.shape[1], 5, 5)
    layer.scaled_dot(x).square().sum().backward()
    # The effective weight is scale * sign(w); its gradient by torch, without any binarizer of ours.
    scale = layer.weight.detach().abs().mean(dim=(1, 2, 3), keepdim=True)
    effective = (scale * torch.where(layer.weight.detach() >= 0, 1.0, -1.0)).requires_grad_()
    signs = torch.where(x >= 0, 1.0, -1.0)
    torch.nn.functional.conv2d(signs, effective, stride=layer.stride, padding=1).square().sum().backward()
    inside = (layer.weight.detach().abs() <= 1).float()
    wanted = effective.grad * inside * (scale if gradient == "paper" else 1.0)
    assert torch.allclose(layer.weight.grad, wanted, rtol=1e-4, atol=1e-5)
