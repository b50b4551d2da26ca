"""Every kind of picture on every path: a network is shown the same pixels, to the bit."""

import io
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from bnn_lightning.data import DigitsDataModule, ImageNetDataModule, ImageNetStreamDataModule, MNISTDataModule
from bnn_lightning.data.convert import convert_folder
from bnn_lightning.data.decode import decode_image, torchcodec
from bnn_lightning.data.image_io import FORMATS, DamagedImageError, open_picture, prepare_picture, read_picture
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.data.prepare import Shrink

sys.path.insert(0, str(Path(__file__).parent))
from kinds import HEIGHT, RGB, WIDTH, as_gray, as_rgb, content, kinds, refused

KINDS, REFUSED = kinds(), refused()
COLOR = Preparation(size=(HEIGHT, WIDTH), channels=3, resize=(HEIGHT, WIDTH))
OPTIONS: dict[str, Any] = {
    "num_classes": None,
    "image_size": [HEIGHT, WIDTH],
    "crop_ratio": 1.0,
    "batch_size": 1,
    "num_workers": 0,
    "eval_batch_size": 64,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("kinds")
    for part in ("train", "val"):
        (root / part / "a").mkdir(parents=True)
        for name, (data, _) in KINDS.items():
            (root / part / "a" / name).write_bytes(data)
    return root


def shown(data: Any) -> dict[str, Tensor]:
    """Return the evaluation images of a module by file name, (C, H, W) in [0, 1]."""
    data.setup("test")
    (batch,) = data.test_dataloader()
    images, _ = data.on_after_batch_transfer(batch, 0)
    source = data._sets["test"].source
    return {Path(source.name(int(i))).name: image for i, image in zip(batch.indices, images, strict=True)}


def in_unit(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("name", KINDS)
def test_prediction_reads_the_pixels_that_were_written(name: str, folder: Path) -> None:
    data, pixels = KINDS[name]
    assert np.array_equal(prepare_picture(folder / "val" / "a" / name, COLOR), as_rgb(pixels))
    assert np.array_equal(prepare_picture(data, COLOR), as_rgb(pixels))
    assert np.array_equal(prepare_picture(data, replace(COLOR, channels=1)), as_gray(pixels))


@pytest.mark.parametrize("decoder", ["pil", "torchcodec"])
def test_evaluation_shows_what_prediction_shows(folder: Path, decoder: str) -> None:
    if decoder == "torchcodec" and torchcodec() is None:
        pytest.skip("needs torchcodec")
    images = shown(ImageNetDataModule(folder, **OPTIONS, decoder=decoder))
    assert images.keys() == KINDS.keys()
    for name, (_, pixels) in KINDS.items():
        assert torch.equal(images[name], in_unit(as_rgb(pixels))), name


@pytest.mark.parametrize("name", KINDS)
def test_training_crops_from_the_same_pixels(name: str) -> None:
    data, pixels = KINDS[name]
    expected = as_rgb(pixels)
    assert np.array_equal(decode_image(data).permute(1, 2, 0).numpy(), expected)
    assert np.array_equal(decode_image(data, channels=1).permute(1, 2, 0).numpy(), as_gray(pixels))


def test_a_stream_shows_the_same(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("litdata", reason="needs the extra `stream`")
    report = convert_folder(
        folder, tmp_path / "s", Shrink(size=None), chunk_mib=1, num_workers=1, say=lambda line: None
    )
    assert (report.written, report.damaged) == (2 * len(KINDS), [])
    for name, image in shown(ImageNetStreamDataModule(tmp_path / "s", **OPTIONS)).items():
        assert torch.equal(image, in_unit(as_rgb(KINDS[name][1]))), name


@pytest.mark.parametrize("name", KINDS)
def test_prepare_writes_the_same_pixels(name: str) -> None:
    """Apart from JPEG's losses the file is that of the expected pixels, or keeps its bytes."""
    data, pixels = KINDS[name]
    written = Shrink(size=400)(data, name=name)
    kept = name in ("rgb.jpg", "gray.jpg", "exif8.jpg")
    pixels = as_rgb(pixels) if name.endswith(".gif") else pixels  # its gray is a palette
    assert written == (data if kept else content(Image.fromarray(pixels), "JPEG", quality=90))
    assert np.array_equal(prepare_picture(written, COLOR).shape, (HEIGHT, WIDTH, 3))


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_on_every_path(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a" / name
    path.parent.mkdir()
    path.write_bytes(REFUSED[name])
    for read in (
        lambda: prepare_picture(path, COLOR),
        lambda: decode_image(str(path)),
        lambda: Shrink(size=400)(REFUSED[name], name=str(path)),
        lambda: Shrink(size=None)(REFUSED[name], name=str(path)),
    ):
        with pytest.raises(DamagedImageError, match=name):
            read()


def test_postscript_under_another_name_starts_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("a program was started"))
    monkeypatch.setattr(subprocess, "check_call", lambda *args, **kwargs: pytest.fail("a program was started"))
    with pytest.raises(DamagedImageError):
        read_picture(REFUSED["postscript.png"], name="postscript.png")


def test_formats_that_pillow_knows_besides_are_not_opened() -> None:
    Image.init()
    opened = set()
    for format in ("TGA", "PCX", "SGI", "ICO", "JPEG2000", "DDS", "EPS", *FORMATS):
        try:
            data = content(Image.fromarray(RGB), format)
        except (KeyError, OSError, ValueError):
            continue
        with suppress(DamagedImageError):
            opened.add(open_picture(data).format)
    assert opened == set(FORMATS)


# Shapes


@pytest.mark.parametrize("width, height", [(500, 375), (375, 500), (301, 200), (224, 224), (40, 31), (1000, 80)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_scaling_and_cutting_are_torchvisions_on_pillow(width: int, height: int, interpolation: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    mode = v2.InterpolationMode(interpolation)
    reference = v2.Compose([v2.Resize(64, interpolation=mode), v2.CenterCrop(55)])(Image.fromarray(pixels))
    preparation = Preparation(size=(55, 55), channels=3, resize=(64, 64), interpolation=interpolation)
    assert np.array_equal(prepare_picture(pixels, preparation), np.array(reference))


@pytest.mark.parametrize("width, height", [(100_000, 1), (1, 100_000), (60_000, 3), (1, 1), (2, 5000)])
def test_extreme_shapes_are_cut_before_they_are_scaled(
    width: int, height: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = content(Image.new("L", (width, height), 77), "PNG")
    sizes: list[int] = []
    resize = Image.Image.resize

    def counted(image: Image.Image, size: tuple[int, int], *args: Any, **kwargs: Any) -> Image.Image:
        sizes.append(size[0] * size[1])
        return resize(image, size, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "resize", counted)
    preparation = Preparation(size=(224, 224), channels=3, resize=(256, 256))
    assert (prepare_picture(data, preparation) == 77).all()
    assert max(sizes) <= 17 * 256 * 256


@pytest.mark.parametrize("size, resize", [((24, 32), (24, 32)), ((32, 24), (36, 27)), ((10, 50), (10, 50))])
def test_sizes_that_are_not_square(size: tuple[int, int], resize: tuple[int, int]) -> None:
    preparation = Preparation(size=size, channels=1, resize=resize)
    for width, height in ((90, 40), (40, 90), (32, 24), (7, 5)):
        scaled = preparation.scaled(width, height)
        assert (scaled[0] == resize[1] and scaled[1] >= resize[0]) or (scaled[1] == resize[0] and scaled[0] > resize[1])
        assert prepare_picture(np.zeros((height, width), np.uint8), preparation).shape == (*size, 1)


def test_arrays_and_pillows_images_are_pictures_too() -> None:
    for source in (RGB, Image.fromarray(RGB), np.dstack([RGB, np.full((HEIGHT, WIDTH), 255, np.uint8)])):
        assert np.array_equal(prepare_picture(source, COLOR), RGB)
    assert np.array_equal(prepare_picture(RGB[..., :1], COLOR), as_rgb(RGB[..., 0]))
    with pytest.raises(DamagedImageError, match="floats"):
        prepare_picture(RGB[..., 0].astype(np.float32), COLOR)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0, 3)])
def test_a_picture_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DamagedImageError):
        prepare_picture(np.zeros(shape, np.uint8), COLOR)


@pytest.mark.parametrize("name", ["missing.png", "folder.png", "dangling.png"])
def test_a_file_that_cannot_be_opened_is_named_as_damaged_ones_are(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere")
    for read in (lambda: prepare_picture(tmp_path / name, COLOR), lambda: decode_image(str(tmp_path / name))):
        with pytest.raises(DamagedImageError, match=name):
            read()


def test_broken_exif_data_damage_no_picture() -> None:
    data = bytearray(content(Image.fromarray(RGB), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff junk"))
    assert np.array_equal(prepare_picture(bytes(data), COLOR), np.array(Image.open(io.BytesIO(data))))


def test_damaged_content_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that lie, in every format: pixels, or `DamagedImageError`, and nothing else."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1 << 20)
    random = np.random.default_rng(0)
    for name, (data, _) in KINDS.items():
        for _ in range(20):
            changed = np.frombuffer(data, np.uint8).copy()
            changed[random.integers(0, len(changed), 3)] = random.integers(0, 256, 3)
            with suppress(DamagedImageError):
                assert read_picture(changed.tobytes(), name=name).mode in ("L", "RGB")


# Sets that are in memory


@pytest.mark.parametrize("size", [8, 28, 32])
def test_digits_as_pictures_are_digits_as_a_set(size: int) -> None:
    small, _ = DigitsDataModule(image_size=8).read(train=False)
    module = DigitsDataModule(image_size=size)
    images, _ = module.read(train=False)
    assert module.preparation is not None
    for scan, image in zip(small[:40], images, strict=False):
        data = content(Image.fromarray(scan[0].numpy()), "PNG")
        assert np.array_equal(prepare_picture(data, module.preparation)[..., 0], image[0].numpy())


@pytest.mark.data
@pytest.mark.parametrize("size", [28, 32])
def test_mnist_as_pictures_is_mnist_as_a_set(size: int, data_root: Path) -> None:
    scans, _ = MNISTDataModule(data_root, download=False).read(train=False)
    module = MNISTDataModule(data_root, download=False, image_size=size)
    images, _ = module.read(train=False)
    assert module.preparation is not None
    for scan, image in zip(scans[:200], images, strict=False):
        data = content(Image.fromarray(scan[0].numpy()), "PNG")
        assert np.array_equal(prepare_picture(data, module.preparation)[..., 0], image[0].numpy())


# The plain values


def test_preparations_survive_json() -> None:
    for preparation in (
        COLOR,
        replace(COLOR, size=(8, 8), channels=1, resize=(9, 9), interpolation="bicubic", border=1),
    ):
        assert Preparation.from_plain(preparation.plain()) == preparation


@pytest.mark.parametrize(
    "change",
    [
        *({"size": [0, 8]}, {"size": [8]}, {"size": [8.0, 8]}, {"resize": [5, 8]}, {"resize": [1 << 30, 1 << 30]}),
        *({"channels": 2}, {"channels": True}, {"interpolation": "nearest"}, {"border": 3}, {"border": -1}),
        {"more": 1},
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Preparation.from_plain({**COLOR.plain(), **change})
    for plain in (None, [], {}, {"size": [1, 1]}):
        with pytest.raises(ValueError, match="does not say how pictures are prepared"):
            Preparation.from_plain(plain)
