"""The ARM kernel on another processor: compiled for Linux by zig, run by qemu, fed through pipes."""

import ctypes
import importlib.util
import os
import shutil
import struct
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from bnn_lightning.deploy.kernels import Convolution, Packing

FOLDER = Path(__file__).parents[2] / "src" / "bnn_lightning" / "deploy"
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
# Reads the number of an operation, the bytes of its job, and what its pointers point to; returns the last of these.
DRIVER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
void bnn_pack(const void *job, void *parallel);
void bnn_convolve(const void *job, void *parallel);
static void take(void *to, size_t n) { if (n && fread(to, 1, n, stdin) != n) exit(0); }
int main(void) {
  for (;;) {
    int64_t head[3], at[2];
    take(head, sizeof head);
    char *job = malloc(head[1]), **blobs = malloc(head[2] * sizeof *blobs);
    take(job, head[1]);
    for (int64_t i = 0; i < head[2]; i++) {
      take(at, sizeof at);
      blobs[i] = malloc(at[1] + 1);
      take(blobs[i], at[1]);
      *(char **)(job + at[0]) = blobs[i];
    }
    (head[0] ? bnn_convolve : bnn_pack)(job, 0);
    fwrite(blobs[head[2] - 1], 1, at[1], stdout);
    fflush(stdout);
    for (int64_t i = 0; i < head[2]; i++) free(blobs[i]);
    free(blobs), free(job);
  }
}
"""


def zig() -> list[str]:
    """Return the command of the compiler, empty where there is none."""
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang"]
    return [found] if (found := shutil.which("zig")) else []


def can_emulate() -> bool:
    """Whether there is a compiler, and an emulator."""
    return QEMU is not None and bool(zig())


@cache
def emulated() -> "Emulated":
    """Return the ARM kernel, compiled once."""
    return Emulated(Path(mkdtemp(prefix="bnn-aarch64-")))


class Emulated:
    """In the place of `kernels.Kernel`, for the operations of binary layers.

    Args:
        folder: Of the program that is compiled.
    """

    name = "aarch64"

    def __init__(self, folder: Path) -> None:
        (folder / "driver.c").write_text(DRIVER, encoding="utf-8")
        sources = [str(folder / "driver.c"), str(FOLDER / "kernel.c"), str(FOLDER / "team.c")]
        command = [*zig(), "cc", "-target", "aarch64-linux-musl", "-static", "-O3", "-std=c11", *sources]
        caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder / "cache"), "ZIG_LOCAL_CACHE_DIR": str(folder / "cache")}
        subprocess.run([*command, "-o", str(folder / "driver")], check=True, env=os.environ | caches)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([str(QEMU), str(folder / "driver")], **pipes)  # type: ignore[call-overload]

    def run(self, operation: str, job: ctypes.Structure) -> None:
        """Run an operation, and write its result where the job says."""
        assert isinstance(job, Packing if operation == "pack" else Convolution)
        sizes = _packing(job) if isinstance(job, Packing) else _convolution(job)
        given = {name: size for name, size in sizes.items() if getattr(job, name)}
        request = struct.pack("<qqq", int(operation == "convolve"), ctypes.sizeof(job), len(given)) + bytes(job)
        for name, size in given.items():
            request += struct.pack("<qq", getattr(type(job), name).offset, size)
            request += ctypes.string_at(getattr(job, name), size)
        self._process.stdin.write(request)
        self._process.stdin.flush()
        result = self._process.stdout.read(size)
        assert len(result) == size, "the emulated kernel has ended"
        ctypes.memmove(getattr(job, name), result, size)


def _packing(job: Packing) -> dict[str, int]:
    """Return the bytes of what a job points to, what it writes last."""
    steps = (job.stride_image, job.stride_y, job.stride_x, job.stride_channel)
    counts = (job.images, job.height, job.width, job.groups * job.channels)
    words = job.groups * job.words
    return {
        "x": 4 * (1 + sum(step * (count - 1) for step, count in zip(steps, counts, strict=True))),
        "threshold": 4 * 32 * words,
        "bits": 4 * job.images * job.bits_height * job.bits_width * words,
    }


def _convolution(job: Convolution) -> dict[str, int]:
    taps, channels = job.kernel_height * job.kernel_width, job.groups * -(-job.channels // 16) * 16
    pixels = job.images * job.out_height * job.out_width
    return {
        "x": 4 * job.images * job.height * job.width * job.groups * job.words,
        "weight": 4 * taps * job.words * channels,
        "tap_sums": 4 * taps * channels,
        "offsets": 4 * taps * job.words,
        **dict.fromkeys(("scale", "bias", "slope", "shift"), 4 * channels),
        "residual": 4 * pixels * (job.residual_channels or job.groups * job.channels),
        "out": 4 * pixels * job.groups * job.channels,
    }
