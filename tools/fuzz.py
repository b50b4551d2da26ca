"""Read packed files that lie or are damaged, many more than the tests do: `make fuzz`.

Each input is a small valid file with something changed: bytes (which checksums must notice), or the header or the plan
with checksums that hold (so that everything behind them is reached). Python with torch and the C library read it. A
file is refused with `PackedFileError` and `RuntimeFileError`, or it is a network that runs; anything else ends this
program with an error, and leaves the file.
"""

import argparse
import copy
import logging
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign, XNORScale
from bnn_lightning.deploy import PackedFileError, PackedInfo, load, pack, read_container, save
from bnn_lightning.deploy.format.container import Container, container_bytes
from bnn_lightning.deploy.format.packed_file import constants_of
from bnn_lightning.deploy.format.prefix import DIGEST, Prefix, join_sections
from bnn_lightning.deploy.runtime import native
from bnn_lightning.layers import BinaryConv2d
from tools.progress import Progress, interrupt_on_signals

SIZE = 6
ODD = [
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    3,
    7,
    33,
    70,
    16500,
    (1 << 16) - 1,
    1 << 16,
    1 << 40,
    -(1 << 62),
    0.5,
    -0.0,
    1e308,
    "",
    "x",
    [],
    {},
]


def whole_file(path: Path) -> bytes:
    """Write a network of a convolution, a residual, groups and a classifier; return its file."""
    torch.manual_seed(0)
    binary: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
    network = nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1),
        BinaryConv2d(40, 36, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=XNORScale()),
        nn.BatchNorm2d(36),
        nn.PReLU(36),
        BinaryConv2d(36, 36, 3, padding=1, groups=2, pad_value=1.0, **binary),
        nn.Hardtanh(),
        nn.MaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(36, 4),
    ).eval()
    info = PackedInfo("net", 3, SIZE, ("a", "b", "c", "d"), {"seed": 0})
    save(pack(network, torch.rand(2, 3, SIZE, SIZE)), path, info)
    return path.read_bytes()


def damaged(r: random.Random, whole: bytes) -> bytes:
    """Change bytes: flips, cuts, insertions, pieces that change places."""
    data = bytearray(whole)
    for _ in range(r.choice([1, 1, 2, 8])):
        at, length = r.randrange(len(data) + 1), r.randint(0, 40)
        match r.randrange(5):
            case 0 if at < len(data):
                data[at] ^= 1 << r.randrange(8)
            case 1:
                del data[at:]
            case 2:
                data[at:at] = r.randbytes(length)
            case 3:
                data[at : at + length] = r.randbytes(length)
            case _:
                other = r.randrange(len(data) + 1)
                data[at : at + length] = data[other : other + length]
        if not data:
            break
    return bytes(data)


def lie(r: random.Random, plain: Any) -> Any:
    """Change something within plain values."""
    if isinstance(plain, list) and plain and r.random() < 0.9:
        at = r.randrange(len(plain))
        match r.randrange(12):
            case 0:
                del plain[at]
            case 1:
                plain.insert(at, copy.deepcopy(r.choice(plain)))
            case 2:
                other = r.randrange(len(plain))
                plain[at], plain[other] = plain[other], plain[at]
            case _:
                plain[at] = lie(r, plain[at])
        return plain
    if isinstance(plain, dict) and plain and r.random() < 0.9:
        key = r.choice(list(plain))
        if r.random() < 0.05:
            del plain[key]
        elif r.random() < 0.1:
            plain[r.choice(["groups", "stride", "low", "bias", "dim", "x"])] = lie(r, plain[key])
        else:
            plain[key] = lie(r, plain[key])
        return plain
    if type(plain) is int and r.random() < 0.5:
        return r.choice([plain - 2, plain - 1, plain + 1, plain + 2, r.randrange(1 << 16)])
    return r.choice([*ODD, {"c": r.randint(-1, 20)}])


def with_lies(r: random.Random, container: Container) -> bytes:
    """Return the file with a header that lies, and with the plan and the constants that it had."""
    header = copy.deepcopy(container.header)
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        key = r.choice(["graph", "graph", "graph", "info"])
        header[key] = lie(r, header[key])
    placed = {i: (entry.offset, entry.layout, entry.groups) for i, entry in enumerate(container.entries)}
    sections = {"section": bytes(container.data), "plan": bytes(container.plan)}
    return container_bytes(header, constants_of(container), placed=placed, **sections)[0]


def with_another_plan(r: random.Random, whole: bytes, container: Container) -> bytes:
    """Return the file with a few bytes of its plan changed."""
    plan, header = bytearray(container.plan), Prefix.from_bytes(whole).header
    for _ in range(r.choice([1, 1, 1, 2, 3])):
        plan[r.randrange(12, len(plan))] = r.choice([r.randrange(256), 0, 1, 255])
    return join_sections(whole[header.offset : header.offset + header.size], bytes(plan), container.data)


def read(data: bytes) -> tuple[str, list[Tensor]]:
    """Load a file and run what it holds; return what came of it, and logits."""
    try:
        network = load(data)
    except PackedFileError:
        return "refused", []
    logits: list[Tensor] = []
    for number in (1, 3):
        try:
            logits.append(network(torch.full((number, *network.info.shape), 0.5)))
            if logits[-1].shape[0] != number:
                raise ValueError(f"A network for {number} images gives another number of results.")
        except RuntimeError:  # of torch, where something fits one image and two alone
            if number == 1:
                raise
        except MemoryError:
            return "too large", []
    return "run", logits


def read_in_c(data: bytes) -> tuple[str, list[native.Array]]:
    """Load a file by the C library, and run it."""
    try:
        network = native.load(data)
        shape = network.facts.shape
        return "run", [network(np.full((number, *shape), 0.5, np.float32)) for number in (1, 3)]
    except native.RuntimeFileError:
        return "refused", []
    except MemoryError:
        return "too large", []


def read_inputs(inputs: int, *, seed: int, lies: float, in_python: bool = True) -> Progress:
    """Read inputs, and return the counts of their results.

    Args:
        inputs: Number of inputs.
        seed: Seed of all that is drawn.
        lies: Share of the inputs whose checksums hold.
        in_python: Whether Python reads them, too, and not the C library alone.
    """
    logging.disable(logging.ERROR)  # torch logs what does not fit
    r, progress = random.Random(seed), Progress(inputs)
    folder = Path(tempfile.mkdtemp(prefix="bnn-fuzz-"))
    whole = whole_file(folder / "whole.bnn")
    container = read_container(whole)
    for number in range(inputs):
        kind = r.choice(["header lies", "plan lies"]) if r.random() < lies else "damaged"
        match kind:
            case "header lies":
                data = with_lies(r, container)
            case "plan lies":
                data = with_another_plan(r, whole, container)
            case _:
                data = damaged(r, whole)
        (folder / "input.bnn").write_bytes(data)  # what is left, should the process die
        in_c, logits_of_c = read_in_c(data)
        result, logits = read(data) if in_python else (in_c, [])
        # `bnn verify` looks at the digest
        if kind == "damaged" and {result, in_c} != {"refused"} and data[:-DIGEST] != whole[:-DIGEST]:
            raise ValueError(f"Input {number} is damaged, and was read: {folder / 'input.bnn'}")
        if kind != "plan lies" and not all(map(np.array_equal, logits, logits_of_c)):
            raise ValueError(f"Input {number} has other logits in C: {folder / 'input.bnn'}")
        progress.add({f"{kind}: {f'{result}, ' if in_python else ''}in C {in_c}": 1})
    return progress


def main() -> int:
    """Read as many inputs as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lies", type=float, default=0.05, help="share of the inputs whose checksums hold")
    options = parser.parse_args()
    interrupt_on_signals()
    print(f"{read_inputs(options.inputs, seed=options.seed, lies=options.lies)}; seed {options.seed}: no finding")
    return 0


if __name__ == "__main__":
    sys.exit(main())
