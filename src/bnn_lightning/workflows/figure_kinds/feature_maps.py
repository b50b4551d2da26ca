"""Feature maps of a run's network: inputs of binary layers, and their signs."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from bnn_lightning.analysis.feature_maps import record_maps, spread_over
from bnn_lightning.data.image_io import prepare_picture
from bnn_lightning.data.image_io import read_picture as read_picture_file
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.figures.feature_maps import plot_feature_maps
from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, run_name
from bnn_lightning.workflows.figure_kinds.runs import VisualizedRun, read_run
from bnn_lightning.workflows.opened import Described


@dataclass(kw_only=True)
class FeatureMapsSettings(FigureSettings):
    """The keys of `visualize/feature_maps.yaml`."""

    feature_maps: str
    index: int = 0
    image: str | None = None
    size: int | None = None
    layers: list[str] | None = None
    count: int = 4
    channels: int = 6

    def stem(self, described: Described) -> str:
        return f"feature_maps_{run_name(self.feature_maps)}"


def draw(settings: FeatureMapsSettings, described: Described, place: Place) -> Drawing:
    """Record the inputs of binary layers for an image."""
    run = read_run(settings.feature_maps, described, trust=settings.trust)
    image = _image(run, settings)
    maps = record_maps(run.network, image, settings.layers)
    if settings.layers is None:
        maps = {name: maps[name] for name in spread_over(list(maps), settings.count)}
    figure = plot_feature_maps(image, maps, channels=settings.channels)
    arrays = {f"{name}.real": one.real.numpy() for name, one in maps.items()}
    arrays |= {f"{name}.signs": one.signs.to(torch.int8).numpy() for name, one in maps.items()}
    return Drawing({"": figure}, arrays={"image": image.numpy(), **arrays})


def _image(run: VisualizedRun, settings: FeatureMapsSettings) -> Tensor:
    """Return the image, (C, H, W) in [0, 1]: a file, or one of the test set."""
    if settings.image is not None:
        preparation = getattr(build_datamodule(run.data, trust=run.trust), "preparation", None)
        if preparation is None:
            raise UserError(f"`image`: {run.data.get('name')} does not say how pictures are prepared; take `index`.")
        return read_picture(Path(settings.image), preparation, size=settings.size)
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
        preparation: Preparation of images that the network was evaluated with.
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
