"""ReActNet's published files, written here tensor by tensor in their format, give the logits of a plain network."""

import re

import pytest
import torch
import torch.nn.functional as F

from bnn_lightning.models import create_backbone, load_published
from tests.models.plain_units import Plain

WIDTHS_A = (1, 2, 4, 4, 8, 8, 16, 16, 16, 16, 16, 16, 32, 32)


def norm(name, channels):
    return {
        f"{name}.weight": torch.rand(channels) + 0.5,
        f"{name}.bias": torch.rand(channels) - 0.5,
        f"{name}.running_mean": torch.randn(channels),
        f"{name}.running_var": torch.rand(channels) + 0.5,
        f"{name}.num_batches_tracked": torch.tensor(7),
    }


def bias(name, channels):
    return {f"{name}.bias": 0.3 * torch.randn(1, channels, 1, 1)}


def latent(*shape):
    """Without exact zeros (two in ten million are drawn), which torch.sign takes to 0 and our sign to +1."""
    drawn = 0.01 * torch.randn(*shape)
    return torch.where(drawn == 0, 0.01, drawn)


def column(name, out, channels, kernel):
    return {f"{name}.weights": latent(out * channels * kernel * kernel, 1)}


def prelu(name, channels):
    return {f"{name}.weight": torch.rand(channels)}


def reactnet_a_tensors(width, classes):
    """Names, shapes and order of the published table (298 tensors)."""
    tensors = {"feature.0.conv1.weight": torch.randn(width, 3, 3, 3), **norm("feature.0.bn1", width)}
    for index in range(1, 14):
        a, b = width * WIDTHS_A[index - 1], width * WIDTHS_A[index]
        f = f"feature.{index}."
        tensors |= bias(f"{f}move11", a) | column(f"{f}binary_3x3", a, a, 3) | norm(f"{f}bn1", a)
        tensors |= bias(f"{f}move12", a) | prelu(f"{f}prelu1", a) | bias(f"{f}move13", a) | bias(f"{f}move21", a)
        if a == b:
            tensors |= column(f"{f}binary_pw", a, a, 1) | norm(f"{f}bn2", a)
        else:
            tensors |= column(f"{f}binary_pw_down1", a, a, 1) | column(f"{f}binary_pw_down2", a, a, 1)
            tensors |= norm(f"{f}bn2_1", a) | norm(f"{f}bn2_2", a)
        tensors |= bias(f"{f}move22", b) | prelu(f"{f}prelu2", b) | bias(f"{f}move23", b)
    return tensors | {"fc.weight": torch.randn(classes, 32 * width), "fc.bias": torch.randn(classes)}


def reactnet_18_tensors(width, classes):
    """Names, shapes and order of the published table (186 tensors)."""
    tensors = {"conv1.weight": torch.randn(width, 3, 7, 7), **norm("bn1", width)}
    before = width
    for stage in range(4):
        for index in range(4):
            f, after = f"layer{stage + 1}.{index}.", width << stage
            tensors |= bias(f"{f}move0", before)
            tensors[f"{f}binary_conv.weight"] = latent(after, before, 3, 3)
            tensors |= norm(f"{f}bn1", after) | bias(f"{f}move1", after) | prelu(f"{f}prelu", after)
            tensors |= bias(f"{f}move2", after)
            if before != after:
                tensors[f"{f}downsample.1.weight"] = torch.randn(after, before, 1, 1)
                tensors |= norm(f"{f}downsample.2", after)
            before = after
    return tensors | {"fc.weight": torch.randn(classes, before), "fc.bias": torch.randn(classes)}


class Published(Plain):
    """ReActNet on the published names, with torch.sign: sign(0) = 0, where ours is +1."""

    def __init__(self, tensors):
        super().__init__({key: value.double() for key, value in tensors.items()}, sign=torch.sign)

    def binary(self, key, x, stride=1, kernel=3):
        flat = self.state[key]
        weight = flat.reshape(-1, x.shape[1], kernel, kernel)
        return F.conv2d(torch.sign(x), self.scaled(weight, "identity"), None, stride, kernel // 2)

    def behind(self, shift_in, slope, shift_out, y):
        return self.add(shift_out, self.prelu(slope, self.add(shift_in, y)))

    def reactnet_a(self, x):
        x = self.norm("feature.0.bn1", F.conv2d(x, self.state["feature.0.conv1.weight"], None, 2, 1))
        for index in range(1, 14):
            f = f"feature.{index}."
            wider = f"{f}bn2.weight" not in self.state
            stride = 2 if wider and index > 1 else 1
            y = self.norm(f"{f}bn1", self.binary(f"{f}binary_3x3.weights", self.add(f"{f}move11", x), stride))
            y = y + (F.avg_pool2d(x, 2, 2) if stride == 2 else x)
            y = self.behind(f"{f}move12", f"{f}prelu1", f"{f}move13", y)
            shifted = self.add(f"{f}move21", y)
            ends = [("_down1", "_1"), ("_down2", "_2")] if wider else [("", "")]
            z = [
                self.norm(f"{f}bn2{end}", self.binary(f"{f}binary_pw{way}.weights", shifted, kernel=1)) + y
                for way, end in ends
            ]
            x = self.behind(f"{f}move22", f"{f}prelu2", f"{f}move23", torch.cat(z, 1))
        return self.head(x)

    def reactnet18(self, x):
        x = self.norm("bn1", F.conv2d(x, self.state["conv1.weight"], None, 2, 3))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage in range(4):
            for index in range(4):
                f, stride = f"layer{stage + 1}.{index}.", 2 if stage and not index else 1
                y = self.norm(f"{f}bn1", self.binary(f"{f}binary_conv.weight", self.add(f"{f}move0", x), stride))
                y = y + self.skip(f"{f}downsample", x, stride)
                x = self.behind(f"{f}move1", f"{f}prelu", f"{f}move2", y)
        return self.head(x)

    def head(self, x):
        return x.mean((2, 3)) @ self.state["fc.weight"].T + self.state["fc.bias"]


FILES = {"reactnet_a": (reactnet_a_tensors, 298, 29_343_592), "reactnet18": (reactnet_18_tensors, 186, 11_704_424)}


def write(path, tensors, **more):
    content = {"epoch": 255, "state_dict": {f"module.{key}": value for key, value in tensors.items()}, **more}
    torch.save(content, path)
    return path


def made(name, width=8, classes=5):
    torch.manual_seed(3)
    return FILES[name][0](width, classes)


def built(name, **options):
    return create_backbone(name, **{"num_classes": 5, "image_size": 64, "width": 8, **options})


@pytest.mark.parametrize("name", FILES)
def test_files_written_here_have_the_published_tensors(name):
    make, count, parameters = FILES[name]
    with torch.device("meta"):
        tensors = make({"reactnet_a": 32, "reactnet18": 64}[name], 1000)
    assert len(tensors) == count
    learned = [value for key, value in tensors.items() if "running" not in key and "num_batches" not in key]
    assert sum(value.numel() for value in learned) == parameters


@pytest.mark.parametrize("name", FILES)
def test_logits_are_those_of_the_plain_network_and_every_tensor_is_used(name, tmp_path):
    tensors = made(name)
    network = built(name).double()
    path = write(tmp_path / "model_best.pth.tar", tensors, best_top1_acc=torch.tensor(65.9), optimizer={"state": {}})
    report = load_published(network, path)
    assert report.dead == {}
    assert report.kept == ()
    assert set(report.loaded) == set(network.state_dict())
    assert set(report.ignored) == {"optimizer"}
    assert report.accuracy == pytest.approx(65.9)
    total = sum(value.numel() for key, value in tensors.items() if "num_batches" not in key)
    assert total == sum(value.numel() for key, value in network.state_dict().items() if "num_batches" not in key)
    images = torch.rand(3, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        expected = getattr(Published(tensors), name)(images)
        torch.testing.assert_close(network.eval()(images), expected, rtol=1e-9, atol=1e-9)
    assert expected.std() > 0.1


@pytest.mark.parametrize("name", FILES)
def test_units_in_float32_given_the_same_input(name, tmp_path):
    # Deep in float32 a sum may be rounded across a threshold, and all behind it differs: so each unit by itself.
    tensors = made(name)
    network = built(name).eval()
    load_published(network, write(tmp_path / "a.pth.tar", tensors))
    double = built(name).double().eval()
    double.load_state_dict(network.state_dict())
    compared = []

    def compare(module, args, output):
        twin = double.get_submodule(names[module])
        expected = twin(args[0].double())
        torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-4)
        compared.append(module)

    names = {network.get_submodule(tap): tap for tap in network.feature_taps()}
    for module in names:
        module.register_forward_hook(compare)
    with torch.no_grad():
        network(torch.rand(2, 3, 64, 64))
    assert len(compared) == len(names)


def test_other_spellings_load(tmp_path):
    # Files of the first step, and of forks, call the tensor `weight` and keep its four dimensions.
    tensors = made("reactnet_a")
    other = {}
    for key, value in tensors.items():
        if key.endswith(".weights"):
            kernel = 3 if "3x3" in key else 1
            channels = round((value.numel() / kernel**2) ** 0.5)
            key, value = key.removesuffix("s"), value.reshape(channels, channels, kernel, kernel)
        other[key] = value
    one, two = built("reactnet_a"), built("reactnet_a", binary="activations")
    load_published(one, write(tmp_path / "a.pth.tar", tensors))
    load_published(two, write(tmp_path / "b.pth.tar", other))
    assert all(torch.equal(value, two.state_dict()[key]) for key, value in one.state_dict().items())


def test_what_does_not_fit_is_named(tmp_path):
    tensors = made("reactnet_a")
    path = write(tmp_path / "a.pth.tar", tensors)
    with pytest.raises(ValueError, match=r"The file fits `reactnet_a` with num_classes=5, .*width=8"):
        load_published(built("reactnet18"), path)
    with pytest.raises(
        ValueError, match=re.escape("Of another shape: linear.weight (file (5, 256), network (7, 256))")
    ):
        load_published(built("reactnet_a", num_classes=7), path)
    half = {key: value for key, value in tensors.items() if key != "feature.2.binary_pw_down2.weights"}
    with pytest.raises(ValueError, match=re.escape("Of another shape: blocks.1.pointwise.conv.weight (file (256, 1)")):
        load_published(built("reactnet_a"), write(tmp_path / "b.pth.tar", half))
    without = {key: value for key, value in tensors.items() if key != "feature.2.move11.bias"}
    with pytest.raises(ValueError, match=r"Missing in the file: blocks\.1\.spatial\.conv\.input_binarizer\.bias"):
        load_published(built("reactnet_a"), write(tmp_path / "c.pth.tar", without))
