"""Inputs of packed networks: every mistake is one sentence, and bytes mean the same everywhere."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import (
    LoadedNetwork,
    PackedConv2d,
    PackedInfo,
    PackedLinear,
    PackedNetwork,
    load,
    pack,
    save,
)
from bnn_lightning.deploy.frontend import layers as modules
from bnn_lightning.deploy.frontend import torch_library as ops
from bnn_lightning.layers import BinaryConv2d, BinaryLinear
from bnn_lightning.models import create_backbone


@pytest.fixture(scope="module")
def packed() -> PackedNetwork:
    torch.manual_seed(0)
    return pack(create_backbone("resnet20", num_classes=10, image_size=16, width=4).eval())


@pytest.fixture
def loaded(packed: PackedNetwork, tmp_path: Path) -> LoadedNetwork:
    save(packed, tmp_path / "net.bnn", PackedInfo("resnet20", in_channels=3, image_size=16))
    return load(tmp_path / "net.bnn")


class Features(nn.Module):
    """A network of one's own, whose input is no image."""

    in_channels, image_size = 2, 4

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(2, 3, 3, bias=False, input_binarizer=SignSTE(), weight_binarizer=XNORScale())

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def test_bytes_mean_the_same_in_both(packed: PackedNetwork, loaded: LoadedNetwork) -> None:
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(packed(images), packed(images / 255))
        torch.testing.assert_close(packed(images), loaded(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("make", ["packed", "loaded"])
def test_floats_of_bytes_are_refused_at_the_first_call(make: str, request: pytest.FixtureRequest) -> None:
    network = request.getfixturevalue(make)
    network._range_is_known = False
    images = torch.rand(2, 3, 16, 16)
    for _ in range(2):  # until images are right
        with pytest.raises(ValueError, match=r"floating in \[0, 1\], got 25\d.*: divide by 255"):
            network(255 * (0.99 + 0.01 * images))
    network(1.4 * images)  # resizing overshoots
    network(255 * images)  # it is looked at once


def test_other_networks_take_what_they_take(tmp_path: Path) -> None:
    features = 100 * torch.randn(2, 2, 4, 4)
    packed = pack(Features().eval())
    with torch.no_grad():
        wanted = packed(features)
        save(packed, tmp_path / "net.bnn", PackedInfo("features", in_channels=2, image_size=4))
        torch.testing.assert_close(load(tmp_path / "net.bnn")(features), wanted)


@pytest.mark.parametrize("make", ["packed", "loaded"])
@pytest.mark.parametrize("of_images", [True, False])
def test_backward_names_the_trained_network(make: str, of_images: bool, request: pytest.FixtureRequest) -> None:
    network, images = request.getfixturevalue(make), torch.rand(2, 3, 16, 16, requires_grad=of_images)
    logits = network(images)
    if make == "loaded" and not of_images:
        assert not logits.requires_grad  # `logits.numpy()` works
        return
    torch.testing.assert_close(logits, network(images.detach()))
    with pytest.raises(RuntimeError, match="differentiate the trained network"):
        logits.sum().backward()


@pytest.mark.parametrize("make", ["packed", "loaded"])
def test_forward_mode_has_no_tangents_of_zeros(make: str, request: pytest.FixtureRequest) -> None:
    network, images = request.getfixturevalue(make), torch.rand(1, 3, 16, 16)
    with pytest.raises(RuntimeError, match="Packed layers have no gradients"):
        torch.func.jvp(network, (images,), (torch.ones_like(images),))


@pytest.mark.parametrize("make", ["packed", "loaded"])
@pytest.mark.parametrize("images", [[[0.5]], torch.rand(1, 3, 16, 16).numpy()], ids=["list", "array"])
def test_what_is_no_tensor(images: object, make: str, request: pytest.FixtureRequest) -> None:
    with pytest.raises(TypeError, match=type(images).__name__):
        request.getfixturevalue(make)(images)


@pytest.mark.parametrize(
    "layer, x",
    [
        (PackedConv2d(torch.ones(4, 2, 3, 3)), torch.randn(1, 2, 5, 5)),
        (PackedLinear(torch.ones(4, 6, 1, 1)), torch.randn(2, 6)),
    ],
)
def test_backward_through_a_layer(layer: nn.Module, x: Tensor) -> None:
    x.requires_grad_()
    with pytest.raises(RuntimeError, match="differentiate the trained network"):
        layer(x).sum().backward()
    with torch.no_grad():
        assert not layer(x).requires_grad


@pytest.mark.parametrize("kernel", ["own", "torch"])
def test_shapes_that_layers_do_not_take(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (modules, ops) if kernel == "torch" else ():
        monkeypatch.setattr(module, "current_kernel", lambda: None)
    conv = PackedConv2d(torch.ones(4, 2, 3, 3), stride=(2, 2), dilation=(2, 1), padding=(1, 1, 0, 0))
    assert conv(torch.ones(1, 2, 3, 3)).shape == (1, 4, 1, 1)
    for size in ((2, 3), (3, 2), (1, 1)):
        with pytest.raises(ValueError, match="are smaller than the kernel"):
            conv(torch.ones(1, 2, *size))
    for x in (torch.ones(2), torch.ones(()), torch.ones(1, 3, 4, 4)):
        with pytest.raises(ValueError, match="must have the shape"):
            conv(x)
    linear = PackedLinear(torch.ones(4, 6, 1, 1))
    for x in (torch.ones(()), torch.ones(5), torch.ones(2, 7)):
        with pytest.raises(ValueError, match=r"must have the shape \(\.\.\., 6\)"):
            linear(x)
    assert linear(torch.ones(6)).shape == (4,)
    assert linear(torch.ones(0, 6)).shape == (0, 4)
    assert linear(torch.ones(2, 0, 6)).shape == (2, 0, 4)


@pytest.mark.parametrize("kernel", ["own", "torch"])
def test_inputs_of_any_rank_and_no_images(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (modules, ops) if kernel == "torch" else ():
        monkeypatch.setattr(module, "current_kernel", lambda: None)
    torch.manual_seed(0)
    layer = BinaryLinear(6, 5, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    for shape in ((6,), (3, 6), (2, 3, 6), (0, 6)):
        x = torch.randn(shape)
        with torch.no_grad():
            assert torch.equal(pack(nn.Sequential(layer), torch.randn(2, 6))(x), layer(x))
    network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=16).eval()
    with torch.no_grad():
        assert pack(network)(torch.rand(0, 1, 8, 8)).shape == (0, 10)
    for x in (torch.rand(64), torch.rand(1, 8, 8), torch.rand(())):
        with pytest.raises(ValueError, match=r"Images must have the shape \(N, 1, H, W\)"):
            pack(network)(x)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("make", ["packed", "loaded"])
def test_jit_trace_is_one_sentence(make: str, request: pytest.FixtureRequest) -> None:
    network = request.getfixturevalue(make)
    with pytest.raises(RuntimeError, match=r"cannot be traced by torch\.jit: use `torch\.export\.export`"):
        torch.jit.trace(network, torch.rand(2, 3, 16, 16))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Nothing forks here.")
def test_a_child_that_is_forked_while_a_thread_predicts(loaded: LoadedNetwork) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the pool of OpenMP does not live on in a child
    try:
        images = torch.rand(2, 3, 16, 16)
        with torch.no_grad():
            wanted = loaded(images)

        def child() -> None:
            with torch.no_grad():
                os._exit(0 if torch.equal(loaded(images), wanted) else 1)

        process = multiprocessing.get_context("fork").Process(target=child)
        with loaded._executor._lock:  # as another thread would hold it
            process.start()
            process.join(timeout=60)
        hangs = process.is_alive()
        process.kill()
        process.join()
        assert not hangs
        assert process.exitcode == 0
    finally:
        torch.set_num_threads(threads)


class Maps(Features):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    "make, info",
    [
        (Maps, {"name": "maps"}),
        (Features, {"name": ""}),
        (Features, {"name": "net", "class_names": ("a", "b")}),
        (Features, {"name": "net", "provenance": ["a list"]}),
        (Features, {"name": "net", "class_names": (1, 2, 3)}),
    ],
)
def test_nothing_is_written_that_cannot_be_loaded(
    make: Callable[[], nn.Module], info: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "net.bnn"
    file.write_bytes(b"the old one")
    known = {"in_channels": 2, "image_size": 4}
    packed = pack(make().eval())
    if info == {"name": ""}:  # which is a name
        save(packed, file, PackedInfo(**known, **info))  # type: ignore[arg-type]
        assert load(file).info.name == ""
        return
    with pytest.raises(ValueError):
        save(packed, file, PackedInfo(**known, **info))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["net.bnn"]
    assert file.read_bytes() == b"the old one"
