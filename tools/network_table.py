"""The table of `docs/reference/networks.md`: one row a network, counted from the networks themselves.

    python -m tools.network_table                       # write the table of the page
    python -m tools.network_table bytes resnet20 ...    # bytes of packed files first (all networks without a name)
    python -m tools.network_table measure resnet20 ...  # bytes and milliseconds first

Counts come from `count_ops`, published accuracies with their sources from `figures/published.csv`, ours from `OURS`.
Bytes and milliseconds of packed files are measured, on a machine without other work, and kept with machine, version and
date in `docs/reference/networks.json`; a network that was not measured has none.
"""

import csv
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnn_lightning import __version__
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.layers import annealed, binary_layers
from bnn_lightning.metrics.conventions import ace, operations
from bnn_lightning.metrics.ops import count_ops
from bnn_lightning.models import create_backbone, list_backbones

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "networks.md"
MEASURED = PAGE.with_suffix(".json")
BEGIN, END = "<!-- table: tools/network_table.py -->\n", "<!-- end of the table -->\n"
CIFAR = ("resnet18", "resnet18_adabin", "resnet20", "resnet20_adabin", "vgg_small", "vgg_small_adabin")
# Test accuracies of the longest trainings in `docs/results.md`, and how they are shorter than the published ones.
OURS = {
    "bnext18": "59.55 (CIFAR-10, 3 epochs)",
    "bnext_tiny": "49.51 (CIFAR-10, 3 epochs)",
    "mlp": "98.93 (width 1536)",
    "reactnet18": "50.08 (CIFAR-10, an epoch)",
    "resnet18": "53.95 (3 epochs)",
    "resnet20": "85.23 (200 epochs, float teacher)",
    "vgg_small": "52.24 (250 steps)",
}
REPEATS = 50


@dataclass(frozen=True)
class Setting:
    """Images and classes that a network is counted and measured with.

    Attributes:
        data: Name of the set.
        channels: Channels of an image.
        size: Height and width.
        classes: Number of them.
        options: Options of the network.
    """

    data: str
    channels: int
    size: int
    classes: int
    options: dict[str, Any]

    def build(self, name: str) -> Any:
        """Return the network."""
        given = {"num_classes": self.classes, "in_channels": self.channels, "image_size": self.size}
        return create_backbone(name, **given, **self.options)


def setting_of(name: str) -> Setting:
    """Return the published setting of a network."""
    if name == "mlp":
        return Setting("mnist", 1, 28, 10, {"width": 6144})
    return Setting("cifar10", 3, 32, 10, {}) if name in CIFAR else Setting("imagenet", 3, 224, 1000, {})


def published() -> dict[str, dict[str, str]]:
    """Return the rows of published results by the names of our networks and their data: SKD-BNN's, where it has one."""
    text = files("bnn_lightning.figures").joinpath("published.csv").read_text("utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["network"]]
    rows.sort(key=lambda row: row["name"].startswith("SKD-BNN"))
    return {f"{row['network']} {row['data']}": row for row in rows}


def row(name: str, results: dict[str, dict[str, str]], measured: dict[str, dict[str, Any]]) -> list[str]:
    """Return the cells of a network."""
    setting = setting_of(name)
    with torch.device("meta"):
        network = setting.build(name)
        count = count_ops(network, (setting.channels, setting.size, setting.size))
    result, own = results.get(f"{name} {setting.data}"), measured.get(name, {})
    accuracy = "" if result is None else f"{float(result['top1']):g} ({_link(result['source'])})"
    return [
        f"`{name}`",
        type(network).__name__,
        setting.data,
        str(len(binary_layers(network))),
        f"{count.parameters / 1e6:.2f} M",
        f"{count.binary_weights / count.parameters:.2%}",
        f"{count.binary_macs / 1e6:,.0f} M",
        f"{(count.float_macs + count.mixed_macs) / 1e6:,.1f} M",
        f"{operations(count) / 1e6:,.1f} M",
        f"{operations(count, rest='int8') / 1e6:,.1f} M",
        f"{ace(count) / 1e9:,.2f} G",
        f"{own['bytes']:,}" if own else "",
        f"{own['ms']:.2f}" if "ms" in own else "",
        accuracy,
        OURS.get(name, "-"),
    ]


HEAD = ["network", "family", "data", "binary layers", "parameters", "of them binary", "binary MACs", "real MACs"]
HEAD += ["OPs", "OPs, int8 rest", "ACE", "packed bytes", "packed ms", "published top-1", "ours"]


def table(measured: dict[str, dict[str, Any]]) -> str:
    """Return the table as Markdown."""
    results = published()
    rows = [HEAD, ["---"] * len(HEAD), *(row(name, results, measured) for name in list_backbones())]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def measure(name: str, *, timed: bool) -> dict[str, Any]:
    """Pack a network with random weights; return the bytes of its file and, timed, the median milliseconds of an image.

    Args:
        name: The network.
        timed: Whether the machine has nothing else to do.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    setting = setting_of(name)
    network, images = setting.build(name).eval(), torch.rand(1, setting.channels, setting.size, setting.size)
    _draw(network)
    with TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "network.bnn"
        save(pack(network, images), path, PackedInfo(name, setting.channels, setting.size))
        found = {"bytes": path.stat().st_size, "version": __version__, "date": time.strftime("%Y-%m-%d")}
        return {**found, "ms": _milliseconds(load(path), images), "machine": _processor()} if timed else found


def _draw(network: nn.Module) -> None:
    """Draw all tensors, so that a file holds no two alike, and end the annealing of binarizers."""
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5) if parameter.dim() < 2 else nn.init.normal_(parameter, std=0.1)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)


def _milliseconds(packed: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor) -> float:
    times = []
    for _ in range(REPEATS + 5):
        begin = time.perf_counter()
        packed(images)
        times.append(time.perf_counter() - begin)
    return round(sorted(times[5:])[REPEATS // 2] * 1000, 3)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _link(source: str) -> str:
    return f"[source]({source})" if source.startswith("http") else source


def main(words: list[str]) -> None:
    """Measure the networks that are asked for, and write the table."""
    measured: dict[str, dict[str, Any]] = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    if words[:1] in (["measure"], ["bytes"]):
        for name in words[1:] or list_backbones():
            measured[name] = {**measured.get(name, {}), **measure(name, timed=words[0] == "measure")}
            print(name, measured[name], flush=True)
            MEASURED.write_text(json.dumps(measured, indent=1, sort_keys=True) + "\n")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(before + BEGIN + table(measured) + END + rest.split(END)[1], encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
