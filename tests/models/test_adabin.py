"""AdaBin's networks against a plain implementation in double precision, on files in the authors' names."""

import pytest
import torch
import torch.nn.functional as F

from bnn_lightning.binarizers import AdaBinInput, AdaBinWeights
from bnn_lightning.layers import binary_layers
from bnn_lightning.metrics.ops import count_ops
from bnn_lightning.models import create_backbone, load_published

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Stages: channels, blocks; whether shortcuts are convolutions.
NETWORKS = {"resnet20_adabin": ((16, 32, 64), 3, False), "resnet18_adabin": ((8, 16, 32, 64), 2, True)}


def norm(name, channels):
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": torch.rand(channels) - 0.5,
        f"{name}.running_mean": torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(156_000),
    }


def nonlinear(name, channels):
    return {
        f"{name}.neg_scale": 0.25 + 0.1 * torch.randn(channels),
        f"{name}.pos_scale": 1.0 + 0.1 * torch.randn(channels),
    }


def tensors_of(name):
    """The tensors of a published file, names and shapes from the specification; alpha and beta are single numbers."""
    widths, depth, convolutions = NETWORKS[name]
    tensors = {"conv1.weight": 0.2 * torch.randn(widths[0], 3, 3, 3), **norm("bn1", widths[0])}
    tensors |= nonlinear("nonlinear1", widths[0])
    before = widths[0]
    for stage, width in enumerate(widths, start=1):
        for block in range(depth):
            at = f"layer{stage}.{block}"
            for number, inputs in ((1, before), (2, width)):
                tensors[f"{at}.conv{number}.weight"] = 0.05 * torch.randn(width, inputs, 3, 3) + 0.01
                tensors[f"{at}.conv{number}.binary_a.alpha_a"] = 0.5 + torch.rand(())
                tensors[f"{at}.conv{number}.binary_a.beta_a"] = 0.2 * torch.randn(())
                tensors |= norm(f"{at}.bn{number}", width) | nonlinear(f"{at}.nonlinear{number}", width)
            if convolutions and before != width:
                tensors[f"{at}.shortcut.0.weight"] = 0.2 * torch.randn(width, before, 1, 1)
                tensors |= norm(f"{at}.shortcut.1", width)
            before = width
    tensors |= norm("bn2", widths[-1])
    return tensors | {"linear.weight": torch.randn(10, widths[-1]), "linear.bias": torch.randn(10)}


def plain(name, state, x):
    """Compute the logits as the authors write them: values multiplied with values."""
    widths, depth, _ = NETWORKS[name]

    def batch_norm(at, x):
        running = [state[f"{at}.running_{kind}"] for kind in ("mean", "var")]
        return F.batch_norm(x, *running, state[f"{at}.weight"], state[f"{at}.bias"])

    def act(at, x):
        scales = [state[f"{at}.{kind}_scale"].view(-1, 1, 1) for kind in ("pos", "neg")]
        return scales[0] * x.clamp(min=0) + scales[1] * x.clamp(max=0)

    def conv(at, x, stride):
        alpha, beta, weight = (state[f"{at}.{key}"] for key in ("binary_a.alpha_a", "binary_a.beta_a", "weight"))
        values = alpha * (torch.where((x - beta) / alpha >= 0, 1.0, -1.0).double() + beta)
        mean = weight.mean((1, 2, 3), keepdim=True)
        deviation = ((weight - mean) ** 2).mean((1, 2, 3), keepdim=True).sqrt()
        return F.conv2d(values, deviation * torch.where(weight >= mean, 1.0, -1.0) + mean, None, stride, 1)

    def shortcut(at, x, stride, channels):
        if f"{at}.0.weight" in state:
            return batch_norm(f"{at}.1", F.conv2d(x, state[f"{at}.0.weight"], None, stride))
        missing = channels - x.shape[1]
        return F.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, missing // 2, missing // 2))

    x = act("nonlinear1", batch_norm("bn1", F.conv2d(x, state["conv1.weight"], None, 1, 1)))
    for stage, width in enumerate(widths, start=1):
        for block in range(depth):
            at, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = batch_norm(f"{at}.bn1", conv(f"{at}.conv1", x, stride)) + shortcut(f"{at}.shortcut", x, stride, width)
            u = act(f"{at}.nonlinear1", y)
            x = act(f"{at}.nonlinear2", batch_norm(f"{at}.bn2", conv(f"{at}.conv2", u, 1)) + u)
    return batch_norm("bn2", x.mean((2, 3))) @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.parametrize("name", NETWORKS)
def test_published_files_give_the_logits_of_the_plain_network(name, tmp_path):
    torch.manual_seed(0)
    tensors = tensors_of(name)
    state = {f"module.{key}": tensor for key, tensor in tensors.items()}
    torch.save({"state_dict": state, "best_prec1": torch.tensor(88.1)}, tmp_path / "model.th")
    width = NETWORKS[name][0][0]
    network = create_backbone(name, num_classes=10, image_size=32, mean=MEAN, std=STD, width=width).double()
    report = load_published(network, tmp_path / "model.th")
    assert (round(report.accuracy, 1), report.dead, report.ignored) == (88.1, {}, ())
    assert len(report.loaded) == len(tensors)
    assert all(key.startswith("normalize.") or key.endswith(".t") for key in report.kept)
    images = torch.rand(3, 3, 32, 32, dtype=torch.float64)
    normalized = (images - network.normalize.mean) / network.normalize.std
    with torch.no_grad():
        expected = plain(name, {key: value.double() for key, value in tensors.items()}, normalized)
        torch.testing.assert_close(network.eval()(images), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    ("name", "layers", "parameters", "products"),
    [
        # Those of SKD-BNN's networks, with two slopes a channel of each activation and two numbers a binary layer.
        ("resnet20_adabin", 18, 269_850 + 2 * (16 + 6 * (16 + 32 + 64)) + 2 * 18, 40_108_032),
        ("resnet18_adabin", 16, 11_174_986 + 2 * (64 + 4 * 960) + 2 * 16, 547_356_672),
        ("vgg_small_adabin", 5, 4_660_106 + 2 * (2 * 128 + 2 * 256 + 2 * 512) + 2 * 5, 603_979_776),
    ],
)
def test_counts(name, layers, parameters, products):
    with torch.device("meta"):
        network = create_backbone(name, num_classes=10, image_size=32)
        count = count_ops(network, (3, 32, 32))
    found = binary_layers(network).values()
    assert len(found) == layers
    assert {(type(x.input_binarizer), type(x.weight_binarizer)) for x in found} == {(AdaBinInput, AdaBinWeights)}
    assert count.parameters == parameters
    # One more filter for each layer, which adds the signs of the input up.
    more = sum(row.binary_macs // (layer.out_channels + 1) for row, layer in pairs(count, network))
    assert count.binary_macs - more == products
    assert more < 0.06 * products


def pairs(count, network):
    rows = {row.name: row for row in count.layers}
    return [(rows[name], layer) for name, layer in binary_layers(network).items()]
