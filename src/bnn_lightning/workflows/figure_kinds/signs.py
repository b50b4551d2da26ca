"""`bnn visualize signs=...`: statistics of the signs of a run, layer by layer."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from bnn_lightning.analysis.signs import HISTOGRAM_BINS, HISTOGRAM_LIMIT, sign_rows, sign_statistics
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, run_name, save, save_arrays, save_table
from bnn_lightning.cli.visualize.runs import read_run
from bnn_lightning.figures.signs import plot_signs
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.log_filters import silence


@dataclass
class SignsSettings:
    """The keys of `visualize/signs.yaml`."""

    signs: str
    out: str
    formats: list[str]
    dpi: int
    split: Any
    images: int
    batch_size: int
    trust: list[str] = field(default_factory=list)


def draw(config: DictConfig) -> None:
    """Count the signs of a run's network, and draw what was counted.

    Args:
        config: As composed by Hydra from `visualize/signs.yaml`.

    Raises:
        UserError: A run that cannot be read, missing data, or a network without signs.
    """
    settings = read_settings(SignsSettings, config, {"split": ("train", "test")})
    silence()
    place = place_of(settings.out, f"signs_{run_name(settings.signs)}", formats=settings.formats, dpi=settings.dpi)
    run = read_run(settings.signs, config, trust=settings.trust)
    images, _ = run.images(settings.split, settings.images)
    try:
        statistics = sign_statistics(run.network, torch.split(images, settings.batch_size))
    except ValueError as error:
        raise UserError(str(error)) from error
    save({"": plot_signs(statistics, limit=HISTOGRAM_LIMIT)}, place)
    save_table(*sign_rows(statistics), place.path("csv"))
    edges = np.linspace(-HISTOGRAM_LIMIT, HISTOGRAM_LIMIT, HISTOGRAM_BINS + 1)
    histograms = {one.layer: one.histogram.numpy() for one in statistics}
    save_arrays({"edges": edges, **histograms}, place.path("npz"))
