"""`bnn visualize soft_label_heatmap=...`: the soft-label bank of a run with self-knowledge distillation."""

from dataclasses import dataclass, field

import torch
from omegaconf import DictConfig

from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, run_name, save, save_table
from bnn_lightning.cli.visualize.runs import read_run
from bnn_lightning.figures.soft_label_heatmap import plot_soft_labels, soft_labels
from bnn_lightning.workflows.checkpoint import CONFIG_KEY
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.log_filters import silence

_BANK = "distiller.bank"


@dataclass
class SoftLabelHeatmapSettings:
    """The keys of `visualize/soft_label_heatmap.yaml`."""

    soft_label_heatmap: str
    out: str
    formats: list[str]
    dpi: int
    temperature: float | None = None
    trust: list[str] = field(default_factory=list)


def draw(config: DictConfig) -> None:
    """Draw the soft-label bank of a run.

    Args:
        config: As composed by Hydra from `visualize/soft_label_heatmap.yaml`.

    Raises:
        UserError: A run that cannot be read, or that has no bank.
    """
    settings = read_settings(SoftLabelHeatmapSettings, config)
    silence()
    place = place_of(
        settings.out,
        f"soft_label_heatmap_{run_name(settings.soft_label_heatmap)}",
        formats=settings.formats,
        dpi=settings.dpi,
    )
    run = read_run(settings.soft_label_heatmap, config, trust=settings.trust)
    state, distill = run.checkpoint["state_dict"], run.checkpoint[CONFIG_KEY].get("distill") or {}
    if f"{_BANK}.bank" not in state:
        given = settings.soft_label_heatmap
        raise UserError(f"`{given}` has no soft-label bank: only runs with distill=skd and beta above 0 have one.")
    bank, valid = state[f"{_BANK}.bank"], state[f"{_BANK}.valid"]
    wanted = settings.temperature
    temperature = float(distill.get("temperature", 4.0)) if wanted is None else wanted
    names = run.class_names() or [str(label) for label in range(len(bank))]
    try:
        figure = plot_soft_labels(bank, temperature=temperature, class_names=names, valid=valid)
    except ValueError as error:
        raise UserError(str(error)) from error
    save({"": figure}, place)
    soft = soft_labels(bank, temperature)
    rows = [
        [names[row], names[column], bool(valid[row]), float(bank[row, column]), float(soft[row, column])]
        for row, column in torch.cartesian_prod(torch.arange(len(bank)), torch.arange(len(bank))).tolist()
    ]
    save_table(["class", "logit_of", "filled", "mean_logit", "soft_label"], rows, place.path("csv"))
