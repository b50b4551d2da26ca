"""Share of binary parameters, products and operations of networks."""

from dataclasses import dataclass
from typing import Any

from bnn_lightning.figures.binarization import binarization_bars, binarization_table
from bnn_lightning.models.registry import list_backbones
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, several
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.profiling import profiles_of
from bnn_lightning.workflows.sections import data_section

ASSUMED_DATA = "imagenet"


@dataclass(kw_only=True)
class BinarizationSettings(FigureSettings):
    """The keys of `visualize/binarization.yaml`."""

    binarization: Any

    def stem(self, described: Described) -> str:
        return f"binarization_{described.data.get('name', ASSUMED_DATA)}"


def draw(settings: BinarizationSettings, described: Described, place: Place) -> Drawing:
    """Count networks that were never trained, for images of the data that are named, or ImageNet's."""
    networks = several(settings.binarization, "binarization")
    networks = list_backbones() if networks == ["all"] else networks
    profiles = profiles_of(networks, described.data or data_section(ASSUMED_DATA))
    return Drawing({"": binarization_bars(profiles)}, binarization_table(profiles))
