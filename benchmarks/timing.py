"""Interleaved timing and peak memory, shared by the benchmarks."""

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping

import torch

from bnn_lightning.analysis.latency import time_in_turns
from bnn_lightning.utils.hardware import machine as machine
from bnn_lightning.utils.hardware import peak_resident as peak_resident

FLAGS = ("compile", "bf16", "no-memory")


def parse(
    description: str | None,
    models: list[str],
    given: list[str] | None = None,
    *,
    unused: tuple[str, ...] = (),
    batch: int = 128,
    image_size: int | None = None,
) -> argparse.Namespace:
    """Read the command line that the benchmarks of training share; `make bench-train` gives all of them the same.

    Args:
        description: Text of `--help`.
        models: The networks, where none are given.
        given: Arguments; None takes those of the process.
        unused: Flags that this benchmark has no use for: accepted, and said to be without effect.
        batch: Images of a step, where not given.
        image_size: Height and width of the images, where not given; None accepts no `--image-size`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--batch", type=int, default=batch)
    if image_size is not None:
        parser.add_argument("--image-size", type=int, default=image_size)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    for flag in FLAGS:
        parser.add_argument(f"--{flag}", action="store_true", help="no effect here" if flag in unused else None)
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="memory format of images and filters; --no-channels-last takes torch's default",
    )
    args = parser.parse_args(given)
    for flag in unused:
        if getattr(args, flag.replace("-", "_")):
            print(f"--{flag} has no effect in this benchmark", file=sys.stderr)
    args.given = sys.argv[1:] if given is None else given
    torch.set_num_threads(args.threads)
    return args


def clock(args: argparse.Namespace) -> str:
    """Return which clock is read: the processor's on one thread, which other work disturbs less, or the wall's."""
    return "processor" if args.threads == 1 and args.device == "cpu" else "wall"


def interleave(
    steps: Mapping[str, Callable[[], object]],
    *,
    repeats: int,
    warmup: int = 2,
    synchronize: bool = False,
    clock: str = "wall",
) -> dict[str, list[float]]:
    """Time several functions in turns, so that a slow moment of the machine meets all of them.

    Args:
        steps: Functions to time, by name.
        repeats: Rounds that count.
        warmup: Rounds before that do not.
        synchronize: Wait for the GPU after each.
        clock: "wall", or "processor": time of this process on all of its threads.

    Returns:
        Seconds of each round, by name.
    """
    finish = torch.cuda.synchronize if synchronize else None
    turns = time_in_turns(steps, repeats=repeats, warmup=warmup, finish=finish)
    return {
        name: [turn.cpu if clock == "processor" else turn.wall for turn in of_one] for name, of_one in turns.items()
    }


def summary(seconds: list[float]) -> str:
    """Format the median and the least of some seconds in milliseconds."""
    return f"{statistics.median(seconds) * 1e3:8.1f} ms (least {min(seconds) * 1e3:.1f})"
