"""Files that ask for more than any network of their size: refused at once, before memory or time is spent."""

import bisect
import copy
import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import FileSizes, PackedFileError, PackedInfo, load, pack, save
from bnn_lightning.deploy.format.packed_file import write_container
from bnn_lightning.deploy.ir.graph import Constant
from bnn_lightning.deploy.kernels.call import Address, Region
from bnn_lightning.deploy.kernels.constants import Derived
from bnn_lightning.deploy.kernels.derive import BYTES_OF_BYTE, MOST_BYTES, verify_derived
from bnn_lightning.deploy.kernels.job import CallError
from bnn_lightning.deploy.runtime import native
from bnn_lightning.deploy.runtime.save import Rest
from bnn_lightning.layers import BinaryConv2d, annealed
from bnn_lightning.models import create_backbone
from tests.deploy.test_native import CONSTANTS, file_of, linear, plan

SIGNS = Constant.of("signs", "bits", np.ones((64, 64, 3, 3), np.int8))
Plain = list[Any]


def write(path: Path, graph: Plain, *constants: Constant) -> Path:
    header = {"graph": graph, "info": PackedInfo("net", 3, 8).plain()}
    write_container(path, header, constants)
    return path


def save_bnext_tiny(path: Path, rest: Rest, **options: Any) -> FileSizes:
    torch.manual_seed(0)
    network = create_backbone("bnext_tiny", num_classes=10, image_size=32, **options).eval()
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)
    return save(pack(network), path, PackedInfo("bnext_tiny", in_channels=3, image_size=32), rest=rest)


def seconds_to_load(path: Path) -> float:
    start = time.process_time()
    load(path)
    return time.process_time() - start


def seconds_to_refuse(path: Path) -> float:
    """Return the processor time without that of collecting the garbage of earlier tests."""
    gc.disable()
    try:
        start = time.process_time()
        with pytest.raises(PackedFileError, match=r"does not hold a network that can be run|header|constants"):
            load(path)
        return time.process_time() - start
    finally:
        gc.enable()


def binary(value: int, signs: int, groups: int = 1) -> Plain:
    return ["binary_conv2d", [value], {"signs": {"c": signs}, "padding": [1, 1, 1, 1], "groups": groups}]


def nodes(count: int) -> Plain:
    return [["relu", [number]] for number in range(count)]


@pytest.mark.parametrize(
    "graph",
    [
        [["reshape", [0], {"shape": [1] * 1_000_000}]],
        nodes(700_000),
        [["relu", [0], {str(number): None for number in range(200_000)}]],
        [["cat", [0] * 300_000, {"dim": 1}]],
        [["cat", [number] * 64, {"dim": 1}] for number in range(3)],  # 3 * 64^3 channels, and so on
        [["pad", [number], {"padding": [0, 0, 0, 0, 0, 250_000]}] for number in range(500)],
        [["expand", [0], {"shape": [2 - 1] * 60 + [2, 3, 8, 8]}]],
    ],
    ids=["sizes", "nodes", "attributes", "inputs", "growing", "sum", "dimensions"],
)
def test_a_graph_that_asks_for_too_much_is_refused_at_once(graph: Plain, tmp_path: Path) -> None:
    path = write(tmp_path / "net.bnn", graph)
    assert path.stat().st_size < 1 << 20
    assert seconds_to_refuse(path) < 2  # the first two took minutes


@pytest.mark.parametrize(
    ("graph", "constants"),
    [
        # The same signs again and again; signs whose words and blocks are nearly empty.
        ([binary(0, 0)] * 400, [SIGNS]),
        ([binary(0, 0, 60_000)], [Constant.of("signs", "bits", np.ones((60_000, 1, 1, 1), np.int8))]),
        (nodes(3), [Constant.of(str(number), "f32", np.zeros(0, np.float32)) for number in range(30_000)]),
    ],
    ids=["shared", "groups", "tensors"],
)
def test_constants_of_too_much_are_refused_at_once(graph: Plain, constants: list[Constant], tmp_path: Path) -> None:
    path = write(tmp_path / "net.bnn", copy.deepcopy(graph), *constants)
    assert seconds_to_refuse(path) < 2


def test_floats_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    """Their dtype would be the default of the process."""
    whole = Constant.of("whole", "i64", np.arange(1, 4).reshape(3, 1, 1))
    graph: Plain = [["div", [{"c": 0}, {"c": 0}]], ["add", [0, 1]], ["mean", [2], {"dims": [2, 3]}]]
    with pytest.raises(PackedFileError, match="whole numbers"):
        load(write(tmp_path / "net.bnn", graph, whole))


def most_derived(kind: str, arguments: tuple[int, ...], made: int, size: int) -> bytes:
    """Return a file of `size` bytes of constants, from which as much is computed as may be, again and again."""
    most, source, first = MOST_BYTES + BYTES_OF_BYTE * size, Address(Region.CONSTANTS), 0
    derived: tuple[Derived, ...] = ()
    if kind == "tap_sums":
        derived = (Derived("signs", source, Address(Region.DERIVED), arguments),)
        source, first = Address(Region.DERIVED), 2 * size
    places = range(first, most, made + -made % 64)[:1000]
    derived += tuple(Derived(kind, source, Address(Region.DERIVED, place), arguments) for place in places)
    count = bisect.bisect(range(1, len(derived) + 1), 0, key=lambda number: refused(derived[:number], size, most))
    assert count
    constants = CONSTANTS + bytes(size - len(CONSTANTS))
    return file_of(plan(linear(), constants=constants, derived=derived[:count], derived_size=most))


def refused(derived: tuple[Derived, ...], constants: int, size: int) -> bool:
    try:
        verify_derived(derived, constants, size)
    except CallError:
        return True
    return False


def seconds_to_derive(name: str, size: int) -> float:
    kind, arguments, made = {
        "signs": ("signs", (1, 16, size // 2, 1), size + 64),
        "sums": ("tap_sums", (1, 16, size // 2, 1), 64),
        "lines": ("tap_sums", (1, 1, size // 2, 1), 64),
        "floats": ("blocked_signs", (1, 16, 31, size // 62, 1, 1), 32 * size),
        "bytes": ("blocked_bytes", (size // 9, 1, 1, 9), 16 * size),
        "groups": ("blocked_bytes", (size, 1, 1, 1), 16 * size),
    }[name]
    data = most_derived(kind, arguments, made, size)
    seconds = []
    for _ in range(3):
        start = time.process_time()
        native.load(data)
        seconds.append(time.process_time() - start)
    return min(seconds)


DERIVED = ["signs", "sums", "lines", "floats", "bytes", "groups"]


@pytest.mark.parametrize("name", DERIVED)
def test_small_files_derive_little(name: str) -> None:
    assert seconds_to_derive(name, 1664) < 0.1


@pytest.mark.parametrize("rest", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_thinnest_bnext_can_be_saved(rest: Rest, tmp_path: Path) -> None:
    """It has as many steps as the published one, in a fiftieth of the bytes."""
    sizes = save_bnext_tiny(tmp_path / "net.bnn", rest, width=4)
    assert sizes.total < 1 << 18


@pytest.mark.slow
def test_a_deep_and_narrow_network_can_be_saved(tmp_path: Path) -> None:
    blocks = [
        nn.Sequential(
            BinaryConv2d(16, 16, 3, padding=1, bias=False, input_binarizer=SignSTE(), weight_binarizer=XNORScale()),
            nn.BatchNorm2d(16),
            nn.PReLU(16),
        )
        for _ in range(200)
    ]
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    ).eval()
    images = torch.rand(2, 3, 8, 8)
    save(pack(network, images), tmp_path / "net.bnn", PackedInfo("net", 3, 8))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def seconds_of_bnext_tiny(tmp_path_factory: pytest.TempPathFactory) -> float:
    path = tmp_path_factory.mktemp("bnext") / "net.bnn"
    save_bnext_tiny(path, "fp32")
    return min(seconds_to_load(path) for _ in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "conv2d", "hardswish", "affine", "prelu", "gelu", "cat", "binary_conv2d"])
def test_no_small_file_takes_twice_as_long_as_bnext(name: str, seconds_of_bnext_tiny: float, tmp_path: Path) -> None:
    """Every result has another shape, so that torch looks at each anew."""
    constants = [Constant.of("w", "f32", np.zeros((3, 3, 3, 3))), Constant.of("c", "f32", np.ones(3))]
    constants += [Constant.of("signs", "bits", np.ones((3, 3, 3, 3), np.int8))]
    constants += [Constant.of(f"unused{number}", "f32", np.ones(3)) for number in range(420)]
    inputs = {"conv2d": [{"c": 0}], "affine": [{"c": 1}, {"c": 1}], "prelu": [{"c": 1}]}
    steps = ("gain", "offset", "scale", "bias", "lift", "slope", "shift", "threshold")
    binary: dict[str, Any] = {"signs": {"c": 2}, "padding": [1, 1, 1, 1], **{key: {"c": 1} for key in steps}}
    attributes: dict[str, dict[str, Any]] = {"conv2d": {"padding": [1, 1]}, "binary_conv2d": binary}
    graph: Plain = []
    most = 1340 // {"cat": 11, "binary_conv2d": 5}.get(name, 2)
    for _ in range(most):
        graph.append(["pad", [len(graph)], {"padding": [0, 1, 0, 0]}])
        value = len(graph)
        if name == "cat":
            graph += [["cat", [value] * 64, {"dim": 2}], ["slice", [value + 1], {"dim": 2, "start": 0, "end": 8}]]
        else:
            graph.append([name, [value, *inputs.get(name, [])], attributes.get(name, {})])
    graph.append(["mean", [len(graph)], {"dims": [2, 3]}])
    path = write(tmp_path / "net.bnn", graph, *constants)
    assert min(seconds_to_load(path) for _ in range(2)) < 2 * seconds_of_bnext_tiny  # the best of two, as there


@pytest.mark.slow
@pytest.mark.parametrize("name", DERIVED)
def test_no_small_file_derives_longer_than_bnext_tiny_loads(name: str, seconds_of_bnext_tiny: float) -> None:
    assert seconds_to_derive(name, 500_000) < seconds_of_bnext_tiny


@torch.no_grad()
def test_large_depthwise_kernels_run_without_a_plan_where_kernels_expand_them_too_far(tmp_path: Path) -> None:
    binary: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
    layer = BinaryConv2d(320, 320, 31, groups=320, padding=15, **binary)
    network = nn.Sequential(nn.Conv2d(3, 320, 3, stride=2), layer, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.rand(2, 3, 18, 18)
    packed = pack(network, images)
    assert "as kernels read them" in packed.report.unplanned
    assert torch.equal(packed(images), network(images))
    with pytest.raises(ValueError, match=r"was not written, since it could not be loaded.* signs in packed layers"):
        save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 18))


@torch.no_grad()
def test_depthwise_kernels_of_common_size_are_saved(tmp_path: Path) -> None:
    binary: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
    layers = [BinaryConv2d(256, 256, 13, groups=256, padding=6, **binary) for _ in range(4)]
    network = nn.Sequential(nn.Conv2d(3, 256, 3, stride=2), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    images = torch.rand(2, 3, 18, 18)
    save(pack(network, images), tmp_path / "net.bnn", PackedInfo("net", 3, 18))
    torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images), rtol=0, atol=1e-4)
