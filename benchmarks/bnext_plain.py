"""BNext's training step as the released code is described, written plainly: what ours is measured against.

Every forward clamps weights and blends in place, asks the host for the temperature, builds its estimators from detached
differences, and blends whole feature maps where only their averages are used. Nothing here is from our layers: the
network that is given serves as a container of parameters, batch norms and real convolutions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.models.bnext import BNext, BNextBlock
from bnn_lightning.models.bnext_units import BNextConv, BNextUnit


def plain_activation(x: Tensor, temperature: Tensor) -> Tensor:
    """Sign, with the gradient of a clip to [-1.5, 1.5]."""
    surrogate = torch.clamp(x, -1.5, 1.5)
    signs = torch.sign(torch.clamp(x / temperature.clamp(min=1e-8), -1, 1))
    return (signs - surrogate).detach() + surrogate


def plain_weight(weight: nn.Parameter, temperature: Tensor) -> Tensor:
    """Ramp of slope 1 / T, sign at the end; identity as gradient."""
    weight.data.clamp_(-1.5, 1.5)
    if temperature < 1e-7:
        binary = torch.sign(weight)
    else:
        binary = torch.clamp(weight / temperature.clamp(min=1e-8), -1, 1)
    return (binary - weight).detach() + weight


class PlainBNext(nn.Module):
    """One of our BNexts (Tiny to Large, with all its parts), run plainly."""

    def __init__(self, network: BNext) -> None:
        super().__init__()
        self.network = network

    def convolution(self, module: BNextConv, x: Tensor, pooled: Tensor) -> Tensor:
        conv, mix, gate = module.conv, module.mix, module.gate
        temperature = conv.weight_binarizer.temperature
        signs = plain_activation(x + conv.input_binarizer.bias.view(1, -1, 1, 1), temperature)
        u = F.conv2d(signs, plain_weight(conv.weight, temperature), None, conv.stride, conv.padding)
        u = F.prelu(module.norm(u), module.act.weight)
        mix.scale.data.clamp_(0, 1)
        scale = mix.scale.view(1, -1, 1, 1)
        squeezed = F.adaptive_avg_pool2d(pooled * scale + u * (1 - scale), 1)
        return u * torch.sigmoid(gate.excite(F.relu(gate.squeeze(squeezed))))

    def unit(self, unit: BNextUnit, x: Tensor) -> Tensor:
        pooled = F.avg_pool2d(x, 2) if unit.conv.conv.stride == (2, 2) else x
        v = self.convolution(unit.conv, x, pooled)
        if unit.act is None:
            return unit.norm(v) + pooled
        residual = F.prelu(x, unit.act.weight)
        residual = F.avg_pool2d(residual, 2) if unit.conv.conv.stride == (2, 2) else residual
        return unit.norm(v * residual) + residual

    def block(self, block: BNextBlock, x: Tensor) -> Tensor:
        x = self.unit(block.spatial, x)
        if len(block.pointwise) == 1:
            return self.unit(block.pointwise[0], x)
        return torch.cat([self.unit(unit, x) for unit in block.pointwise], 1)

    def forward(self, images: Tensor) -> Tensor:
        net = self.network
        x = net.bn1(net.conv1(net.normalize(images)))
        for block in net.blocks:
            x = self.block(block, x)
        return net.linear(F.adaptive_avg_pool2d(F.prelu(x, net.act.weight), 1).flatten(1))
