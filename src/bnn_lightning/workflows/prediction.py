"""Classification of image files by a packed network."""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnn_lightning.data.image_io import SUFFIXES, DamagedImageError, prepare_picture
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.utils.text import number_of
from bnn_lightning.workflows.errors import UserError, as_user_error
from bnn_lightning.workflows.exporting import pack_opened
from bnn_lightning.workflows.messages import say, warn
from bnn_lightning.workflows.opened import Described, add_network, describe, open_checkpoint
from bnn_lightning.workflows.out_file import check_out, written
from bnn_lightning.workflows.packed_file import read_packed
from bnn_lightning.workflows.process_state import contained
from bnn_lightning.workflows.settings import PredictSettings, make_settings, takes

Plain = dict[str, Any]

_MOST_RESIZE = 16
_SHOWN = 20  # predictions in the text of a result


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of a picture.

    Attributes:
        image: Its file.
        classes: Names, or numbers where the network has no names, the likeliest first.
        probabilities: Probabilities of these, in the same order.
    """

    image: str
    classes: list[str]
    probabilities: list[float]

    def __repr__(self) -> str:
        pairs = zip(self.classes, self.probabilities, strict=True)
        return f"{self.image}  " + "  ".join(f"{name} {100 * probability:.1f} %" for name, probability in pairs)


@dataclass(frozen=True)
class Classified:
    """Result of a prediction: classes of the images in order, and the files that could not be read.

    Attributes:
        predictions: One a picture.
        damaged: Message on each file that could not be read.
    """

    predictions: list[Prediction]
    damaged: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        lines = [repr(prediction) for prediction in self.predictions[:_SHOWN]]
        lines += [f"... and {number_of(len(self) - _SHOWN, 'more image')}"] * (len(self) > _SHOWN)
        lines += [f"damaged: {number_of(len(self.damaged), 'file')} left out"] * bool(self.damaged)
        return "\n".join(lines) or "no image was classified"

    def __len__(self) -> int:
        return len(self.predictions)

    def __iter__(self) -> Iterator[Prediction]:
        return iter(self.predictions)

    def __getitem__(self, index: int) -> Prediction:
        return self.predictions[index]


@takes(PredictSettings)
@contained()
def predict(
    network: str | Path | None = None,
    images: str | Path | None = None,
    *,
    model: str | Plain | None = None,
    data: str | Plain | None = None,
    data_dir: str | Path | None = None,
    **options: Any,
) -> Classified:
    """Classify pictures with a packed network.

    Args:
        network: A packed file (.bnn), a name of the zoo such as "zoo:mnist_mlp"; or a checkpoint or a run's folder,
            which is packed on the way. The keys `packed` and `ckpt` say which it is.
        images: A picture, or a folder of them.
        model: Network of a published file: a name of `list_backbones()`, or a section of a configuration.
        data: Set whose preparation and classes a checkpoint takes: see `evaluate`.
        data_dir: Folder of the data files, where those of the training are not there; None: `BNN_DATA` of the
            environment, or "data".
        options: Keys of `PredictSettings`.

    Raises:
        UserError: A file that is no packed network, or a value out of its range; with `on_damaged="error"` and once all
            others are classified, a file that is no picture.
    """
    add_network(network, options)
    if images is None:
        raise UserError("`images` has no value: give a picture, or a folder of them.")
    settings = make_settings(PredictSettings, "predict", images=images, **options)
    _check(settings)
    files = _pictures(Path(settings.images))
    loaded, path = _network(settings, describe(model, data, data_dir))
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    found = Classified([])
    try:
        for prediction in _predictions(loaded, path, files, settings, found.damaged):
            found.predictions.append(prediction)
            say(str(prediction))
    finally:  # what was done is not lost after Ctrl-C
        if settings.out is not None and found.predictions:
            _write(Path(settings.out), found.predictions)
    _say_damaged(found.damaged, len(files), settings.on_damaged)
    return found


def _say_damaged(damaged: list[str], number: int, on_damaged: str) -> None:
    """Count the files that could not be read, and end in an error where that is asked for."""
    if not damaged:
        return
    text = f"{len(damaged)} of {number_of(number, 'file')} cannot be read as pictures"
    if on_damaged == "error":
        rest = "The others were classified; on_damaged=skip accepts this." if len(damaged) < number else ""
        raise UserError(f"{text}: {damaged[0]} {rest}".rstrip())
    warn(f"{text}, and were skipped.")


def prepared(network: LoadedNetwork, path: str, resize: float | None = None) -> Preparation:
    """Return the preparation of images that a packed file holds.

    Args:
        network: The network.
        path: Its file, for messages.
        resize: Resizing in the place of the file's: the picture covers this many times the network's size.

    Raises:
        UserError: The file does not say it, and `resize` is not given; or the network takes no pictures.
    """
    info = network.info
    if info.in_channels not in (1, 3):
        raise UserError(f"Pictures have 1 or 3 channels, and the network takes {info.in_channels}.")
    known = info.preparation
    if known is None and resize is None:
        raise UserError(
            f"`{path}` does not say how pictures are prepared for its network: it was written by an older version, or "
            "for data that do not say it. Export it again; or give resize=1.0 if the network was trained on the middle "
            "of pictures whose shorter side is its own size, resize=1.14 if it is 1.14 times that."
        )
    if known is None:
        known = Preparation(size=info.shape[1:], channels=info.in_channels, resize=info.shape[1:])
    if resize is None:
        return known
    height, width = known.inner
    with as_user_error(f"`resize={resize}`: ", (ValueError,)):
        return replace(known, resize=(round(height * resize), round(width * resize)))


def _network(settings: PredictSettings, described: Described) -> tuple[LoadedNetwork, str]:
    """Return the network that `packed=` or `ckpt=` names, packed, and its file."""
    if (settings.packed is None) == (settings.ckpt is None):
        raise UserError("name one network: packed=net.bnn, or ckpt=runs/.../final.ckpt.")
    if settings.packed is not None:
        if "_target_" in described.model or "_target_" in described.data:
            raise UserError(f"`{settings.packed}` says itself what it is: leave `model=` and `data=` out.")
        return read_packed(settings.packed), settings.packed
    assert settings.ckpt is not None
    opened = open_checkpoint(settings.ckpt, described, trust=settings.trust)
    return pack_opened(opened, trust=settings.trust), opened.path


def _predictions(
    network: LoadedNetwork, path: str, files: list[Path], settings: PredictSettings, damaged: list[str]
) -> Iterator[Prediction]:
    """Classify files in batches; `damaged` takes a message on each that could not be read."""
    names, preparation = network.info.class_names, prepared(network, path, settings.resize)
    for start in range(0, len(files), settings.batch_size):
        images: dict[Path, Tensor] = {}
        for file in files[start : start + settings.batch_size]:
            try:
                images[file] = torch.from_numpy(prepare_picture(file, preparation)).permute(2, 0, 1)
            except (DamagedImageError, OSError) as error:
                damaged.append(str(error))
                warn(f"not classified: {error}")
        if not images:
            continue
        with torch.inference_mode():
            shares = network(torch.stack(list(images.values()))).softmax(1)
        top = shares.topk(min(settings.top, shares.shape[1]), dim=1)
        for file, values, classes in zip(images, top.values.tolist(), top.indices.tolist(), strict=True):
            yield Prediction(str(file), [names[c] if names else str(c) for c in classes], values)


def _check(settings: PredictSettings) -> None:
    """Check values that would fail only after all images are classified."""
    if settings.resize is not None and not 1 <= settings.resize <= _MOST_RESIZE:
        raise UserError(f"`resize` must lie between 1 and {_MOST_RESIZE}, got {settings.resize}.")
    if settings.out is None:
        return
    out = Path(settings.out)
    if out.suffix not in (".csv", ".json"):
        raise UserError(f"`out` must end in .csv or .json, got {out}.")
    check_out(out)


def _pictures(where: Path) -> list[Path]:
    if where.is_file():
        return [where]
    if not where.is_dir():
        raise UserError(f"`images`: there is no file or folder {where}.")
    files = sorted(path for path in where.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(where).parts)]
    if not files:
        raise UserError(f"`images`: {where} holds no picture ({', '.join(SUFFIXES)}).")
    return files


def _write(path: Path, found: list[Prediction]) -> None:
    # A file's name may be no text: it is written with escapes.
    with (
        written(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
    ):
        if path.suffix == ".json":
            json.dump([vars(prediction) for prediction in found], file, indent=1)
            return
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "rank", "class", "probability"])
        for prediction in found:
            pairs = zip(prediction.classes, prediction.probabilities, strict=True)
            writer.writerows([prediction.image, rank, *pair] for rank, pair in enumerate(pairs, start=1))
