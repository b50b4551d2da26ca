"""Draw the basic blocks of binary networks and their convolution modules: `python tools/draw_graphs.py docs/graphs`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import torch

from bnn_lightning.analysis import block_title, create_block, list_blocks, module_graphs, pipeline_graphs, trace_graph
from bnn_lightning.figures import draw_graph, draw_graphs, draw_pipeline
from bnn_lightning.models import create_backbone

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures() -> "dict[str, Figure]":
    """Return the pictures of the folder, by name."""
    torch.manual_seed(0)
    found = {
        name: draw_graph(trace_graph(create_block(name, 64, 64), torch.randn(1, 64, 16, 16)), block_title(name))
        for name in list_blocks()
    }
    network = create_backbone("bnext_tiny", num_classes=1000, image_size=224)
    graphs, paths = pipeline_graphs(network, torch.rand(1, 3, 224, 224))
    titles = ["bnext_tiny", *(type(network.get_submodule(path)).__name__ for path in paths)]
    return {**found, "modules": draw_graphs(module_graphs()), "pipeline": draw_pipeline(graphs, paths, titles)}


def main(folder: Path) -> None:
    """Write the pictures as SVG."""
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bnn-lightning"}):
        for name, figure in figures().items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
