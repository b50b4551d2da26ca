"""Training step of a BNext beside a plain transcription of the published one: time, and memory held for backward.

    python -m benchmarks.bnext --models bnext_tiny --batch 8 --threads 2 --repeats 8

A step is forward, cross entropy, backward, clipping of the gradient norm and AdamW. Prints the time of both in turns,
the bytes that are alive between forward and backward (parameters and buffers apart), the peak memory of a step in a
process of its own, and the ratios. `--image-size 32 --batch 128 --bf16` is the step on CIFAR. Both are in channels_last
(`--no-channels-last` turns it off). Both losses are printed, from equal weights: equal, unless a rounding flips a sign.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import timing
from benchmarks.bnext_plain import PlainBNext
from benchmarks.timing import machine, summary
from bnn_lightning.analysis.latency import time_in_turns
from bnn_lightning.models import BNext, create_backbone

CLASSES = 1000
MODELS = ("bnext_tiny", "bnext_small", "bnext_middle", "bnext_large")  # that the transcription knows
VARIANTS = ("ours", "plain transcription")


class AliveStorages(TorchDispatchMode):
    """Notes every storage that is written within the context, and later counts those that are still alive."""

    def __init__(self, apart: nn.Module) -> None:
        super().__init__()
        self.apart = {tensor.untyped_storage()._cdata for tensor in (*apart.parameters(), *apart.buffers())}
        self.seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                self.seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    def bytes_alive(self) -> int:
        return sum(size for key, (ref, size) in self.seen.items() if key not in self.apart and not ref.expired())


def layout_of(args: argparse.Namespace) -> torch.memory_format:
    """Return the memory format that is asked for."""
    return torch.channels_last if args.channels_last else torch.contiguous_format


def make(model: str, variant: str, args: argparse.Namespace) -> nn.Module:
    """Build a network in one of the variants, with equal initial weights."""
    torch.manual_seed(0)
    network = create_backbone(model, num_classes=CLASSES, image_size=args.image_size)
    network = network.to(torch.device(args.device), memory_format=layout_of(args))
    if args.compile:
        network.compile()
    if variant != "plain transcription":
        return network
    assert isinstance(network, BNext)
    return PlainBNext(network)


def make_loss(network: nn.Module, args: argparse.Namespace) -> Callable[[], Tensor]:
    """Return a function that computes the loss of a batch."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(args.batch, 3, args.image_size, args.image_size, generator=generator).to(args.device)
    images = images.to(memory_format=layout_of(args))
    labels = torch.arange(args.batch, device=args.device) % CLASSES

    def loss() -> Tensor:
        with torch.autocast(torch.device(args.device).type, torch.bfloat16, enabled=args.bf16):
            return F.cross_entropy(network(images), labels)

    return loss


def make_step(model: str, variant: str, args: argparse.Namespace) -> Callable[[], None]:
    """Return a function that makes one training step."""
    network = make(model, variant, args)
    loss = make_loss(network, args)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()

    return step


def held(model: str, variant: str, args: argparse.Namespace) -> tuple[float, float]:
    """Return the MiB that are alive between forward and backward, and the loss."""
    network = make(model, variant, args)
    loss = make_loss(network, args)
    with AliveStorages(network) as storages:
        value = loss()
    return storages.bytes_alive() / 2**20, value.item()


def peak_memory(model: str, variant: str, args: argparse.Namespace) -> float:
    """Return the MiB by which the peak of three steps exceeds the memory before them, in a process of its own."""
    code = (
        "import sys, torch; from benchmarks.timing import peak_resident\n"
        "from benchmarks.bnext import parse, make_step\n"
        "args = parse(sys.argv[3:]); step = make_step(sys.argv[1], sys.argv[2], args)\n"
        "cuda = args.device.startswith('cuda')\n"
        "peak = torch.cuda.max_memory_allocated if cuda else peak_resident\n"
        "before = peak(); [step() for _ in range(3)]; print((peak() - before) / 2**20)"
    )
    command = [sys.executable, "-c", code, model, variant, *args.given]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def report(model: str, args: argparse.Namespace) -> None:
    """Time the variants of one network, measure their memory, and print."""
    ours, plain = VARIANTS
    alive, losses = zip(*(held(model, variant, args) for variant in VARIANTS), strict=True)
    steps = {variant: make_step(model, variant, args) for variant in VARIANTS}
    finish = torch.cuda.synchronize if args.device.startswith("cuda") else None
    turns = time_in_turns(steps, repeats=args.repeats, warmup=2, finish=finish)
    wall = {name: [turn.wall for turn in values] for name, values in turns.items()}
    cpu = {name: [turn.cpu for turn in values] for name, values in turns.items()}
    peaks = [] if args.no_memory else [peak_memory(model, variant, args) for variant in VARIANTS]
    print(f"\n{model}, loss {losses[0]:.6f} and {losses[1]:.6f}")
    for index, variant in enumerate(VARIANTS):
        peak = f"  peak {peaks[index]:7.0f} MiB" if peaks else ""
        print(f"  {variant:20s}{summary(wall[variant])}  held for backward {alive[index]:7.0f} MiB{peak}")
    ratios = (statistics.median(seconds[plain]) / statistics.median(seconds[ours]) for seconds in (wall, cpu))
    print("  time, plain transcription / ours: {:.2f} (aim: at least 1.4); CPU time: {:.2f}".format(*ratios))
    print(f"  held for backward, ours / plain transcription: {alive[0] / alive[1]:.2f} (aim: at most 0.5)")
    if peaks:
        print(f"  peak memory, ours / plain transcription: {peaks[0] / peaks[1]:.2f}")


def parse(given: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    args = timing.parse(__doc__, ["bnext_tiny"], given, batch=8, image_size=224)
    unknown = set(args.models) - set(MODELS)
    if unknown:
        print(f"no transcription of {', '.join(sorted(unknown))}: left out", file=sys.stderr)
    args.models = [model for model in args.models if model in MODELS]
    return args


def main() -> None:
    """Print one table a network."""
    args = parse()
    print(f"{machine()}, batch {args.batch} of {args.image_size} pixels, compile {args.compile}, bf16 {args.bf16}")
    for model in args.models:
        report(model, args)


if __name__ == "__main__":
    main()
