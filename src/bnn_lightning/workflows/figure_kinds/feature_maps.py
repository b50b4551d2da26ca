"""`bnn visualize feature_maps=...`: what the binary layers of a run's network see of an image."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from bnn_lightning.analysis.feature_maps import record_maps, spread_over
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, run_name, save, save_arrays
from bnn_lightning.cli.visualize.runs import Run, read_run
from bnn_lightning.data.image_io import prepare_picture
from bnn_lightning.data.image_io import read_picture as read_picture_file
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.figures.feature_maps import plot_feature_maps
from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.log_filters import silence


@dataclass
class FeatureMapsSettings:
    """The keys of `visualize/feature_maps.yaml`."""

    feature_maps: str
    out: str
    formats: list[str]
    dpi: int
    index: int
    channels: int
    count: int
    image: str | None = None
    size: int | None = None
    layers: list[str] | None = None
    trust: list[str] = field(default_factory=list)


def draw(config: DictConfig) -> None:
    """Record what binary layers see of an image, and draw it.

    Args:
        config: As composed by Hydra from `visualize/feature_maps.yaml`.

    Raises:
        UserError: A run or picture that cannot be read, missing data, or layers that there are not.
    """
    settings = read_settings(FeatureMapsSettings, config)
    silence()
    for key in ("channels", "count"):
        if getattr(settings, key) < 1:
            raise UserError(f"`{key}` must be at least 1, got {getattr(settings, key)}.")
    name = f"feature_maps_{run_name(settings.feature_maps)}"
    place = place_of(settings.out, name, formats=settings.formats, dpi=settings.dpi)
    run = read_run(settings.feature_maps, config, trust=settings.trust)
    image = _image(run, settings)
    try:
        maps = record_maps(run.network, image, settings.layers)
        if settings.layers is None:
            maps = {name: maps[name] for name in spread_over(list(maps), settings.count)}
        figure = plot_feature_maps(image, maps, channels=settings.channels)
    except ValueError as error:
        raise UserError(str(error)) from error
    save({"": figure}, place)
    arrays = {f"{name}.real": one.real.numpy() for name, one in maps.items()}
    arrays |= {f"{name}.signs": one.signs.to(torch.int8).numpy() for name, one in maps.items()}
    save_arrays({"image": image.numpy(), **arrays}, place.path("npz"))


def _image(run: Run, settings: FeatureMapsSettings) -> Tensor:
    """Return the image, (C, H, W) in [0, 1]: a file, or one of the test set."""
    if settings.image is not None:
        preparation = getattr(build_datamodule(run.data, trust=run.trust), "preparation", None)
        if preparation is None:
            raise UserError(f"`image`: {run.data.get('name')} does not say how pictures are prepared; take `index`.")
        return read_picture(Path(settings.image), preparation, size=settings.size)
    if settings.index < 0:
        raise UserError(f"`index` must be 0 or more, got {settings.index}.")
    images, _ = run.images("test", settings.index + 1)
    if len(images) <= settings.index:
        raise UserError(f"`index` must be below the number of test images, {len(images)}, got {settings.index}.")
    image = images[settings.index]
    if settings.size is None:
        return image
    return torch.nn.functional.interpolate(image[None], size=_sides(image, settings.size), mode="bilinear")[0]


def _sides(image: Tensor, size: int) -> tuple[int, int]:
    height, width = image.shape[1:]
    scale = size / min(height, width)
    return round(height * scale), round(width * scale)


def read_picture(path: Path, preparation: Preparation, *, size: int | None = None) -> Tensor:
    """Read a picture, (C, H, W) in [0, 1], as the network sees it in evaluation.

    Args:
        path: A picture.
        preparation: What the network was evaluated with.
        size: The whole picture is shown instead, with this many pixels on its shorter side; None is as in evaluation.

    Raises:
        UserError: It cannot be read.
    """
    try:
        image = read_picture_file(path)
        if size is not None:
            scale = size / min(image.size)
            height, width = (max(1, round(side * scale)) for side in (image.height, image.width))
            preparation = replace(preparation, size=(height, width), resize=(height, width), border=0)
        pixels = prepare_picture(image, preparation)
    except (OSError, ValueError) as error:
        raise UserError(f"`image`: {path} is not a picture that can be read: {error}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
