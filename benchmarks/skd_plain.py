"""SKD-BNN's step as its publication describes it, written plainly: what ours is measured against.

Pairs of activations go through every layer in one forward; the teacher's half passes through deep copies, made anew in
every forward, of the student's batch norms and shortcuts; all features are returned, and the bank counts on the host.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models.blocks import DoubleSkipBlock, SingleSkipBlock
from bnn_lightning.models.resnet import ResNet

Pair = tuple[Tensor, Tensor]


class PlainSign(torch.autograd.Function):
    """torch.sign, with EDE's gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, k: Tensor, t: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.save_for_backward(x, k, t)
        return torch.sign(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[no-untyped-def]
        x, k, t = ctx.saved_tensors
        return k * t * (1 - torch.pow(torch.tanh(x * t), 2)) * grad, None, None


class PlainSKD(nn.Module):
    """One of our ResNets, run in pairs."""

    def __init__(self, network: ResNet, t: float = 0.1) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("t", torch.tensor(t))
        self.register_buffer("k", torch.tensor(max(1 / t, 1.0)))

    def conv(self, layer: BinaryConv2d, pair: Pair) -> Pair:
        x, teacher = pair
        weight = layer.weight
        flat = weight.flatten(1)
        centered = weight - flat.mean(-1).view(-1, 1, 1, 1)
        latent = centered / centered.flatten(1).std(-1).view(-1, 1, 1, 1)
        mean = latent.abs().flatten(1).mean(-1)
        scale = torch.pow(2, (torch.log(mean) / torch.log(torch.tensor(2.0))).round()).view(-1, 1, 1, 1).detach()
        binary = PlainSign.apply(latent, self.k, self.t) * scale
        y = F.conv2d(PlainSign.apply(x, self.k, self.t), binary, None, layer.stride, layer.padding)
        with torch.no_grad():
            product = F.conv2d(teacher, latent, None, layer.stride, layer.padding)
            swapped = torch.abs(y) * torch.sign(product)
        return y, swapped

    def both(self, module: nn.Module, pair: Pair) -> Pair:
        student = module(pair[0])
        with torch.no_grad():
            return student, copy.deepcopy(module)(pair[1])

    def block(self, block: DoubleSkipBlock, pair: Pair) -> list[Pair]:
        single = isinstance(block, SingleSkipBlock)
        out = self.both(block.bn1, self.conv(block.conv1, pair))
        if not single:
            out = tuple(a + b for a, b in zip(out, self.both(block.shortcut, pair), strict=True))
        first = tuple(F.hardtanh(a) for a in out)
        out = self.both(block.bn2, self.conv(block.conv2, first))
        skip = self.both(block.shortcut, pair) if single else first
        return [first, tuple(F.hardtanh(a + b) for a, b in zip(out, skip, strict=True))]

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, list[Pair]]:
        net, features = self.network, []
        x = F.hardtanh(net.bn1(net.conv1(images)))
        pair = (x, x.detach())
        for stage in net.stage_names:
            for block in getattr(net, stage):
                features += self.block(block, pair)
                pair = features[-1]
        penultimate = net.bn2(F.avg_pool2d(pair[0], pair[0].shape[3]).flatten(1))
        return net.linear(penultimate), penultimate, features


def plain_feature_loss(features: list[Pair]) -> Tensor:
    losses = []
    for student, teacher in features:
        size, channels, side = student.shape[:3]
        c, ct = (f.mean((2, 3)) for f in (student, teacher))
        p, pt = (f.mean(1).flatten(1) for f in (student, teacher))
        c, p = (v / torch.norm(v.detach(), dim=1, keepdim=True) for v in (c, p))
        ct, pt = (v / torch.norm(v, dim=1, keepdim=True) for v in (ct, pt))
        losses.append((torch.norm(c - ct) / channels + torch.norm(p - pt) / side**2) / size)
    return sum(losses) / len(losses)


def plain_cluster_loss(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    centers = torch.zeros(num_classes, features.shape[1], device=features.device)
    for label in labels.unique():
        centers[label] = features[labels == label].mean(0).detach()
    return ((1 - torch.cosine_similarity(features, centers[labels])) / 2).mean()


class PlainBank:
    """Sums sorted by label and counted on the host in every step."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        self.bank, self.sums = (torch.zeros(num_classes, num_classes, device=device) for _ in range(2))
        self.counts = torch.zeros(num_classes, 1, device=device)

    def update(self, logits: Tensor, labels: Tensor) -> None:
        correct = logits.argmax(1) == labels
        kept, order = torch.sort(labels[correct])
        logits = logits[correct][order]
        numbers = kept.cpu().tolist()
        start = 0
        for label in sorted(set(numbers)):
            count = numbers.count(label)
            self.sums[label] += logits[start : start + count].sum(0)
            self.counts[label] += count
            start += count


def plain_loss(network: PlainSKD, bank: PlainBank, images: Tensor, labels: Tensor) -> Tensor:
    logits, penultimate, features = network(images)
    target = torch.softmax(bank.bank[labels] / 4, 1)
    divergence = F.kl_div(torch.log_softmax(logits / 4, 1), target, reduction="batchmean") * 16
    loss = F.cross_entropy(logits, labels) + plain_feature_loss(features) + 0.05 * divergence
    loss = loss + 0.01 * plain_cluster_loss(penultimate, labels, bank.bank.shape[0])
    bank.update(logits.detach(), labels)
    return loss
