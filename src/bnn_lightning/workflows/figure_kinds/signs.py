"""Sign statistics of a run's network, layer by layer."""

from dataclasses import dataclass

import numpy as np
import torch

from bnn_lightning.analysis.signs import HISTOGRAM_BINS, HISTOGRAM_LIMIT, sign_rows, sign_statistics
from bnn_lightning.figures.signs import plot_signs
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, run_name
from bnn_lightning.workflows.figure_kinds.runs import read_run
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.settings import choice


@dataclass(kw_only=True)
class SignsSettings(FigureSettings):
    """The keys of `visualize/signs.yaml`."""

    signs: str
    split: str = choice("train", "test", default="test")
    images: int = 1000
    batch_size: int = 250

    def stem(self, described: Described) -> str:
        return f"signs_{run_name(self.signs)}"


def draw(settings: SignsSettings, described: Described, place: Place) -> Drawing:
    """Count the signs of a run's network."""
    run = read_run(settings.signs, described, trust=settings.trust)
    images, _ = run.images(settings.split, settings.images)
    statistics = sign_statistics(run.network, torch.split(images, settings.batch_size))
    edges = np.linspace(-HISTOGRAM_LIMIT, HISTOGRAM_LIMIT, HISTOGRAM_BINS + 1)
    histograms = {one.layer: one.histogram.numpy() for one in statistics}
    figure = plot_signs(statistics, limit=HISTOGRAM_LIMIT)
    return Drawing({"": figure}, sign_rows(statistics), {"edges": edges, **histograms})
