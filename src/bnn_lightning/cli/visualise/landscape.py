"""`bnn visualise landscape=...`: the loss around trained networks."""

from dataclasses import dataclass, field
from typing import Any, get_args

from omegaconf import DictConfig
from torch import Tensor, nn

from bnn_lightning.cli.checkpoint import embedded_config, load_backbone, network_file, read_checkpoint
from bnn_lightning.cli.errors import UserError
from bnn_lightning.cli.noise import silence
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualise.images import data_of, labelled_images
from bnn_lightning.cli.visualise.output import place_of, run_names, save, save_table, several
from bnn_lightning.visualise.directions import Normalised, Perturbed, random_direction
from bnn_lightning.visualise.landscape import Landscape, as_rows, grid, grid_points, landscape_of
from bnn_lightning.visualise.landscape_figures import landscape_contours, landscape_lines
from bnn_lightning.visualise.scan import Problem, scan

CHOICES = {"perturb": get_args(Perturbed), "normalise": get_args(Normalised), "split": ("train", "test")}


@dataclass
class LandscapeSettings:
    """The keys of `visualise/landscape.yaml`."""

    landscape: Any
    out: str
    formats: list[str]
    dpi: int
    dimensions: int
    points: int
    radius: float
    seed: int
    perturb: Any
    normalise: Any
    split: Any
    images: int
    batch_size: int
    cap: float | None = None
    trust: list[str] = field(default_factory=list)


def draw(config: DictConfig) -> None:
    """Measure the loss around networks, and draw it.

    Args:
        config: As composed by Hydra from `visualise/landscape.yaml`.

    Raises:
        UserError: A run that cannot be read, missing data, or a value out of its range.
    """
    settings = read_settings(LandscapeSettings, config, CHOICES)
    silence()
    runs = several(settings.landscape, "landscape")
    names = run_names(runs)
    place = place_of(settings.out, f"landscape_{'_'.join(names)}", formats=settings.formats, dpi=settings.dpi)
    networks = [load_backbone(run, trust=settings.trust) for run in runs]
    first = network_file(runs[0])
    data = data_of(embedded_config(read_checkpoint(first), first), config)
    images, labels = labelled_images(data, split=settings.split, count=settings.images, trust=settings.trust)
    try:
        found = [
            _measure(network, name, images, labels, settings) for network, name in zip(networks, names, strict=True)
        ]
        figure = landscape_lines(found) if settings.dimensions == 1 else landscape_contours(found, cap=settings.cap)
    except ValueError as error:
        raise UserError(str(error)) from error
    for one in found:
        save_table(*as_rows(one), place.path("csv", one.name if len(found) > 1 else ""))
    save({"": figure}, place)


def _measure(network: nn.Module, name: str, images: Tensor, labels: Tensor, settings: LandscapeSettings) -> Landscape:
    steps = grid(settings.points, settings.radius)
    directions = [
        random_direction(network, seed=settings.seed + index, perturb=settings.perturb, normalise=settings.normalise)
        for index in range(settings.dimensions)
    ]
    problem = Problem(network, directions, images, labels, settings.batch_size)
    points = enumerate(grid_points(steps, settings.dimensions))
    return landscape_of(name, steps, settings.dimensions, scan(problem, points))
