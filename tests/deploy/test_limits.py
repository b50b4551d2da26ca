"""Files that ask for more than any network of their size: refused at once, before memory or time is spent."""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnn_lightning.deploy import FileSizes, PackedFileError, PackedInfo, load, pack, save
from bnn_lightning.deploy.format.container import Array, write_container
from bnn_lightning.deploy.runtime.network import Rest
from bnn_lightning.layers import annealed
from bnn_lightning.models import create_backbone

SIGNS = ("bits", np.ones((64, 64, 3, 3), np.int8))
Plain = list[Any]


def write(path: Path, program: Plain, tensors: dict[str, tuple[str, Array]] | None = None, size: int = 8) -> Path:
    header = {"program": program, "info": PackedInfo("net", 3, size).plain()}
    write_container(path, header, {} if tensors is None else tensors)
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


def binary(value: int, signs: int, groups: int = 1) -> Plain:
    geometry: Plain = [[1, 1], [1, 1, 1, 1], [1, 1], groups, 0, None, None]
    return ["binary_conv2d", {"v": value}, None, {"t": signs}, *[None] * 8, *geometry]


def steps(count: int) -> Plain:
    return [["relu", {"v": number}] for number in range(count)]


@pytest.mark.parametrize(
    "program",
    [
        [["reshape", {"v": 0}, [1] * 1_000_000]],
        steps(700_000),
        [["relu", {"v": 0}, *[None] * 500_000]],
        [["cat", [{"v": 0}] * 300_000, 1]],
        [["cat", [{"v": number}] * 64, 1] for number in range(3)],  # 3 * 64^3 channels, and so on
        [["pad", {"v": number}, [0, 0, 0, 0, 0, 250_000]] for number in range(500)],
        [["expand", {"v": 0}, [2 - 1] * 60 + [2, 3, 8, 8]]],
    ],
    ids=["sizes", "steps", "arguments", "items", "growing", "sum", "dimensions"],
)
def test_a_program_that_asks_for_too_much_is_refused_at_once(program: Plain, tmp_path: Path) -> None:
    path = write(tmp_path / "net.bnn", program)
    assert path.stat().st_size < 1 << 20
    start = time.process_time()
    with pytest.raises(PackedFileError, match=r"does not hold a network that can be run|header"):
        load(path)
    assert time.process_time() - start < 2  # the first two took minutes


@pytest.mark.parametrize(
    ("program", "tensors"),
    [
        # The same signs again and again; signs whose words and blocks are nearly empty.
        ([binary(0, 0)] * 400, {"signs": SIGNS}),
        ([binary(0, 0, 60_000)], {"signs": ("bits", np.ones((60_000, 1, 1, 1), np.int8))}),
        (steps(3), {str(number): ("f32", np.zeros(0, np.float32)) for number in range(30_000)}),
    ],
    ids=["shared", "groups", "tensors"],
)
def test_tensors_of_too_much_are_refused_at_once(
    program: Plain, tensors: dict[str, tuple[str, Array]], tmp_path: Path
) -> None:
    path = write(tmp_path / "net.bnn", copy.deepcopy(program), tensors)
    start = time.process_time()
    with pytest.raises(PackedFileError):
        load(path)
    assert time.process_time() - start < 2


def test_floats_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    """Their dtype would be the default of the process."""
    whole = {"whole": ("i64", np.arange(1, 4).reshape(3, 1, 1))}
    program = [["div.Tensor", {"t": 0}, {"t": 0}], ["add.Tensor", {"v": 0}, {"v": 1}], ["mean.dim", {"v": 2}, [2, 3]]]
    with pytest.raises(PackedFileError, match="whole numbers"):
        load(write(tmp_path / "net.bnn", program, whole))


@pytest.mark.parametrize("rest", ["fp32", pytest.param("int8", marks=pytest.mark.slow)])
def test_the_thinnest_bnext_can_be_saved(rest: Rest, tmp_path: Path) -> None:
    """It has as many steps as the published one, in a fiftieth of the bytes."""
    sizes = save_bnext_tiny(tmp_path / "net.bnn", rest, width=4)
    assert sizes.total < 1 << 18


@pytest.fixture(scope="module")
def seconds_of_bnext_tiny(tmp_path_factory: pytest.TempPathFactory) -> float:
    path = tmp_path_factory.mktemp("bnext") / "net.bnn"
    save_bnext_tiny(path, "fp32")
    return min(seconds_to_load(path) for _ in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "conv2d", "hardswish", "affine", "prelu", "gelu", "cat"])
def test_no_small_file_takes_longer_than_bnext_tiny(name: str, seconds_of_bnext_tiny: float, tmp_path: Path) -> None:
    """Every result has another shape, so that torch looks at each anew."""
    tensors = {"w": ("f32", np.zeros((3, 3, 3, 3))), "c": ("f32", np.ones(3))}
    more = {
        "conv2d": [{"t": 0}, None, [1, 1], [1, 1]],
        "affine": [{"t": 1}, {"t": 1}],
        "prelu": [{"t": 1}],
    }
    program: Plain = []
    most = 716 // {"affine": 4, "prelu": 5, "hardswish": 7, "cat": 7}.get(name, 2)
    for _ in range(most):
        program.append(["pad", {"v": len(program)}, [0, 1, 0, 0]])
        value = {"v": len(program)}
        program.append(["cat", [value] * 64, 2] if name == "cat" else [name, value, *more.get(name, [])])
        if name == "cat":
            program.append(["slice.Tensor", {"v": len(program)}, 2, 0, 8])
    program.append(["mean.dim", {"v": len(program)}, [2, 3]])
    path = write(tmp_path / "net.bnn", program, tensors)
    assert min(seconds_to_load(path) for _ in range(2)) < seconds_of_bnext_tiny  # the best of two, as there
