"""Calls of the C library from Python: images that it refuses, memory that it keeps, files that do not open."""

import os
import re
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy import LoadedNetwork, PackedInfo, load, pack, save
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.format.prefix import join_sections
from bnn_lightning.deploy.planner.plan import Address, Region, TorchCall
from bnn_lightning.deploy.runtime import native
from bnn_lightning.models import create_backbone
from bnn_lightning.zoo import packed_file
from tests.deploy.test_native import CLASSES, SHAPE, file_of, linear, logits_of, plan

pytestmark = pytest.mark.skipif(not native.LIBRARY.exists(), reason="needs the compiled library")


def images(number: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9, (number, *SHAPE)).astype(np.float32)


def with_value(value: float, at: tuple[int, ...] = (1, 0, 2, 1)) -> np.ndarray:
    array = np.zeros((3, *SHAPE), np.float32)
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("value", "named"), [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "-infinity"), (1e39, "infinity")]
)
def test_numbers_that_are_none_are_named(value: float, named: str) -> None:
    network = native.load(file_of(plan(linear())))
    array = with_value(0).astype(np.float64)
    array[1, 0, 2, 1] = value
    with pytest.raises(ValueError, match=rf"finite.* {named} \(value 9 of image 1\)"):
        network(array)
    array[1, 0, 2, 1] = 1e30
    assert np.isfinite(network(array)).all()  # of no image: any range


@pytest.mark.parametrize("value", [254.25, -1.75, 3e38])
def test_floats_beyond_those_of_images_are_named(value: float) -> None:
    made = plan(linear())
    preparation = Preparation(size=(3, 4), channels=3, resize=(3, 4))
    fields = {"factors": 36, "x_row": 36, "bias": Address(Region.CONSTANTS, 36 * 64)}
    pictures = plan(linear(**fields), in_shape=(3, 3, 4), constants=bytes(37 * 64))
    with pytest.raises(ValueError, match="divide by 255") as refused:
        native.load(file_of(made, takes_images=True))(with_value(value))
    named = {254.25: "254.25", -1.75: "-1.75", 3e38: r"10\^15 and more"}[value]
    assert re.search(rf"{named} \(value 9 of image 1\)", str(refused.value))
    with pytest.raises(ValueError, match="divide by 255"):  # so do files from before there was a mark
        native.load(file_of(pictures, preparation=preparation))(np.full((1, 3, 3, 4), value, np.float32))
    native.load(file_of(made, takes_images=True))(with_value(1.45))  # resizing overshoots


def test_the_mark_of_images_is_in_the_section() -> None:
    for takes_images in (False, True):
        section = PlanSection((plan(linear()), plan(linear(), takes_bytes=True)), takes_images=takes_images)
        assert PlanSection.from_bytes(section.to_bytes(), b"").takes_images == takes_images


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = create_backbone("resnet20", num_classes=10, image_size=16, width=4).eval()
    path = tmp_path_factory.mktemp("saved") / "net.bnn"
    save(pack(network), path, PackedInfo("resnet20", in_channels=3, image_size=16))
    return path


def test_both_readers_refuse_the_same_floats(saved: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 32, 32), np.uint8)
    for file in (saved, packed_file("zoo:cifar10_resnet20")):
        size = native.load(file).facts.shape[1]
        own = pixels[..., :size, :size].astype(np.float32)
        for wrong in (own, (own / 255 - 0.45) / 0.225):
            loaded = load(file)
            assert isinstance(loaded, LoadedNetwork)
            with pytest.raises(ValueError, match="divide by 255"):
                native.load(file)(wrong)
            with pytest.raises(ValueError, match="divide by 255"):
                loaded(torch.from_numpy(wrong))


def test_images_may_begin_at_any_byte() -> None:
    network, given = native.load(file_of(plan(linear()))), images(2)
    buffer = np.zeros(given.nbytes + 1, np.uint8)
    view = buffer[1:].view(np.float32).reshape(given.shape)
    view[:] = given
    assert not view.flags.aligned  # 32-bit ARM reads no vectors from there
    assert network._checked(view).flags.aligned
    np.testing.assert_array_equal(network(view), logits_of(given))


@pytest.mark.parametrize(
    ("picture", "named"), [([[1]], "list"), (np.zeros((3, 4)), "float64"), (np.zeros(3, "u1"), "(3,)")]
)
def test_what_is_no_picture_is_named(picture: Any, named: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(named)):
        native.load(file_of(plan(linear()))).prepare(picture)


def test_errors_of_files_name_the_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, operation = plan(TorchCall(3, {0: Address(Region.INPUT)}, Address(Region.OUTPUT))), "aten." + "x" * 90
    data = PlanSection((made,), "n" * 60, operations={3: operation}).to_bytes()
    (tmp_path / "n.bnn").write_bytes(join_sections(b"{}", data, made.constants))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(native.RuntimeFileError, match=f"`n.bnn`.*{operation}` has no kernel"):
        native.load("n.bnn")


def test_a_network_is_closed() -> None:
    with native.load(file_of(plan(linear()))) as network:
        np.testing.assert_array_equal(network(images(2)), logits_of(images(2)))
        assert len(network._contexts.idle) == 1
    assert (network._contexts.idle, network.facts.num_classes) == ([], CLASSES)
    for call in (
        lambda: network(images(1)),
        lambda: network(images(0)),
        lambda: network.prepare(np.zeros((3, 4), np.uint8)),
    ):
        with pytest.raises(ValueError, match="closed"):
            call()
    network.close()


def test_calls_that_run_end_when_a_network_is_closed() -> None:
    network, refused = native.load(file_of(plan(linear())), threads=2), threading.Event()

    def run() -> None:
        try:
            while True:
                np.testing.assert_array_equal(network(images(7)), logits_of(images(7)))
        except ValueError:
            refused.set()

    caller = threading.Thread(target=run)
    caller.start()
    network(images(3))
    network.close()
    caller.join(60)
    assert refused.is_set()


def test_what_is_no_file_is_said_as_python_says_it(tmp_path: Path) -> None:
    (tmp_path / "net.bnn").write_bytes(file_of(plan(linear())))
    for read in (native.load, native.read_picture):
        with pytest.raises(IsADirectoryError, match=tmp_path.name):
            read(tmp_path)
        with pytest.raises(FileNotFoundError, match="none"):
            read(tmp_path / "none")
        with pytest.raises(NotADirectoryError, match=r"net\.bnn"):
            read(tmp_path / "net.bnn" / "more")
        with pytest.raises(ValueError, match="zero byte"):
            read(f"{tmp_path}/net.bnn\0more")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs files that this user may not read")
def test_files_of_others_are_no_missing_files(tmp_path: Path) -> None:
    path = tmp_path / "net.bnn"
    path.write_bytes(file_of(plan(linear())))
    path.chmod(0)
    with pytest.raises(PermissionError, match=r"net\.bnn"):
        native.load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_nobody_waits_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        native.load(tmp_path / "pipe")
