"""A NaN is refused by name, or arrives as one; it never becomes a number on the way."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, XNORScale
from bnn_lightning.deploy import PackedFileError, PackedInfo, load, pack, save
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.packed_file import constants_of, write_container
from bnn_lightning.deploy.ir.graph import Constant
from bnn_lightning.deploy.kernels.squeeze_excite import ChannelGate, Dense
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models import create_backbone
from tests.deploy import called

NAN = float("nan")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    binary = BinaryConv2d(16, 8, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale())
    parts = [nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), binary, nn.BatchNorm2d(8), nn.PReLU(8)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def images() -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_relu_of_minus_infinity_is_0_in_a_file(tmp_path: Path) -> None:
    model = network()
    model[1] = nn.ReLU()
    with torch.no_grad():
        model[0].weight.copy_(-3e38 * torch.rand_like(model[0].weight))
        assert model[0](images()).min() == -float("inf")
        expected = model(images())
    path = tmp_path / "net.bnn"
    save(pack(model, example=images()), path, PackedInfo("net", in_channels=3, image_size=8))
    torch.testing.assert_close(load(path)(images()), expected)


@pytest.mark.parametrize(
    "name",
    ["0.weight", "0.bias", "1.running_mean", "1.weight", "2.weight", "3.running_var", "3.bias", "4.weight", "7.bias"],
)
def test_pack_refuses_tensors_with_nan(name: str) -> None:
    model = network()
    model.state_dict()[name].flatten()[1] = NAN
    with pytest.raises(ValueError, match=f"`{name}`"):
        pack(model, images())


def test_pack_refuses_a_batch_norm_that_computes_nan() -> None:
    model = network()
    model.state_dict()["3.running_var"][2] = -1.0
    with pytest.raises(ValueError, match=r"`3\.running_var`"):
        pack(model, images())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "net.bnn"
    save(pack(network(), images()), path, PackedInfo("net", 3, 8))
    return path


def test_load_refuses_tensors_with_nan(file: Path, tmp_path: Path) -> None:
    container = read_container(file)
    for place, constant in enumerate(constants_of(container)):
        if constant.dtype == "f32":
            values = np.array(constant.array)
            values.flat[-1] = NAN
            changed = list(constants_of(container))
            changed[place] = Constant.of(constant.name, "f32", values)
            write_container(tmp_path / "net.bnn", copy.deepcopy(container.header), changed)
            with pytest.raises(PackedFileError, match=f"`{constant.name}` holds NaN"):
                load(tmp_path / "net.bnn")


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_images_that_are_not_finite_are_refused(file: Path, value: float) -> None:
    batch = images()
    batch[1, 2, 3, 4] = value
    packed, loaded = pack(network(), images()), load(file)
    for compute in (packed, loaded, lambda x: loaded(x.double()), lambda x: loaded(x.half())):
        with pytest.raises(ValueError, match="1 value that is NaN or infinite, the first in image 1"):
            compute(batch)
    loaded(torch.full((2, 3, 8, 8), 3e38))  # finite, though their sum is not


@pytest.mark.skipif(called.chosen() is None, reason="needs a compiled kernel")
@pytest.mark.parametrize("other", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_the_native_gate_hands_on_nan(other: bool, whole: bool) -> None:
    dtype, scale = (np.int8, np.ones(20, np.float32)) if whole else (np.float32, None)
    squeeze = Dense(np.ones((4, 20), dtype), scale=None if scale is None else scale[:4])
    gate = ChannelGate(squeeze, Dense(np.ones((20, 4), dtype), scale=scale), np.ones(20) if other else None)
    own, second = torch.rand(3, 20), torch.rand(3, 20) if other else None
    own[1, 7] = NAN
    found = called.gate(gate, own, second)
    mean = own if second is None else own + (second - own)
    hidden = mean.sum(1, keepdim=True).expand(3, 4).relu()
    wanted = hidden.sum(1, keepdim=True).expand(3, 20).sigmoid()
    assert torch.equal(found.isnan(), wanted.isnan())
    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_a_configuration_with_infinity_comes_back(tmp_path: Path) -> None:
    """As that of `binarizer@model.weight_binarizer=temperature`: `clip: .inf`."""
    provenance = {"config": {"clip": float("inf"), "bounds": [float("-inf"), 1.5]}, "float": "inf"}
    info = PackedInfo("net", in_channels=3, image_size=16, provenance=provenance)
    network = create_backbone("resnet20", num_classes=10, image_size=16, width=4).eval()
    save(pack(network), tmp_path / "net.bnn", info)
    assert load(tmp_path / "net.bnn").info == info
