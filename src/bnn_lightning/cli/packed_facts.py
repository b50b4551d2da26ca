"""What there is to say of a run's packed file."""

import hashlib
import json
import statistics
import time
from pathlib import Path

import torch

from bnn_lightning.cli.errors import UserError
from bnn_lightning.deploy.container import PackedFileError, read_container
from bnn_lightning.deploy.runtime import LoadedNetwork, load
from bnn_lightning.metrics.latency import processor
from bnn_lightning.report.content import Table

_REPEATS = 20


def find_packed(run: Path) -> Path | None:
    """Return the newest packed file in a run's folder, None if there is none."""
    files = sorted([*run.glob("*.bnn"), *run.glob("checkpoints/*.bnn")], key=lambda path: path.stat().st_mtime)
    return files[-1] if files else None


def packed_table(file: Path, checkpoint: Path, *, latency: bool) -> Table:
    """Return what is in a packed file, how it compares with the network, and how fast it is.

    Args:
        file: The packed file.
        checkpoint: Of which it should be.
        latency: Measure it.

    Raises:
        UserError: The file is damaged.
    """
    try:
        network = load(file)
        entries = read_container(file).entries
    except (PackedFileError, OSError) as error:
        raise UserError(str(error)) from error
    binary = sum(entry.num_bytes for entry in entries if entry.dtype == "bits")
    rest = sum(entry.num_bytes for entry in entries if entry.dtype != "bits")
    rows = [
        ("file", file.name, _whose(network, checkpoint)),
        ("size", f"{file.stat().st_size:,} bytes", f"signs {binary:,}, other tensors {rest:,}, the rest header"),
    ]
    parity = network.info.provenance.get("parity")
    if isinstance(parity, dict):
        difference = f"{float(parity.get('largest_difference', 0.0)):.2g}"
        rows.append(
            ("largest difference of a logit", difference, f"on {parity.get('images')} images, when it was written")
        )
    if latency:
        milliseconds = 1e3 * _seconds(network)
        threads = torch.get_num_threads()
        what = f"median of {_REPEATS} when this page was written, {threads} thread{'s' * (threads > 1)}, {processor()}"
        rows.append(("latency of an image", f"{milliseconds:.3g} ms", what))
    return Table(["", "", ""], rows)


def _whose(network: LoadedNetwork, checkpoint: Path) -> str:
    written = network.info.provenance.get("checkpoint_sha256")
    own = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    return f"of {checkpoint.name}" if written == own else f"not of the {checkpoint.name} that is there now"


def _seconds(network: LoadedNetwork) -> float:
    info = network.info
    image = torch.rand(1, info.in_channels, info.image_size, info.image_size)
    times = []
    with torch.inference_mode():
        for _ in range(3):
            network(image)
        for _ in range(_REPEATS):
            start = time.perf_counter()
            network(image)
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def contest_table(run: Path) -> Table | None:
    """Return what `bnn benchmark out=<run>/benchmark.json` measured, None if there is no such file.

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
