"""Network of a benchmark: packed, simulated, and its float twin."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.runtime.network import LoadedNetwork, load
from bnn_lightning.deploy.runtime.packed_network import pack
from bnn_lightning.deploy.runtime.save import save
from bnn_lightning.layers.module_utils import annealed, binary_layers
from bnn_lightning.workflows.building import build, build_network
from bnn_lightning.workflows.config_options import label_of
from bnn_lightning.workflows.errors import UserError, as_user_error
from bnn_lightning.workflows.opened import Described, open_checkpoint
from bnn_lightning.workflows.packed_file import packed_path, read_packed
from bnn_lightning.workflows.settings import BenchmarkSettings

Plain = Mapping[str, Any]


@dataclass(frozen=True)
class Subject:
    """A network in the forms that are compared.

    Attributes:
        file: The packed one.
        packed: The same, loaded.
        simulated: With floats for signs; None where it is not known.
        twin: The float twin; None where it is not known.
        left: Binary layers that are not packed, and why.
        unfolded: Operations that could be folded into binary layers and are not, with the reason; or empty.
        unknown: Why there is no simulated network, or no twin.
    """

    file: Path
    packed: LoadedNetwork
    simulated: nn.Module | None
    twin: nn.Module | None
    left: Mapping[str, str]
    unfolded: str
    unknown: str = ""

    @property
    def info(self) -> PackedInfo:
        """Facts in the packed file."""
        return self.packed.info


def read_subject(settings: BenchmarkSettings, described: Described, folder: Path) -> Subject:
    """Return the network that `packed`, `ckpt`, or a model and its data name.

    Args:
        settings: Settings of the benchmark.
        described: A network that was never trained, with its data; or those of a published file.
        folder: Folder for the packed file of a network that has none yet.

    Raises:
        UserError: None is named, or two; or it cannot be read or packed.
    """
    chosen = settings.ckpt is None and ("_target_" in described.model or "_target_" in described.data)
    if sum((settings.packed is not None, settings.ckpt is not None, chosen)) != 1:
        raise UserError(
            "name one network: packed=net.bnn, ckpt=runs/.../final.ckpt, or model=resnet20 data=cifar10 "
            "(with weights that were never trained); or layers=true."
        )
    if settings.packed is not None:
        return _of_file(packed_path(settings.packed), settings.trust)
    if settings.ckpt is not None:
        opened = open_checkpoint(settings.ckpt, described, trust=settings.trust)
        return make_subject(opened.task.backbone, opened.config["model"], folder, trust=settings.trust)
    model, data = described.model, described.data
    if "_target_" not in model or "_target_" not in data:
        raise UserError("`model=` needs `data=` beside it, for the size of the images and the number of classes.")
    network = build_network({"model": model, "data": data}, trust=settings.trust)
    return make_subject(network, model, folder, trust=settings.trust)


def make_subject(network: nn.Module, model: Plain, folder: Path, *, trust: list[str]) -> Subject:
    """Pack a network, and build its twin.

    Args:
        network: As trained or as built; annealing that is not over is ended.
        model: The section of the configuration that it was built from.
        folder: Folder for the packed file.
        trust: See `build`.

    Raises:
        UserError: It cannot be packed or written.
    """
    name = label_of(model)
    finish(network)
    file = folder / f"{name}.bnn"
    with as_user_error(f"`{name}` cannot be packed: ", (ValueError,)):
        packed = pack(network)
        save(packed, file, PackedInfo(name, in_channels=network.in_channels, image_size=network.image_size))  # type: ignore[arg-type]
    twin, unknown = _twin(model, trust)
    report = packed.report
    unfolded = report.unplanned or "; ".join(f"{name}: {reason}" for name, reason in report.unfolded.items())
    return Subject(file, load(file), network, twin, report.left, unfolded, unknown)


def finish(network: nn.Module) -> None:
    """Bring a network into evaluation, and its annealing to the end."""
    for binarizer in annealed(network.eval()):
        binarizer.set_progress(1.0)


def _of_file(file: Path, trust: list[str]) -> Subject:
    packed = read_packed(file)
    config = packed.info.provenance.get("config")
    model = config.get("model") if isinstance(config, dict) else None
    # Layers whose weights are signs, and that do not run on bits.
    facts = (dict.fromkeys(packed.signs_of_others, "its input is real"), _unfolded(packed))
    if not isinstance(model, dict) or "_target_" not in model:
        return Subject(file, packed, None, None, *facts, "the file does not say which network it was made from")
    try:
        simulated = build(model, at="model", trust=trust)
    except UserError as error:
        return Subject(file, packed, None, None, *facts, str(error))
    finish(simulated)
    twin, unknown = _twin(model, trust)
    return Subject(file, packed, simulated, twin, *facts, unknown)


def _unfolded(packed: LoadedNetwork) -> str:
    """Say whether batch norms stand alone behind binary layers, as in files of networks that could not be traced."""
    graph = packed.graph
    users = graph.users()
    norms = [node for node in graph.nodes if node.operation == "affine" and len(users[node.values()[0]]) == 1]
    nodes = [None, *graph.nodes]
    behind = [nodes[norm.values()[0]] for norm in norms]
    number = sum(node is not None and node.operation == "binary_conv2d" for node in behind)
    return f"{number} batch norms of the file stand behind binary layers; export the checkpoint again" if number else ""


def _twin(model: Plain, trust: list[str]) -> tuple[nn.Module | None, str]:
    if "_target_" not in model:
        return None, "it is a module, and nothing says how to build it with binary=false"
    try:
        twin = build({**model, "binary": False}, at="model", trust=trust)
    except UserError as error:
        return None, f"it cannot be built with binary=false: {error}"
    return (None, "it is binary with binary=false, too") if binary_layers(twin) else (twin.eval(), "")
