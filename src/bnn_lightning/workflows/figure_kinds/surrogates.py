"""Values and surrogate gradients of binarizers."""

from dataclasses import dataclass, field
from typing import Any

from bnn_lightning.analysis.surrogates import surrogate_rows, surrogates_of
from bnn_lightning.binarizers.factory import list_binarizers
from bnn_lightning.figures.surrogates import plot_surrogates
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, several
from bnn_lightning.workflows.opened import Described


@dataclass(kw_only=True)
class SurrogatesSettings(FigureSettings):
    """The keys of `visualize/surrogates.yaml`."""

    surrogates: Any
    progress: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    points: int = 401
    limit: float = 2.0

    def stem(self, described: Described) -> str:
        return "surrogates"


def draw(settings: SurrogatesSettings, described: Described, place: Place) -> Drawing:
    """Evaluate binarizers and their gradients on an interval."""
    names = list_binarizers() if settings.surrogates == "all" else several(settings.surrogates, "surrogates")
    found = surrogates_of(names, progresses=settings.progress, points=settings.points, limit=settings.limit)
    return Drawing({"": plot_surrogates(found)}, surrogate_rows(found))
