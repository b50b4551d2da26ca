"""A network that was written and loaded is the packed network; a file that lies is one clear error."""

import copy
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import GraphError, PackedFileError, PackedInfo, load, pack, save
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.packed_file import constants_of, write_container
from bnn_lightning.deploy.ir.graph import Constant, Graph
from bnn_lightning.layers import BinaryConv2d, BinaryLinear
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import Branches, least_size, settled
from tests.deploy.test_process_state import check_other_defaults

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import ONE_OF_EACH, small_options, without_repeats


def written(network: nn.Module, example: torch.Tensor, path: Path, **info: Any) -> Any:
    packed = pack(network, example)
    info = {"name": "net", "in_channels": example.shape[1], "image_size": example.shape[2]} | info
    save(packed, path, PackedInfo(**info))
    return packed


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_backbone_survives(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = least_size(name)
    images = torch.rand(3, 3, size, size)
    network = create_backbone(name, num_classes=7, image_size=size, **small_options(name, width=16))
    network = settled(without_repeats(network), images)
    packed = written(network, images, tmp_path / "net.bnn")
    loaded = load(tmp_path / "net.bnn")
    with torch.no_grad():
        logits = packed(images)
        torch.testing.assert_close(loaded.run_nodes(images), packed.run_layers(images), rtol=1e-5, atol=1e-5)
        # A plan adds in another order, and rounds by the size of what is added: ReActNet-A's logits here go up to 119.
        torch.testing.assert_close(loaded(images), logits, rtol=0, atol=1e-5 * max(1.0, logits.abs().max().item()))
        torch.testing.assert_close(loaded(images), network(images), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(loaded(images[:1]), loaded(images)[:1], rtol=1e-5, atol=1e-5)
    check_other_defaults(tmp_path / "net.bnn", packed, images)


def test_networks_never_seen_survive(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.rand(3, 3, 9, 9)
    network = settled(Branches(), images)
    written(network, images, tmp_path / "net.bnn")
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images), rtol=1e-4, atol=1e-4)


def test_a_scale_behind_real_inputs_survives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = BinaryLinear(48, 70, weight_binarizer=XNORScale())
    second = BinaryLinear(70, 5, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    network, images = nn.Sequential(nn.Flatten(), first, second).eval(), torch.rand(2, 3, 4, 4)
    written(network, images, tmp_path / "net.bnn")
    container = read_container(tmp_path / "net.bnn")
    assert [entry.dtype for entry in container.entries if len(entry.shape) > 1] == ["bits", "bits"]
    torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images).detach(), rtol=1e-4, atol=1e-4)


def test_sizes_are_the_theoretical_ones(tmp_path: Path) -> None:
    network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
    packed = pack(network)
    sizes = save(packed, tmp_path / "net.bnn", PackedInfo("resnet20", 3, 32))
    assert sizes.binary == 267_264 // 8
    # Stem, its norm, a scale and a bias a channel of each binary layer, the head's norm, the classifier.
    channels = 6 * (16 + 32 + 64)
    assert sizes.rest == 4 * (432 + 2 * 16 + 2 * channels + 2 * 64 + 650)
    assert sizes.header < 16 * 1024
    assert (tmp_path / "net.bnn").stat().st_size == sizes.total < 54_000


def test_bytes_and_pixels_are_images(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    written(create_backbone("resnet20", num_classes=10, image_size=32).eval(), images / 255, tmp_path / "net.bnn")
    network = load((tmp_path / "net.bnn").read_bytes())
    torch.testing.assert_close(network(images), network(images / 255), rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"must have the shape \('N', 3, 32, 32\), got \(3, 32, 32\)"):
        network(images[0])


def test_images_of_any_precision(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8) / 255
    written(create_backbone("resnet20", num_classes=10, image_size=32).eval(), images, tmp_path / "net.bnn")
    network = load(tmp_path / "net.bnn")
    wanted = network(images)
    assert torch.equal(network(images.double()), wanted)
    assert network(images.bfloat16()).dtype == torch.float32
    torch.testing.assert_close(network.double()(images).float(), wanted, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match=r"must be uint8, or floating in \[0, 1\], got torch.int64"):
        network(images.long())
    with pytest.raises(TypeError, match=r"must be a torch.Tensor, got ndarray: torch.from_numpy"):
        network(images.numpy())


def test_a_state_that_is_loaded_counts(tmp_path: Path) -> None:
    images = torch.rand(2, 3, 32, 32)
    for name in ("one", "other"):
        network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
        written(network, images, tmp_path / f"{name}.bnn")
    one, other = load(tmp_path / "one.bnn"), load(tmp_path / "other.bnn")
    one(images)
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(images), other(images))


def test_threads_may_share_a_network(tmp_path: Path) -> None:
    images = torch.rand(8, 3, 32, 32)
    written(create_backbone("resnet20", num_classes=10, image_size=32).eval(), images, tmp_path / "net.bnn")
    network, found = load(tmp_path / "net.bnn"), {}
    wanted = network(images)

    def work(number: int) -> None:
        found[number] = network(images)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for logits in found.values():
        torch.testing.assert_close(logits, wanted, rtol=0, atol=0)


class Sorted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, 4, 1, input_binarizer=SignSTE(), weight_binarizer=WeightSign())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3)).sort(1).values


def test_what_a_file_cannot_say_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=r"aten\.sort"):
        written(Sorted().eval(), torch.rand(2, 3, 4, 4), tmp_path / "net.bnn")
    assert not (tmp_path / "net.bnn").exists()


class TwoOutputs(Sorted):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        y = self.conv(x).mean((2, 3))
        return y, y + 1


def test_two_outputs_are_refused(tmp_path: Path) -> None:
    packed = pack(TwoOutputs().eval(), torch.rand(2, 3, 4, 4))
    with pytest.raises(GraphError, match=r"one tensor, not 2: wrap it"):
        save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 4))


def test_names_for_other_classes_are_refused_before_writing(tmp_path: Path) -> None:
    packed = pack(create_backbone("resnet20", num_classes=10, image_size=32).eval())
    with pytest.raises(ValueError, match="2 names for 10 classes"):
        save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 32, ("a", "b")))
    assert not (tmp_path / "net.bnn").exists()


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """The header and the constants of a file, to write lies with."""
    path = tmp_path_factory.mktemp("packed") / "net.bnn"
    network = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1),
        BinaryConv2d(40, 36, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale()),
        nn.BatchNorm2d(36),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(36, 4),
    ).eval()
    written(network, torch.rand(2, 3, 6, 6), path, class_names=("a", "b", "c", "d"))
    container = read_container(path)
    return container.header, constants_of(container), path


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.pop("graph"),
        lambda header: header.pop("info"),
        lambda header: header["graph"].pop(),
        lambda header: header["graph"].append(["os.system", []]),
        lambda header: header["graph"].append(["relu", [99]]),
        lambda header: header["graph"].append(["relu", [-1]]),
        lambda header: header["graph"].append(["relu", [{"c": 0}]]),
        lambda header: header["graph"].append(["relu", [1], {"inplace": True}]),
        lambda header: header["graph"].append(["mean", [1]]),
        lambda header: header["graph"][1].pop(),
        lambda header: header["graph"][1][2].update(stride=[0, 0]),
        lambda header: header["graph"][1][2].update(padding=[1 << 40] * 4),
        # A result of a few pixels, from a map that is padded beyond all memory.
        lambda header: header["graph"][1][2].update(
            stride=[65535, 65535], padding=[20, 16500, 65535, 65535], dilation=[1, 16500]
        ),
        lambda header: header["graph"][1][2].update(groups=7),
        lambda header: header["graph"][1][2].update(pad_value=0.5),
        lambda header: header["graph"][1].__setitem__(1, [0]),
        lambda header: header["graph"][1][1].append(0),
        lambda header: header["graph"][1][2].pop("signs"),
        lambda header: header["info"].__setitem__("image_size", 0),
        lambda header: header["info"].__setitem__("image_size", 1 << 30),
        lambda header: header["info"].__setitem__("image_size", True),
        lambda header: header["info"].__setitem__("class_names", ["a"]),
        lambda header: header["graph"].insert(1, ["pad", [1], {"padding": [1 << 20] * 4}]),
        lambda header: header.__setitem__("graph", [["reshape", [0], {"shape": [-1]}]]),
    ],
)
def test_a_graph_that_lies_is_refused(parts: tuple[Any, Any, Path], change: Any, tmp_path: Path) -> None:
    header, constants = copy.deepcopy(parts[0]), parts[1]
    change(header)
    write_container(tmp_path / "net.bnn", header, constants)
    with pytest.raises(PackedFileError, match="does not hold a network that can be run"):
        load(tmp_path / "net.bnn")


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70),
    st.just(1 << 40),
    st.floats(allow_nan=False, allow_infinity=False),
    st.just("x"),
)
ARGUMENTS = st.one_of(
    SCALARS,
    st.builds(lambda n: {"c": n}, st.integers(0, 7)),
    st.lists(SCALARS, max_size=4),
)


@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_graph_runs_or_is_refused(parts: tuple[Any, Any, Path], data: st.DataObject, tmp_path: Path) -> None:
    header, constants = copy.deepcopy(parts[0]), parts[1]
    node = data.draw(st.sampled_from(header["graph"]))
    part = data.draw(st.sampled_from([part for part in (node, *node[1:]) if part]))
    places = list(part) if isinstance(part, dict) else range(len(part))
    part[data.draw(st.sampled_from(places))] = data.draw(ARGUMENTS)
    write_container(tmp_path / "net.bnn", header, constants)
    try:
        network = load(tmp_path / "net.bnn")
    except PackedFileError:
        return
    assert network(torch.rand(1, 3, 6, 6)).shape[0] == 1


def test_tensors_of_another_shape_are_refused(parts: tuple[Any, Any, Path], tmp_path: Path) -> None:
    header, constants, _ = parts
    for place, constant in enumerate(constants):
        if len(constant.shape) == 1:
            longer = Constant.of(constant.name, constant.dtype, np.concatenate([constant.array] * 2))
            changed = [*constants[:place], longer, *constants[place + 1 :]]
            write_container(tmp_path / "net.bnn", header, changed)
            with pytest.raises(PackedFileError):
                load(tmp_path / "net.bnn")


def test_the_info_is_kept(parts: tuple[Any, Any, Path]) -> None:
    info = load(parts[2]).info
    assert (info.name, info.in_channels, info.image_size, info.class_names) == ("net", 3, 6, ("a", "b", "c", "d"))


def test_values_end_with_their_last_use() -> None:
    plain = [["relu", [0]], ["add", [1, 0]], ["cat", [2, 1], {"dim": 1}]]
    assert Graph.from_plain(plain, ()).last_uses() == [(), (0,), (1, 2)]
