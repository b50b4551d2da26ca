"""Facts of a run's packed file, for its report."""

import json
import statistics
from pathlib import Path

import torch

from bnn_lightning.analysis.latency import time_in_turns
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.report_page.content import Table
from bnn_lightning.utils.hardware import processor
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.packed_file import read_packed
from bnn_lightning.zoo.download import checksum

_REPEATS = 15
_LEAST = 0.005  # seconds of a turn, of one call or of many short ones


def find_packed(run: Path) -> Path | None:
    """Return the newest packed file in a run's folder, None if there is none."""
    files = sorted([*run.glob("*.bnn"), *run.glob("checkpoints/*.bnn")], key=lambda path: path.stat().st_mtime)
    return files[-1] if files else None


def packed_table(file: Path, checkpoint: Path, *, latency: bool) -> Table:
    """Return the table of a packed file: content, comparison with the network, latency.

    Args:
        file: The packed file.
        checkpoint: Checkpoint that it should be made of.
        latency: Measure it.

    Raises:
        UserError: The file is damaged.
    """
    network = read_packed(file)
    entries = read_container(file).entries
    binary = sum(entry.num_bytes for entry in entries if entry.dtype == "bits")
    rest = sum(entry.num_bytes for entry in entries if entry.dtype != "bits")
    rows = [
        ("file", file.name, _whose(network, checkpoint)),
        ("size", f"{file.stat().st_size:,} bytes", f"signs {binary:,}, other tensors {rest:,}, the rest header"),
    ]
    rows.append(("pictures", *_pictures(network)))
    parity = network.info.provenance.get("parity")
    if isinstance(parity, dict):
        difference = f"{float(parity.get('largest_difference', 0.0)):.2g}"
        rows.append(
            ("largest difference of a logit", difference, f"on {parity.get('images')} images, when it was written")
        )
    if latency:
        what = f"of the processor on one thread, median of {_REPEATS} when this page was written; {processor()}"
        rows.append(("time of an image", f"{1e3 * _seconds(network):,.2f} ms", what))
    return Table(["", "", ""], rows)


def _pictures(network: LoadedNetwork) -> tuple[str, str]:
    """Return the preparation of images, in two columns."""
    preparation = network.info.preparation
    size = "x".join(map(str, network.info.shape))
    return size, "the file does not say how they are prepared" if preparation is None else str(preparation)


def _whose(network: LoadedNetwork, checkpoint: Path) -> str:
    is_own = network.info.provenance.get("checkpoint_sha256") == checksum(checkpoint)
    return f"of {checkpoint.name}" if is_own else f"not of the {checkpoint.name} that is there now"


def _seconds(network: LoadedNetwork) -> float:
    info = network.info
    image = torch.rand(1, *info.shape)
    torch.set_num_threads(1)  # with more, threads that wait for each other on a busy machine would be measured
    with torch.inference_mode():
        turns = time_in_turns({"packed": lambda: network(image)}, repeats=_REPEATS, least=_LEAST)["packed"]
    return statistics.median(turn.cpu for turn in turns)


def latency_table(run: Path) -> Table | None:
    """Return the measurements of `bnn benchmark out=<run>/benchmark.json`, None if there is no such file.

    Raises:
        UserError: It is something else.
    """
    file = run / "benchmark.json"
    if not file.is_file():
        return None
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["entries"]
        rows = [[e["name"], int(e["threads"]), int(e["batch"]), round(1e3 * float(e["median"]), 4)] for e in entries]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"`{file}` is not what `bnn benchmark out=...` writes: {error}") from error
    return Table(["network", "threads", "batch", "ms"], rows)
