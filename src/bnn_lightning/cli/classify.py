"""Classify pictures with a packed network."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from bnn_lightning.cli.errors import UserError
from bnn_lightning.cli.packed_file import read_packed
from bnn_lightning.cli.schema import PredictSettings, read_settings
from bnn_lightning.deploy.runtime import LoadedNetwork, PackedInfo

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
_MOST_RESIZE = 16


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of a picture.

    Attributes:
        image: Its file.
        classes: Names, or numbers where the network has no names, the likeliest first.
        probabilities: Of these, in the same order.
    """

    image: str
    classes: list[str]
    probabilities: list[float]


def classify(config: DictConfig) -> list[Prediction]:
    """Classify pictures, and print a line each.

    Args:
        config: As composed by Hydra from `predict.yaml`.

    Raises:
        UserError: A file that is no packed network or no picture, or a value out of its range.
    """
    settings = read_settings(PredictSettings, config)
    _check(settings)
    files = _pictures(Path(settings.images))
    network = read_packed(settings.packed)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    found: list[Prediction] = []
    try:
        for prediction in _predictions(network, files, settings):
            found.append(prediction)
            pairs = zip(prediction.classes, prediction.probabilities, strict=True)
            words = "  ".join(f"{name} {100 * share:.1f} %" for name, share in pairs)
            print(f"{prediction.image}  {words}", flush=True)
    finally:  # what was done is not lost where a picture cannot be read
        if settings.out is not None and found:
            _write(Path(settings.out), found)
    return found


def picture(path: Path, info: PackedInfo, resize: float = 1.0) -> Tensor:
    """Read a picture as a network takes it: its middle, as uint8, (C, size, size).

    Args:
        path: A file that Pillow reads.
        info: Of the network.
        resize: The shorter side becomes this many times the network's size before the middle is cut out.

    Raises:
        UserError: It cannot be read.
    """
    if info.in_channels not in (1, 3):
        raise UserError(f"Pictures have 1 or 3 channels, and the network takes {info.in_channels}.")
    try:
        with Image.open(path) as file:
            image = _eight_bits(file).convert("L" if info.in_channels == 1 else "RGB")
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"`{path}` is not a picture that can be read: {error}") from error
    size = info.image_size
    scale = round(size * resize) / min(image.size)
    width, height = (max(size, round(side * scale)) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - size) // 2, (height - size) // 2
    pixels = np.array(image.crop((left, top, left + size, top + size)))
    return torch.from_numpy(pixels).view(size, size, -1).permute(2, 0, 1)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a picture with 8 bits a channel; Pillow would cut the values of others off at 255."""
    if image.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels in Pillow's mode {image.mode} have no known range: save it with 8 or 16 bits")
    return image


def _predictions(network: LoadedNetwork, files: list[Path], settings: PredictSettings) -> Iterator[Prediction]:
    names = network.info.class_names
    for start in range(0, len(files), settings.batch_size):
        batch = files[start : start + settings.batch_size]
        images = torch.stack([picture(file, network.info, settings.resize or 1.0) for file in batch])
        with torch.inference_mode():
            shares = network(images).softmax(1)
        top = shares.topk(min(settings.top, shares.shape[1]), dim=1)
        for file, values, classes in zip(batch, top.values.tolist(), top.indices.tolist(), strict=True):
            yield Prediction(str(file), [names[c] if names else str(c) for c in classes], values)


def _check(settings: PredictSettings) -> None:
    """Refuse what could only fail once all pictures are classified."""
    if settings.resize is not None and not 1 <= settings.resize <= _MOST_RESIZE:
        raise UserError(f"`resize` must lie between 1 and {_MOST_RESIZE}, got {settings.resize}.")
    if settings.out is None:
        return
    out = Path(settings.out)
    if out.suffix not in (".csv", ".json"):
        raise UserError(f"`out` must end in .csv or .json, got {out}.")
    if not out.parent.is_dir():
        raise UserError(f"`out`: there is no folder {out.parent}.")


def _pictures(where: Path) -> list[Path]:
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise UserError(f"`images`: there is no file or folder {where}.")
    files = sorted(path for path in where.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if not files:
        raise UserError(f"`images`: {where} holds no picture ({', '.join(sorted(_SUFFIXES))}).")
    return files


def _write(path: Path, found: list[Prediction]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".json":
            json.dump([vars(prediction) for prediction in found], file, indent=1)
            return
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "rank", "class", "probability"])
        for prediction in found:
            pairs = zip(prediction.classes, prediction.probabilities, strict=True)
            writer.writerows([prediction.image, rank, *pair] for rank, pair in enumerate(pairs, start=1))
