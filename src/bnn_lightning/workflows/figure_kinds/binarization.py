"""`bnn visualize binarization=...`: how binary networks are."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, save, save_table, several
from bnn_lightning.cli.visualize.registry import profiles_of
from bnn_lightning.figures.binarization import binarization_bars, binarization_table
from bnn_lightning.models.registry import list_backbones


@dataclass
class BinarizationSettings:
    """The keys of `visualize/binarization.yaml`."""

    binarization: Any
    out: str
    formats: list[str]
    dpi: int


def draw(config: DictConfig) -> None:
    """Draw how binary networks are.

    Args:
        config: As composed by Hydra from `visualize/binarization.yaml`.

    Raises:
        UserError: An unknown network or data set.
    """
    settings = read_settings(BinarizationSettings, config)
    networks = several(settings.binarization, "binarization")
    if networks == ["all"]:
        networks = list_backbones()
    data = str(config.data.name)
    place = place_of(settings.out, f"binarization_{data}", formats=settings.formats, dpi=settings.dpi)
    profiles = profiles_of(networks, data)
    save_table(*binarization_table(profiles), place.path("csv"))
    save({"": binarization_bars(profiles)}, place)
