"""A whole step of SelfKD against a plain transcription of the published method, in float64: losses and gradients.

The transcription is written from the specification with loops and torch's plain operations: pairs of activations
through every layer, batch norm spelt out, a bank filled sample by sample. It differs from the publication where the
project does: sign(0) = +1, and `eps` in the standardized weights.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import AnnealedBinarizer
from bnn_lightning.distill import Batch, Outputs, SelfKD
from bnn_lightning.models import create_backbone

SHARPNESS = 0.3
CLASSES = 4
Pair = tuple[Tensor, Tensor]
Parameters = dict[str, Tensor]


def plus_minus(x: Tensor) -> Tensor:
    return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)


def ede(x: Tensor) -> Tensor:
    k = max(1 / SHARPNESS, 1.0)
    smooth = k * torch.tanh(SHARPNESS * x)
    return plus_minus(x).detach() + smooth - smooth.detach()


def identity(x: Tensor) -> Tensor:
    return plus_minus(x).detach() + x - x.detach()


def norm(x: Tensor, p: Parameters, name: str) -> Tensor:
    dims = [d for d in range(x.ndim) if d != 1]
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean, var = x.mean(dims, keepdim=True), x.var(dims, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-5) * p[f"{name}.weight"].view(shape) + p[f"{name}.bias"].view(shape)


def conv_pair(pair: Pair, weight: Tensor, stride: int) -> Pair:
    x, teacher = pair
    flat = weight.flatten(1)
    centered = flat - flat.mean(1, keepdim=True)
    latent = (centered / torch.sqrt(centered.var(1, keepdim=True) + 1e-8)).view_as(weight)
    scale = 2 ** torch.round(torch.log2(latent.detach().abs().flatten(1).mean(1)))
    y = F.conv2d(ede(x), ede(latent) * scale.view(-1, 1, 1, 1), stride=stride, padding=1)
    with torch.no_grad():
        swapped = y.abs() * plus_minus(F.conv2d(teacher, latent, stride=stride, padding=1))
    return y, swapped


def resnet20(p: Parameters, images: Tensor) -> tuple[Tensor, Tensor, list[Pair]]:
    x = norm(F.conv2d(images, p["conv1.weight"], padding=1), p, "bn1").clamp(-1, 1)
    pair, features = (x, x.detach()), []
    for stage in (1, 2, 3):
        for block in range(3):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            for half in (1, 2):
                y = conv_pair(pair, p[f"{name}.conv{half}.weight"], stride if half == 1 else 1)
                out = []
                for activation, skip in zip(y, pair, strict=True):
                    if half == 1 and stride == 2:
                        pad = skip.shape[1] // 2
                        skip = F.pad(skip[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad))
                    out.append((norm(activation, p, f"{name}.bn{half}") + skip).clamp(-1, 1))
                pair = (out[0], out[1].detach())
                features.append(pair)
    penultimate = norm(pair[0].mean((2, 3)), p, "bn2")
    return penultimate @ p["linear.weight"].T + p["linear.bias"], penultimate, features


def mlp(p: Parameters, images: Tensor) -> tuple[Tensor, Tensor, list[Pair]]:
    x = images.flatten(1)
    teacher, features = x, []
    for layer in (1, 2, 3):
        weight, bias = p[f"fc{layer}.weight"], p[f"fc{layer}.bias"]
        y = (x if layer == 1 else identity(x)) @ identity(weight).T
        with torch.no_grad():
            swapped = y.abs() * plus_minus(teacher @ weight.T)
            teacher = norm(swapped + bias, p, f"bn{layer}").clamp(-1, 1)
        x = norm(y + bias, p, f"bn{layer}").clamp(-1, 1)
        features.append((x, teacher))
    return x @ p["fc4.weight"].T + p["fc4.bias"], x, features


def feature_loss(features: list[Pair]) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for student, teacher in features:
        size = student.shape[0]
        if student.ndim == 2:
            total = total + 2 * torch.sqrt(((student - teacher) ** 2).sum()) / (student.shape[1] * size)
            continue
        for mean in (lambda f: f.mean((2, 3)), lambda f: f.mean(1).flatten(1)):
            a, b = mean(student), mean(teacher)
            a = a / torch.sqrt((a.detach() ** 2).sum(1, keepdim=True))
            b = b / torch.sqrt((b**2).sum(1, keepdim=True))
            total = total + torch.sqrt(((a - b) ** 2).sum()) / a.shape[1] / size
    return total / len(features)


def label_loss(logits: Tensor, labels: Tensor, bank: dict[int, list[float]], temperature: float) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for z, label in zip(logits, labels.tolist(), strict=True):
        if label in bank:
            target = torch.softmax(torch.tensor(bank[label], dtype=torch.float64) / temperature, 0)
            total = total + (target * (target.log() - torch.log_softmax(z / temperature, 0))).sum()
    return total * temperature**2 / len(labels)


def cluster_loss(features: Tensor, labels: Tensor) -> Tensor:
    total = torch.zeros((), dtype=torch.float64)
    for f, label in zip(features, labels, strict=True):
        mean = features[labels == label].mean(0).detach()
        total = total + (1 - torch.dot(f, mean) / torch.linalg.norm(f) / torch.linalg.norm(mean)) / 2
    return total / len(labels)


def fill_bank(logits: Tensor, labels: Tensor) -> dict[int, list[float]]:
    rows: dict[int, list[list[float]]] = {}
    for z, label in zip(logits.tolist(), labels.tolist(), strict=True):
        if z.index(max(z)) == label:
            rows.setdefault(label, []).append(z)
    return {label: [sum(column) / len(r) for column in zip(*r, strict=True)] for label, r in rows.items()}


def random_backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    options = {"width": 24, "dropout": 0.0} if name == "mlp" else {"width": 4}
    backbone = create_backbone(name, num_classes=CLASSES, in_channels=2, image_size=8, **options).double()
    for module in backbone.modules():
        if isinstance(module, AnnealedBinarizer):
            module.get_buffer("t").fill_(SHARPNESS)
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return backbone


@pytest.mark.parametrize(
    "name, transcription, cluster_on", [("resnet20", resnet20, "penultimate"), ("mlp", mlp, "logits")]
)
def test_two_epochs_of_one_step(name: str, transcription, cluster_on: str) -> None:
    backbone = random_backbone(name)
    distiller = SelfKD(
        CLASSES, alpha=1.0, beta=0.05, temperature=4.0, gamma=0.01, cluster_on=cluster_on, normalization="reference"
    ).double()
    bank: dict[int, list[float]] = {}
    for _ in range(2):
        images = torch.rand(24, 2, 8, 8, dtype=torch.float64)
        labels = torch.arange(24) % CLASSES
        p = {n: v.detach().clone().requires_grad_() for n, v in backbone.named_parameters()}
        logits, penultimate, features = transcription(p, images)
        expected = {
            "hard": F.cross_entropy(logits, labels),
            "feature": feature_loss(features),
            "label": label_loss(logits, labels, bank, 4.0),
            "cluster": cluster_loss(logits if cluster_on == "logits" else penultimate, labels),
        }
        weights = {"hard": 1.0, "feature": 1.0, "label": 0.05, "cluster": 0.01}

        backbone.zero_grad()
        with distiller.watch(backbone) as taps:
            out = backbone(images)
        losses = distiller(Batch(images, labels), Outputs(out, taps.features, taps))
        assert losses.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(losses[key], value, rtol=1e-9, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")

        for key in expected:  # each term by itself: the sum would hide the small ones
            if not losses[key].requires_grad or (key == "label" and not bank):
                continue
            ours = torch.autograd.grad(losses[key], list(backbone.parameters()), retain_graph=True, allow_unused=True)
            plain = torch.autograd.grad(expected[key], list(p.values()), retain_graph=True, allow_unused=True)
            for parameter, a, b in zip(p, ours, plain, strict=True):
                a, b = (torch.zeros(()) if g is None else g for g in (a, b))
                torch.testing.assert_close(
                    a, b, rtol=1e-7, atol=1e-11, msg=lambda m, k=key, n=parameter: f"{k}, {n}: {m}"
                )
        total = sum(weights[key] * value for key, value in expected.items())
        torch.testing.assert_close(distiller.total(losses), total, rtol=1e-9, atol=1e-12)

        bank = fill_bank(logits.detach(), labels)
        assert bank, "no prediction was correct: the label loss goes untested"
        distiller.end_epoch()
