"""`bnn visualize modules=...`: convolution modules side by side."""

from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from bnn_lightning.analysis.graph_views import module_graphs
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.output import place_of, save, save_table, several
from bnn_lightning.figures.graph_figures import draw_graphs
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.log_filters import silence


@dataclass
class ModulesSettings:
    """The keys of `visualize/modules.yaml`."""

    modules: Any
    out: str
    formats: list[str]
    dpi: int
    planes: int
    size: int


def draw(config: DictConfig) -> None:
    """Draw convolution modules side by side.

    Args:
        config: As composed by Hydra from `visualize/modules.yaml`.

    Raises:
        UserError: An unknown module, or sizes that it does not have.
    """
    settings = read_settings(ModulesSettings, config)
    silence()
    names = several(settings.modules, "modules")
    place = place_of(settings.out, "modules", formats=settings.formats, dpi=settings.dpi)
    try:
        graphs = module_graphs(names, planes=settings.planes, size=settings.size)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"`modules`: {error}") from error
    save({"": draw_graphs(graphs)}, place)
    rows = [{"module": name, **row} for name, (_, graph) in zip(names, graphs, strict=True) for row in graph.rows()]
    save_table(list(rows[0]), (list(row.values()) for row in rows), place.path("csv"))
