"""Published BNext files, written here by name and shape, and their arithmetic in plain float64."""

import hashlib
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from bnn_lightning.binarizers import binarizer_factory
from bnn_lightning.layers import is_binary
from bnn_lightning.models import create_backbone, load_published

TINY = [32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2]
# A narrow network of all kinds of units: blocks 1 to 4, the second, third and fourth twice as wide.
NARROW = [8, 16, 32, 32, 64]
THRESHOLD = {"bnext_tiny": 1e-7, "bnext18": 1e-5}
TEMPERATURES = [1.0, 0.1, 1e-3, 3e-5, 2e-7, 1e-9]


class File:
    """The tensors of a checkpoint, in the order of the published code."""

    def __init__(self, seed=0, temperature=1.0):
        self.generator = torch.Generator().manual_seed(seed)
        self.temperature = temperature
        self.tensors = {}

    def draw(self, *shape, scale=1.0):
        return scale * torch.randn(*shape, generator=self.generator)

    def add(self, name, tensor):
        self.tensors[name] = tensor

    def norm(self, name, channels):
        uniform = [torch.rand(channels, generator=self.generator) for _ in range(2)]
        self.add(f"{name}.weight", uniform[0] + 0.5)
        self.add(f"{name}.bias", self.draw(channels, scale=0.3))
        self.add(f"{name}.running_mean", self.draw(channels, scale=0.1))
        self.add(f"{name}.running_var", uniform[1] + 0.5)
        self.add(f"{name}.num_batches_tracked", torch.tensor(1000))

    def unit(self, name, before, after, kernel_size, downsample=False):
        self.add(f"{name}.scale", torch.rand(1, after, 1, 1, generator=self.generator))
        self.add(f"{name}.move.bias", self.draw(1, before, 1, 1, scale=0.3))
        self.add(f"{name}.binary_activation.temperature", torch.full((1,), self.temperature))
        weight = self.draw(after, before, kernel_size, kernel_size, scale=1e-3)
        weight.view(-1)[:3] = torch.tensor([1.5, -1.5, 0.7])
        self.add(f"{name}.binary_conv.weight", weight)
        self.add(f"{name}.binary_conv.temperature", torch.full((1,), self.temperature))
        self.norm(f"{name}.norm1", after)
        self.norm(f"{name}.norm2", after)
        self.add(f"{name}.activation1.weight", self.draw(before, scale=0.3))
        self.add(f"{name}.activation2.weight", self.draw(after, scale=0.3))
        if downsample:
            self.add(f"{name}.downsample.1.weight", self.draw(after, before, 1, 1, scale=0.3))
            self.norm(f"{name}.downsample.2", after)
        hidden = after // 8
        self.add(f"{name}.se.se.1.weight", self.draw(hidden, after, 1, 1))
        self.add(f"{name}.se.se.1.bias", self.draw(hidden))
        self.add(f"{name}.se.se.3.weight", self.draw(after, hidden, 1, 1))
        self.add(f"{name}.se.se.3.bias", self.draw(after))

    def head(self, channels, classes):
        self.add("prelu.weight", self.draw(channels, scale=0.3))
        self.add("fc.weight", self.draw(classes, channels))
        self.add("fc.bias", self.draw(classes))
        return self.tensors


def tiny_file(widths, classes, **options):
    file = File(**options)
    file.add("feature.0.conv1.weight", file.draw(widths[0], 3, 3, 3))
    file.norm("feature.0.bn1", widths[0])
    file.add("feature.0.prelu.weight", torch.full((widths[0],), 32.0))
    for number, (before, after) in enumerate(pairwise(widths), start=1):
        file.unit(f"feature.{number}.Attention", before, before, 3)
        for name in ("FFN",) if after == before else ("FFN_1", "FFN_2"):
            file.unit(f"feature.{number}.{name}", before, before, 1)
    return file.head(widths[-1], classes)


def file_18(width, classes, kernel_size, **options):
    file = File(**options)
    file.add("conv1.weight", file.draw(width, 3, kernel_size, kernel_size))
    file.norm("bn1", width)
    before = width
    for stage in range(4):
        for block in range(2):
            after = width * 2**stage
            file.unit(f"layer{stage}.{block}.Attention", before, after, 3, downsample=before != after)
            file.unit(f"layer{stage}.{block}.FFN", after, after, 3)
            before = after
    return file.head(before, classes)


class Plain:
    """A network of the specification on published names, in the precision of its tensors."""

    def __init__(self, tensors, threshold, training=False):
        self.state, self.threshold, self.training = tensors, threshold, training
        self.units = []  # name, input and output of each

    def sign(self, x):
        hard = torch.where(x >= 0, torch.ones_like(x), -torch.ones_like(x))
        soft = x.clamp(-1.5, 1.5)
        return soft + (hard - soft).detach()

    def weight(self, name):
        w, t = self.state[f"{name}.weight"], float(self.state[f"{name}.temperature"])
        hard = (w / t).clamp(-1, 1) if t > self.threshold else torch.where(w >= 0, 1.0, -1.0).to(w.dtype)
        return w + (hard - w).detach()

    def norm(self, name, x):
        running = [self.state[f"{name}.running_{kind}"].clone() for kind in ("mean", "var")]
        return F.batch_norm(x, *running, self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.training)

    def prelu(self, name, x):
        slope = self.state[f"{name}.weight"].view(-1, 1, 1)
        return torch.where(x >= 0, x, slope * x)

    def gate(self, name, m):
        mean = m.mean(3).mean(2)
        s = self.state
        hidden = mean @ s[f"{name}.1.weight"].flatten(1).T + s[f"{name}.1.bias"]
        out = hidden.clamp(min=0) @ s[f"{name}.3.weight"].flatten(1).T + s[f"{name}.3.bias"]
        return torch.sigmoid(out)[:, :, None, None]

    def processed(self, name, x, stride, blended):
        conv = self.weight(f"{name}.binary_conv")
        signs = self.sign(x + self.state[f"{name}.move.bias"])
        b = self.norm(f"{name}.norm1", F.conv2d(signs, conv, None, stride, conv.shape[-1] // 2))
        u = self.prelu(f"{name}.activation2", b)
        beta = self.state[f"{name}.scale"]
        return u * self.gate(f"{name}.se.se", beta * blended + (1 - beta) * u)

    def unit(self, name, x, stride, multiply, blend_shortcut=False):
        def pool(y):
            return F.avg_pool2d(y, 2) if stride == 2 else y

        r = pool(self.prelu(f"{name}.activation1", x)) if multiply else pool(x)
        if f"{name}.downsample.1.weight" in self.state:
            r = self.norm(f"{name}.downsample.2", F.conv2d(r, self.state[f"{name}.downsample.1.weight"]))
        v = self.processed(name, x, stride, r if blend_shortcut else pool(x))
        y = self.norm(f"{name}.norm2", v * r if multiply else v) + r
        self.units.append((name, x, y))
        return y

    def head(self, x):
        x = self.prelu("prelu", x).mean(3).mean(2)
        return x @ self.state["fc.weight"].T + self.state["fc.bias"]

    def bnext_tiny(self, x, stem_stride):
        x = self.norm("feature.0.bn1", F.conv2d(x, self.state["feature.0.conv1.weight"], None, stem_stride, 1))
        number = 1
        while f"feature.{number}.Attention.scale" in self.state:
            name = f"feature.{number}"
            doubled = f"{name}.FFN_1.scale" in self.state
            x = self.unit(f"{name}.Attention", x, 2 if doubled and number > 1 else 1, number % 2 == 0)
            parts = ("FFN_1", "FFN_2") if doubled else ("FFN",)
            x = torch.cat([self.unit(f"{name}.{part}", x, 1, False) for part in parts], 1)
            number += 1
        return self.head(x)

    def bnext18(self, x, stem_stride):
        weight = self.state["conv1.weight"]
        x = self.norm("bn1", F.conv2d(x, weight, None, stem_stride, weight.shape[-1] // 2))
        x = F.max_pool2d(x, 3, 2, 1) if weight.shape[-1] == 7 else x
        for stage in range(4):
            for block in range(2):
                stride = 2 if stage > 0 and block == 0 else 1
                x = self.unit(f"layer{stage}.{block}.Attention", x, stride, True, blend_shortcut=True)
                x = self.unit(f"layer{stage}.{block}.FFN", x, 1, False, blend_shortcut=True)
        return self.head(x)


def save(path, tensors, **more):
    state = {f"module.{name}": tensor for name, tensor in tensors.items()}
    torch.save({"state_dict": state, **more} if more else state, path)
    return path


def narrow(name, stem, temperature=1.0, seed=0):
    """A network, its file and the stride of its stem; the images that are drawn next are the same in every run."""
    torch.manual_seed(seed)
    size = {"cifar": 16, "imagenet": 64}[stem]
    if name == "bnext_tiny":
        tensors = tiny_file(NARROW, 5, seed=seed, temperature=temperature)
        options = {"width": 8, "depths": (2, 1)}
    else:
        tensors = file_18(8, 5, 7 if stem == "imagenet" else 3, seed=seed, temperature=temperature)
        options = {"width": 8}
    network = create_backbone(name, num_classes=5, image_size=size, stem=stem, **options)
    return network, tensors, 2 if stem == "imagenet" else 1


def double(tensors):
    return {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("tensors", "number", "digest"),
    [
        (lambda: tiny_file(TINY, 1000), 661, "bc57a043272dfa2081fe3ac48c06c45792eea5e14689a2e5b78c48dd7984c075"),
        (lambda: file_18(64, 1000, 7), 363, "8e0dae2e4673228063d58f9d07951bf01702eef57b8a3803ba0aceb2819b1f59"),
    ],
)
def test_files_have_the_published_names_and_shapes(tensors, number, digest):
    """Name, tab and shape of every tensor, in order, by their SHA-256."""
    lines = [f"{name}\t{tuple(tensor.shape)}" for name, tensor in tensors().items()]
    assert len(lines) == number
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == digest


@pytest.mark.parametrize(("name", "nested"), [("bnext_tiny", False), ("bnext18", True)])
def test_every_tensor_of_a_full_file_is_consumed(tmp_path, name, nested):
    tensors = (
        tiny_file(TINY, 1000, temperature=1e-9) if name == "bnext_tiny" else file_18(64, 1000, 7, temperature=1e-9)
    )
    more = {"epoch": 511, "best_top1_acc": 72.4, "optimizer": {}} if nested else {}
    network = create_backbone(name, num_classes=1000, image_size=224)
    report = load_published(network, save(tmp_path / "net.pth.tar", tensors, **more))
    assert len(report.loaded) + len(report.dead) == len(tensors)
    assert not report.kept
    assert is_binary(network)
    dead = {name.rpartition(".")[0].rpartition(".")[2] for name in report.dead}
    assert dead == {"binary_activation", "activation1"} | ({"prelu"} if name == "bnext_tiny" else set())
    slopes = sum(tensors[name].numel() for name in report.dead if "temperature" not in name)
    assert slopes == {"bnext_tiny": 8_960, "bnext18": 1_920}[name]
    if nested:
        assert (report.epoch, report.accuracy, report.ignored) == (511, 72.4, ("optimizer",))


@pytest.mark.parametrize("name", ["bnext_tiny", "bnext18"])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_logits_are_those_of_the_specification(tmp_path, name, temperature, stem):
    network, tensors, stride = narrow(name, stem, temperature)
    load_published(network, save(tmp_path / "a.pth", tensors))
    assert is_binary(network) == (temperature < THRESHOLD[name])
    images = torch.randn(3, 3, network.image_size, network.image_size, dtype=torch.float64)
    with torch.no_grad():
        expected = getattr(Plain(double(tensors), THRESHOLD[name]), name)(images, stride)
        logits = network.double().eval()(images)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", ["bnext_tiny", "bnext18"])
@pytest.mark.parametrize("temperature", [1.0, 1e-3, 1e-9])
def test_units_in_single_precision(tmp_path, name, temperature):
    """Each on its own: of two, a rounded sum next to zero may turn a sign of the second."""
    network, tensors, stride = narrow(name, "cifar", temperature)
    load_published(network, save(tmp_path / "a.pth", tensors))
    plain = Plain(double(tensors), THRESHOLD[name])
    with torch.no_grad():
        getattr(plain, name)(torch.randn(3, 3, 16, 16, dtype=torch.float64), stride)
        taps = network.eval().feature_taps()
        assert len(taps) == len(plain.units)
        for tap, (published, x, _) in zip(taps, plain.units, strict=True):
            single = x.float()
            again = Plain(plain.state, THRESHOLD[name])
            first = "Attention" in published
            if name == "bnext18":
                stride, multiply = 2 if f"{published}.downsample.1.weight" in tensors else 1, first
            else:
                number = int(published.split(".")[1])
                doubled = f"feature.{number}.FFN_1.scale" in tensors
                stride, multiply = 2 if first and doubled and number > 1 else 1, first and number % 2 == 0
            expected = again.unit(published, single.double(), stride, multiply, blend_shortcut=name == "bnext18")
            ours = network.get_submodule(tap)(single)
            torch.testing.assert_close(
                ours.double(), expected, rtol=0, atol=1e-5 * expected.abs().max().item(), msg=tap
            )


@pytest.mark.parametrize("name", ["bnext_tiny", "bnext18"])
@pytest.mark.parametrize("temperature", [1e-3, 1e-9])
def test_gradients_are_those_of_the_specification(tmp_path, name, temperature):
    network, tensors, stride = narrow(name, "cifar", temperature, seed=1)
    report = load_published(network, save(tmp_path / "a.pth", tensors))
    network.double().train()
    images, target = torch.randn(6, 3, 16, 16, dtype=torch.float64), torch.arange(6) % 5
    state = double(tensors)
    for key, tensor in state.items():
        if tensor.is_floating_point() and "running" not in key and "temperature" not in key:
            tensor.requires_grad_()
    F.cross_entropy(getattr(Plain(state, THRESHOLD[name], training=True), name)(images, stride), target).backward()
    F.cross_entropy(network(images), target).backward()
    learned = {key: tensor for key, tensor in state.items() if tensor.requires_grad and key not in report.dead}
    parameters = list(network.parameters())
    assert len(learned) == len(parameters)
    for key, tensor in learned.items():  # random numbers: each tensor is found by its values
        (own,) = [p for p in parameters if p.numel() == tensor.numel() and torch.equal(p.flatten(), tensor.flatten())]
        torch.testing.assert_close(own.grad, tensor.grad.reshape(own.shape), rtol=1e-6, atol=1e-10, msg=key)
    assert all(state[key].grad is None for key in report.dead)


def refused(network, path, *messages):
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        load_published(network, path)
    assert all(message in str(caught.value) for message in messages), caught.value
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_files_that_do_not_fit_name_what_differs_and_what_fits(tmp_path):
    network, tensors, _ = narrow("bnext_tiny", "cifar")
    full = save(tmp_path / "full.pth", tiny_file([4 * w for w in (2, 4, 8, 8, 16, 16, *[32] * 6, 64, 64)], 7))
    refused(network, full, "Unknown to the network: feature.5.Attention.scale", "The file fits `bnext_", "width=8")
    missing = {key: value for key, value in tensors.items() if key != "feature.2.Attention.move.bias"}
    path = save(tmp_path / "missing.pth", missing)
    refused(network, path, "Missing in the file: blocks.1.spatial.conv.conv.input_binarizer.bias.")
    refused(create_backbone("bnext18", num_classes=5, image_size=32), full, "does not fit this BNext18")
    tensors["fc.bias"][0] = float("nan")
    refused(network, save(tmp_path / "nan.pth", tensors), "is damaged: linear.bias hold values that are not finite")


def test_a_file_without_temperatures_is_not_binary_and_one_of_published_scalars_is_of_no_rank(tmp_path):
    network, tensors, _ = narrow("bnext_tiny", "cifar", 1e-9)
    without = {key: value for key, value in tensors.items() if "temperature" not in key}
    report = load_published(network, save(tmp_path / "a.pth", without))
    assert all(key.endswith((".temperature", ".num_batches_tracked")) for key in report.kept)
    assert not is_binary(network)
    load_published(network, save(tmp_path / "b.pth", tensors))
    assert is_binary(network)
    assert network.blocks[0].spatial.conv.conv.weight_binarizer.temperature.shape == ()


def test_other_binarizers_leave_the_temperature_out(tmp_path):
    tensors = narrow("bnext_tiny", "cifar")[1]
    options = {"width": 8, "depths": (2, 1), "weight_binarizer": binarizer_factory("WeightSign")}
    network = create_backbone("bnext_tiny", num_classes=5, image_size=16, **options)
    report = load_published(network, save(tmp_path / "a.pth", tensors))
    assert (
        report.dead["feature.1.FFN_1.binary_conv.temperature"] == "this network's weight binarizer has no temperature"
    )
    assert is_binary(network)
