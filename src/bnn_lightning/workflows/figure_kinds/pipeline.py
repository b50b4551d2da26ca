"""`bnn visualize pipeline=...`: a backbone, a block of it, and the block's convolution module."""

from dataclasses import dataclass

import torch
from omegaconf import DictConfig

from bnn_lightning.analysis.graph_views import pipeline_graphs
from bnn_lightning.cli.schema import read_settings
from bnn_lightning.cli.visualize.graph import network_of
from bnn_lightning.cli.visualize.output import place_of, save, save_table
from bnn_lightning.figures.pipeline import draw_pipeline
from bnn_lightning.models.registry import list_backbones
from bnn_lightning.workflows.errors import UserError, did_you_mean
from bnn_lightning.workflows.log_filters import silence


@dataclass
class PipelineSettings:
    """The keys of `visualize/pipeline.yaml`."""

    pipeline: str
    out: str
    formats: list[str]
    dpi: int
    size: int
    num_classes: int
    width: int | None = None


def draw(config: DictConfig) -> None:
    """Draw a network from three distances.

    Args:
        config: As composed by Hydra from `visualize/pipeline.yaml`.

    Raises:
        UserError: An unknown network, or options that it does not have.
    """
    settings = read_settings(PipelineSettings, config)
    silence()
    name = settings.pipeline
    if name not in list_backbones():
        near = did_you_mean(name, list_backbones())
        raise UserError(f"`pipeline`: there is no network `{name}`.{near} There are: {', '.join(list_backbones())}.")
    place = place_of(settings.out, f"pipeline_{name}", formats=settings.formats, dpi=settings.dpi)
    try:
        network = network_of(name, settings.size, settings.num_classes, settings.width)
        graphs, paths = pipeline_graphs(network, torch.rand(1, network.in_channels, settings.size, settings.size))
    except (ValueError, RuntimeError) as error:
        raise UserError(str(error)) from error
    titles = [name, *(type(network.get_submodule(path)).__name__ for path in paths)]
    save({"": draw_pipeline(graphs, paths, titles)}, place)
    rows = [{"of": of or name, **row} for of, graph in zip(["", *paths], graphs, strict=True) for row in graph.rows()]
    save_table(list(rows[0]), (list(row.values()) for row in rows), place.path("csv"))
