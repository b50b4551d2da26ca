"""Preparation of pictures in C: bytes equal to Pillow's and `data.image_io.prepare_picture`; PGM and PPM files."""

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bnn_lightning.data.image_io import DamagedImageError, prepare_picture
from bnn_lightning.data.preparation import Interpolation, Preparation
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.format.prefix import join_sections
from bnn_lightning.deploy.kernels.abi import KERNELS
from bnn_lightning.deploy.planner.plan import Address, KernelCall, Plan, Region, Size
from bnn_lightning.deploy.runtime import native

pytestmark = pytest.mark.skipif(not native.LIBRARY.exists(), reason="needs the compiled library")


def network_of(preparation: Preparation | None, shape: tuple[int, int, int] = (3, 8, 8)) -> native.Network:
    """A network whose logits are 0, and whose file says how pictures are prepared."""
    shape = shape if preparation is None else (preparation.channels, *preparation.size)
    assert "pad" in KERNELS
    fields: dict[str, Any] = {"pixels": 1, "channels": 2, "first": 2, "out": Address(Region.OUTPUT)}
    plan = Plan((KernelCall("pad", fields),), b"", (), 0, Size(), Size(), (), shape, False, 2)
    return native.load(join_sections(b"{}", PlanSection((plan,), preparation=preparation).to_bytes(), b""))


def check(pixels: np.ndarray, preparation: Preparation) -> None:
    wanted = prepare_picture(pixels, preparation).transpose(2, 0, 1)
    np.testing.assert_array_equal(network_of(preparation).prepare(pixels), wanted)


@st.composite
def preparations(draw: st.DrawFn) -> Preparation:
    border = draw(st.integers(0, 2))
    inner = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    more = draw(st.tuples(st.integers(0, 20), st.integers(0, 20)))
    return Preparation(
        size=(inner[0] + 2 * border, inner[1] + 2 * border),
        channels=draw(st.sampled_from([1, 3])),
        resize=(inner[0] + more[0], inner[1] + more[1]),
        interpolation=draw(st.sampled_from(["bilinear", "bicubic"])),
        border=border,
    )


@settings(max_examples=150, deadline=None)
@given(
    preparations(), st.integers(1, 90), st.integers(1, 90), st.sampled_from([1, 3]), st.integers(0, 99), st.booleans()
)
def test_drawn_pictures(
    preparation: Preparation, height: int, width: int, channels: int, seed: int, hard: bool
) -> None:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (height, width, channels), np.uint8)
    check(np.where(pixels > 127, 255, 0).astype(np.uint8) if hard else pixels, preparation)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(1, 500), (500, 1), (3, 700), (640, 7), (1, 1), (2, 3), (375, 500), (64, 64)])
def test_odd_shapes(size: tuple[int, int], interpolation: Interpolation) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    for resize in ((64, 64), (80, 72)):
        check(pixels, Preparation(size=(64, 64), channels=3, resize=resize, interpolation=interpolation))


@pytest.mark.data
def test_photos(data_root: Path) -> None:
    files = sorted((data_root / "imagenet").rglob("*.JPEG"))[::5]
    if not files:
        pytest.skip("needs photos of ImageNet")
    for number, file in enumerate(files):
        pixels = np.asarray(Image.open(file).convert("RGB"))
        check(pixels, Preparation(size=(224, 224), channels=3, resize=(256, 256), interpolation="bicubic"))
        check(pixels, Preparation(size=(32, 32), channels=1 + 2 * (number % 2), resize=(32, 32)))


def read(data: bytes) -> np.ndarray:
    library, picture, error = native.library(), native._Picture(), native._Error()
    if library.bnn_picture_read(data, ctypes.c_size_t(len(data)), ctypes.byref(picture), ctypes.byref(error)):
        raise ValueError(error.text.decode())
    shape = (picture.height, picture.width, picture.channels)
    pixels = np.ctypeslib.as_array((ctypes.c_uint8 * int(np.prod(shape))).from_address(picture.pixels)).reshape(shape)
    copied = pixels.copy()
    library.bnn_picture_close(ctypes.byref(picture))
    return copied


FILES = [
    b"P5 3 2 255\n" + bytes(range(6)),
    b"P6\n# a comment\n2 1\n255\n" + bytes(range(100, 106)),
    b"P5 3 1 100\n" + bytes([0, 50, 100]),
    b"P6 1 2 31\n" + bytes([0, 5, 31, 9, 13, 30]),
    b"P5 2 1 65535\n" + bytes([0, 255, 200, 3]),
    b"P5 2 1 4095\n" + bytes([1, 255, 15, 255]),
    b"P6 1 1 65535\n" + bytes([0, 255, 200, 3, 77, 1]),
    b"P6 1 1 1000\n" + bytes([0, 255, 2, 3, 3, 232]),
    b"P2\n3 1\n255\n0 17 255\n",
    b"P3 1 1 255 # colors\n1 2 3\n",
    b"P2 2 1 7 3 7\n",
    b"P2 2 1 65535 300 65535\n",
]


@pytest.mark.parametrize("data", FILES)
def test_files_are_read_as_pillow_reads_them(data: bytes) -> None:
    pixels = read(data)
    height, width, channels = pixels.shape
    preparation = Preparation(size=(height, width), channels=channels, resize=(height, width))
    np.testing.assert_array_equal(pixels, prepare_picture(data, preparation))


@pytest.mark.parametrize(
    "data",
    [b"", b"P", b"P5", b"P5 2 2", b"P5 2 2 255\n123", b"P5 0 2 255\n", b"P5 2 2 0\n1234", b"P2 2 1 255 3",
     b"P6 99999 99999 255\n", b"P5 2 2 70000\n" + bytes(8), b"P2 2 1 255 3 x", b"GIF89a", b"P5 -2 2 255\n1234"],
)  # fmt: skip
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        read(data)
    with pytest.raises(DamagedImageError):
        prepare_picture(data, Preparation(size=(2, 2), channels=1, resize=(2, 2)))


def test_a_file_without_preparation_and_arrays_that_are_no_pictures() -> None:
    with pytest.raises(ValueError, match="does not say how"):
        network_of(None).prepare(np.zeros((4, 4, 3), np.uint8))
    network = network_of(Preparation(size=(4, 4), channels=1, resize=(4, 4)))
    for wrong in (np.zeros((4, 4, 2), np.uint8), np.zeros((4, 4)), np.zeros((0, 4), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(ValueError):
            network.prepare(wrong)
