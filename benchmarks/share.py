"""Binary convolutions as a share of the processor's own rate of xor, popcount and addition.

    python -m benchmarks.share --kernel x86_64_v3

Every 3x3 layer takes turns with a loop of these three instructions on registers, compiled for the same instruction set;
the least processor time of each counts. What a layer does besides is its float epilogue: batch norm, shortcut, clamp,
the signs of the next layer.
"""

import argparse
import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from bnn_lightning.deploy.kernels.abi import Convolution
from bnn_lightning.deploy.kernels.library import Kernel, NativeStep, supported_kernels

CPUS = {
    "x86_64_v4": "x86_64_v4+avx512vpopcntdq+avx512bitalg+avx512vnni",
    "x86_64_v3": "x86_64_v3",
    "x86_64_v2": "x86_64_v2",
}
# Channels and size of maps: the layers of ResNet-18 and of ResNet-20; what is aimed at, for AVX-512.
LAYERS = {
    (64, 56): 0.65,
    (128, 28): 0.85,
    (256, 14): 0.85,
    (512, 7): 0.85,
    (16, 32): None,
    (32, 16): None,
    (64, 8): None,
}
_SECONDS = 5e-3  # of a turn


class Layer(NamedTuple):
    """A convolution that is timed: its job, its products, and what its job points to."""

    job: Convolution
    macs: int
    held: list[NDArray[np.generic]]


def layer(channels: int, size: int) -> Layer:
    """Return a 3x3 convolution whose result is written over its shortcut."""
    draw, words, blocks, padded = np.random.default_rng(0), -(-channels // 32), -(-channels // 16), size + 2
    taps = [(y * padded + x) * words + word for y in range(3) for x in range(3) for word in range(words)]
    held: dict[str, NDArray[np.generic]] = {
        "x": draw.integers(0, 2**32, padded * padded * words, np.uint32),
        "weight": draw.integers(0, 2**32, blocks * 9 * words * 16, np.uint32),
        "tap_sums": np.zeros(9 * blocks * 16, np.int32),
        "offsets": np.array(taps, np.int32),
        "residual": np.zeros(size * size * channels, np.float32),
        "bits": np.zeros(padded * padded * words, np.uint32),
        **{name: draw.standard_normal(blocks * 16, np.float32) for name in ("scale", "bias", "threshold")},
    }
    job = Convolution(images=1, height=padded, width=padded, out_height=size, out_width=size, groups=1, words=words)
    job.channels, job.kernel_height, job.kernel_width, job.reach = channels, 3, 3, 9 * channels
    job.stride_y = job.stride_x = job.dilation_y = job.dilation_x = job.pad_y = job.pad_x = 1
    job.real_height = job.real_width = size
    job.bits_height = job.bits_width = padded
    job.bits_top = job.bits_left = 1
    job.bits_words, job.low, job.high = words, -1, 1
    for name, values in held.items():
        setattr(job, name, values.ctypes.data)
    job.out = job.residual
    return Layer(job, size * size * channels * channels * 9, list(held.values()))


def peak_of(kernel: str, folder: Path) -> Callable[[int], int]:
    """Compile the loop for an instruction set, and return what runs a number of rounds and returns their products."""
    cpu = CPUS.get(kernel, "baseline")
    command = [sys.executable, "-m", "ziglang", "cc", "-O3", "-std=c11", "-shared", "-fPIC", f"-mcpu={cpu}"]
    subprocess.run([*command, "-o", str(folder / "peak.so"), str(Path(__file__).with_name("peak.c"))], check=True)
    function = ctypes.CDLL(str(folder / "peak.so")).peak
    function.restype, out = ctypes.c_int64, np.arange(16, dtype=np.uint32)
    return lambda rounds: int(function(ctypes.c_int64(rounds), ctypes.c_void_p(out.ctypes.data)))


def rate(run: Callable[[], int]) -> float:
    """Return products a nanosecond of processor time."""
    start = time.thread_time_ns()
    return run() / max(1, time.thread_time_ns() - start)


def shares(name: str, repeats: int) -> dict[tuple[int, int], tuple[float, float]]:
    """Return, for each layer, its GMAC/s and the processor's own, the best of `repeats` turns."""
    kernel, found = Kernel(name), {}
    with tempfile.TemporaryDirectory() as folder:
        peak = peak_of(name, Path(folder))
        for shape in LAYERS:
            item = layer(*shape)
            count = max(1, int(1e9 * _SECONDS * 300 / item.macs))
            one = NativeStep(kernel.address("convolve"), ctypes.addressof(item.job))
            steps = (NativeStep * count)(*[one] * count)

            def run(steps: "ctypes.Array[NativeStep]" = steps, macs: int = count * item.macs) -> int:
                kernel.run_all(steps)
                return macs

            turns = [(rate(run), rate(lambda: peak(100))) for _ in range(repeats)]
            found[shape] = max(turn[0] for turn in turns), max(turn[1] for turn in turns)
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", choices=supported_kernels(), default=supported_kernels()[0])
    parser.add_argument("--repeats", type=int, default=60)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'3x3 layer':<16}{'GMAC/s':>8}{'processor':>11}{'share':>8}{'aim':>6}   ({args.kernel})")
    for (channels, size), (own, peak) in shares(args.kernel, args.repeats).items():
        aim = LAYERS[channels, size]
        text = f"{aim:.0%}" if aim is not None else ""
        print(f"{f'{channels} at {size}x{size}':<16}{own:>8.0f}{peak:>11.0f}{own / peak:>8.0%}{text:>6}")


if __name__ == "__main__":
    main()
