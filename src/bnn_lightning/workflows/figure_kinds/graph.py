"""Graph of a block or a network, as a figure, for TensorBoard and as ONNX."""

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from bnn_lightning.analysis.graph_blocks import block_title, create_block, list_blocks
from bnn_lightning.analysis.graph_files import onnx_model, tensorboard_graph
from bnn_lightning.analysis.trace import trace_graph
from bnn_lightning.deploy.export.onnx import quiet_exporter
from bnn_lightning.figures.graph_figures import draw_graph
from bnn_lightning.models.backbone import Backbone
from bnn_lightning.models.network_graph import NetworkGraph, to_depth, without_weights
from bnn_lightning.models.registry import create_backbone, list_backbones
from bnn_lightning.utils.image_size import sides
from bnn_lightning.utils.optional import require
from bnn_lightning.workflows.errors import UserError, as_user_error, did_you_mean
from bnn_lightning.workflows.figure_kinds.base import Drawing, FigureSettings, Place, graph_table, run_name
from bnn_lightning.workflows.figure_kinds.runs import read_run
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.opened import Described
from bnn_lightning.workflows.out_file import written
from bnn_lightning.zoo.files import is_name

# Height and width of what enters, where nothing says.
BLOCK_SIZE, NETWORK_SIZE = 16, 32
# A network has too many operations for a figure: modules this deep are one node.
NETWORK_DEPTH = 2
# Libraries of the formats beside the figure, by extra, which is called as their key.
_LIBRARIES = {"tensorboard": ("tensorboard",), "onnx": ("onnx", "onnxscript")}


@dataclass(kw_only=True)
class GraphSettings(FigureSettings):
    """The keys of `visualize/graph.yaml`."""

    graph: str
    formats: list[str] = field(default_factory=lambda: ["svg"])
    tensorboard: bool | None = None
    onnx: bool | None = None
    inplanes: int = 64
    outplanes: int = 64
    stride: int = 1
    size: int | None = None
    num_classes: int = 10
    width: int | None = None
    binary: bool = True
    depth: int | None = None
    weights: bool = True

    def stem(self, described: Described) -> str:
        return f"graph_{run_name(self.graph)}"


@dataclass(frozen=True)
class GraphSubject:
    """Subject of a figure.

    Attributes:
        module: Takes one tensor.
        example: Two inputs.
        title: Title of the figure.
        depth: Modules this deep are one node; None shows every operation.
    """

    module: nn.Module
    example: Tensor
    title: str
    depth: int | None


def draw(settings: GraphSettings, described: Described, place: Place) -> Drawing:
    """Trace a block or a network."""
    for extra, libraries in _LIBRARIES.items():
        for library in libraries if getattr(settings, extra) else ():
            require(library, extra=extra)
    with as_user_error(of=(RuntimeError,)):  # sizes that the network does not take
        subject = subject_of(settings)
        whole = trace_graph(subject.module, subject.example)
    graph = whole if settings.weights else without_weights(whole)
    depth = subject.depth if settings.depth is None else settings.depth
    graph = graph if depth is None else to_depth(graph, depth)
    files = []
    if _wanted(settings.tensorboard, "tensorboard"):
        files.append(write_event_file(whole, place.path("tensorboard").with_suffix("")))
    if _wanted(settings.onnx, "onnx"):
        files.append(_write_onnx(subject, place.path("onnx")))
    return Drawing({"": draw_graph(graph, subject.title)}, graph_table({"": graph}), files=files)


def subject_of(settings: GraphSettings) -> GraphSubject:
    """Build the subject of the figure: a block, a registered network, or the network of a run.

    Raises:
        UserError: There is none of the name.
        ValueError: Sizes or options that it does not have.
    """
    name = settings.graph
    with torch.random.fork_rng(devices=[]):  # the weights in a figure are the same every time
        torch.manual_seed(0)
        if name in list_blocks():
            block = create_block(name, settings.inplanes, settings.outplanes, stride=settings.stride)
            size = settings.size or BLOCK_SIZE
            return GraphSubject(block, torch.randn(2, settings.inplanes, size, size), block_title(name), None)
        if name in list_backbones():
            size = settings.size or NETWORK_SIZE
            network = network_of(name, size, settings.num_classes, settings.width, binary=settings.binary)
            example = torch.rand(2, network.in_channels, *sides(network.image_size))
            return GraphSubject(network, example, name, NETWORK_DEPTH)
        if is_name(name) or Path(name).exists():
            return _of_run(settings)
    near = did_you_mean(name, [*list_blocks(), *list_backbones()])
    raise UserError(
        f"`graph`: there is no block, network or run `{name}`.{near} Blocks and convolution modules: "
        f"{', '.join(list_blocks())}. Networks: {', '.join(list_backbones())}."
    )


def network_of(name: str, size: int, num_classes: int, width: int | None, *, binary: bool = True) -> Backbone:
    """Build a registered network for a figure.

    Args:
        name: Name of the network.
        size: Height and width of the images.
        num_classes: Width of the logits.
        width: Channels of the first layers; None takes the network's own.
        binary: False builds the float twin.

    Raises:
        ValueError: A size that the network does not have.
    """
    widths = {} if width is None else {"width": width}
    return create_backbone(name, num_classes=num_classes, image_size=size, binary=binary, **widths)


def _of_run(settings: GraphSettings) -> GraphSubject:
    run = read_run(settings.graph, Described(), trust=settings.trust)
    size = sides(settings.size or run.data["image_size"])
    example = torch.rand(2, int(run.data["in_channels"]), *size)
    return GraphSubject(run.network, example, run_name(settings.graph), NETWORK_DEPTH)


def _wanted(asked: bool | None, extra: str) -> bool:
    """Whether a file is to be written: as asked for, or where its libraries are installed; else say so."""
    if asked is not None:
        return asked
    missing = [library for library in _LIBRARIES[extra] if find_spec(library) is None]
    if missing:
        install = f"pip install 'bnn-lightning[{extra}]'"
        say(f"not written: {extra}, as `{missing[0]}` is not installed; `{install}` installs it")
    return not missing


def write_event_file(graph: NetworkGraph, folder: Path) -> Path:
    """Write a graph for `tensorboard --logdir <folder>`, and return the folder; an older one in it is taken away.

    Args:
        graph: From `trace_graph`.
        folder: Made where it is not.
    """
    # Imported late: only this figure needs TensorBoard.
    event_pb2 = require("tensorboard.compat.proto.event_pb2", extra="tensorboard")
    writer_of = require("tensorboard.summary.writer.event_file_writer", extra="tensorboard")
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = writer_of.EventFileWriter(str(folder))
    try:
        writer.add_event(event_pb2.Event(wall_time=0.0, graph_def=tensorboard_graph(graph)))
    finally:
        writer.close()
    return folder


def _write_onnx(subject: GraphSubject, path: Path) -> Path:
    with quiet_exporter(), written(path) as temporary:
        temporary.write_bytes(onnx_model(subject.module, subject.example))
    return path
