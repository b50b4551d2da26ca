"""Soft-label bank of a run with self-knowledge distillation."""

from dataclasses import dataclass

import torch

from bnn_lightning.figures.soft_label_heatmap import plot_soft_labels, soft_labels
from bnn_lightning.workflows.checkpoint import CONFIG_KEY
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, run_name
from bnn_lightning.workflows.figure_kinds.runs import read_run
from bnn_lightning.workflows.opened import Described

_BANK = "distiller.bank"


@dataclass(kw_only=True)
class SoftLabelHeatmapSettings(FigureSettings):
    """The keys of `visualize/soft_label_heatmap.yaml`."""

    soft_label_heatmap: str
    temperature: float | None = None

    def stem(self, described: Described) -> str:
        return f"soft_label_heatmap_{run_name(self.soft_label_heatmap)}"


def draw(settings: SoftLabelHeatmapSettings, described: Described, place: Place) -> Drawing:
    """Read the soft-label bank of a run."""
    run = read_run(settings.soft_label_heatmap, described, trust=settings.trust)
    state, distill = run.checkpoint["state_dict"], run.checkpoint[CONFIG_KEY].get("distill") or {}
    if f"{_BANK}.bank" not in state:
        given = settings.soft_label_heatmap
        raise UserError(f"`{given}` has no soft-label bank: only runs with distill=skd and beta above 0 have one.")
    bank, valid = state[f"{_BANK}.bank"], state[f"{_BANK}.valid"]
    wanted = settings.temperature
    temperature = float(distill.get("temperature", 4.0)) if wanted is None else wanted
    names = run.class_names() or [str(label) for label in range(len(bank))]
    figure = plot_soft_labels(bank, temperature=temperature, class_names=names, valid=valid)
    soft = soft_labels(bank, temperature)
    rows = [
        [names[row], names[column], bool(valid[row]), float(bank[row, column]), float(soft[row, column])]
        for row, column in torch.cartesian_prod(torch.arange(len(bank)), torch.arange(len(bank))).tolist()
    ]
    return Drawing({"": figure}, (["class", "logit_of", "filled", "mean_logit", "soft_label"], rows))
