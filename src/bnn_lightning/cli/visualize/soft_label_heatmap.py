"""`bnn visualise bank=...`: the soft-label bank of a run with self-knowledge distillation."""

from dataclasses import dataclass, field

import torch
from omegaconf import DictConfig

from bnn_lightning.cli.checkpoint import CONFIG_KEY
from bnn_lightning.cli.errors import UserError
from bnn_lightning.cli.noise import silence
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualise.output import place_of, run_name, save, save_table
from bnn_lightning.cli.visualise.runs import read_run
from bnn_lightning.visualise.bank_figure import plot_bank, soft_labels

_BANK = "distiller.bank"


@dataclass
class BankSettings:
    """The keys of `visualise/bank.yaml`."""

    bank: str
    out: str
    formats: list[str]
    dpi: int
    temperature: float | None = None
    trust: list[str] = field(default_factory=list)


def draw(config: DictConfig) -> None:
    """Draw the soft-label bank of a run.

    Args:
        config: As composed by Hydra from `visualise/bank.yaml`.

    Raises:
        UserError: A run that cannot be read, or that has no bank.
    """
    settings = read_settings(BankSettings, config)
    silence()
    place = place_of(settings.out, f"bank_{run_name(settings.bank)}", formats=settings.formats, dpi=settings.dpi)
    run = read_run(settings.bank, config, trust=settings.trust)
    state, distill = run.checkpoint["state_dict"], run.checkpoint[CONFIG_KEY].get("distill") or {}
    if f"{_BANK}.bank" not in state:
        raise UserError(
            f"`{settings.bank}` has no soft-label bank: only runs with distill=skd, beta above 0, have one."
        )
    bank, valid = state[f"{_BANK}.bank"], state[f"{_BANK}.valid"]
    given = settings.temperature
    temperature = float(distill.get("temperature", 4.0)) if given is None else given
    names = run.class_names() or [str(label) for label in range(len(bank))]
    try:
        figure = plot_bank(bank, temperature=temperature, class_names=names, valid=valid)
    except ValueError as error:
        raise UserError(str(error)) from error
    save({"": figure}, place)
    soft = soft_labels(bank.float(), temperature)
    rows = [
        [names[row], names[column], bool(valid[row]), float(bank[row, column]), float(soft[row, column])]
        for row, column in torch.cartesian_prod(torch.arange(len(bank)), torch.arange(len(bank))).tolist()
    ]
    save_table(["class", "logit_of", "filled", "mean_logit", "soft_label"], rows, place.path("csv"))
