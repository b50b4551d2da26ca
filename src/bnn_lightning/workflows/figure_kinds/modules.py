"""Graphs of convolution modules, side by side."""

from dataclasses import dataclass, field
from typing import Any

from bnn_lightning.analysis.graph_views import module_graphs
from bnn_lightning.figures.graph_figures import draw_graphs
from bnn_lightning.workflows.errors import as_user_error
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, graph_table, several
from bnn_lightning.workflows.opened import Described


@dataclass(kw_only=True)
class ModulesSettings(FigureSettings):
    """The keys of `visualize/modules.yaml`."""

    modules: Any
    planes: int = 64
    size: int = 16
    formats: list[str] = field(default_factory=lambda: ["svg"])

    def stem(self, described: Described) -> str:
        return "modules"


def draw(settings: ModulesSettings, described: Described, place: Place) -> Drawing:
    """Trace convolution modules."""
    names = several(settings.modules, "modules")
    with as_user_error("`modules`: ", (ValueError, RuntimeError)):
        graphs = module_graphs(names, planes=settings.planes, size=settings.size)
    table = graph_table({name: graph for name, (_, graph) in zip(names, graphs, strict=True)}, "module")
    return Drawing({"": draw_graphs(graphs)}, table)
