"""Network at three levels: backbone, block and convolution module."""

from dataclasses import dataclass, field

import torch

from bnn_lightning.analysis.graph_views import pipeline_graphs
from bnn_lightning.figures.pipeline import draw_pipeline
from bnn_lightning.models.registry import list_backbones
from bnn_lightning.workflows.errors import UserError, as_user_error, did_you_mean
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, graph_table
from bnn_lightning.workflows.figure_kinds.graph import network_of
from bnn_lightning.workflows.opened import Described


@dataclass(kw_only=True)
class PipelineSettings(FigureSettings):
    """The keys of `visualize/pipeline.yaml`."""

    pipeline: str
    size: int = 224
    num_classes: int = 1000
    width: int | None = None
    formats: list[str] = field(default_factory=lambda: ["svg"])

    def stem(self, described: Described) -> str:
        return f"pipeline_{self.pipeline}"


def draw(settings: PipelineSettings, described: Described, place: Place) -> Drawing:
    """Trace a network from three distances."""
    name = settings.pipeline
    if name not in list_backbones():
        near = did_you_mean(name, list_backbones())
        raise UserError(f"`pipeline`: there is no network `{name}`.{near} There are: {', '.join(list_backbones())}.")
    network = network_of(name, settings.size, settings.num_classes, settings.width)
    with as_user_error(of=(RuntimeError,)):  # sizes that the network does not take
        graphs, paths = pipeline_graphs(network, torch.rand(1, network.in_channels, settings.size, settings.size))
    titles = [name, *(type(network.get_submodule(path)).__name__ for path in paths)]
    table = graph_table(dict(zip([name, *paths], graphs, strict=True)), "of")
    return Drawing({"": draw_pipeline(graphs, paths, titles)}, table)
