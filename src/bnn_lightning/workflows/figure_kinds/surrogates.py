"""`bnn visualize surrogates=...`: value and gradient of binarizers."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from bnn_lightning.analysis.surrogates import surrogate_rows, surrogates_of
from bnn_lightning.binarizers.factory import list_binarizers
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, save, save_table, several
from bnn_lightning.figures.surrogates import plot_surrogates
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.log_filters import silence


@dataclass
class SurrogatesSettings:
    """The keys of `visualize/surrogates.yaml`."""

    surrogates: Any
    out: str
    formats: list[str]
    dpi: int
    progress: list[float]
    points: int
    limit: float


def draw(config: DictConfig) -> None:
    """Draw value and gradient of binarizers.

    Args:
        config: As composed by Hydra from `visualize/surrogates.yaml`.

    Raises:
        UserError: An unknown binarizer, or a value out of its range.
    """
    settings = read_settings(SurrogatesSettings, config)
    silence()
    names = list_binarizers() if settings.surrogates == "all" else several(settings.surrogates, "surrogates")
    place = place_of(settings.out, "surrogates", formats=settings.formats, dpi=settings.dpi)
    try:
        found = surrogates_of(names, progresses=settings.progress, points=settings.points, limit=settings.limit)
    except ValueError as error:
        raise UserError(str(error)) from error
    save({"": plot_surrogates(found)}, place)
    save_table(*surrogate_rows(found), place.path("csv"))
