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

from bnn_lightning.deploy.kernels.abi import WORKERS, After, Convolution, Packing, Pooling, RealConvolution

FOLDER = Path(__file__).parents[2] / "src" / "bnn_lightning" / "deploy" / "kernels" / "csrc"
QEMU = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
OPERATIONS = ("pack", "convolve", "real_convolve", "pool")
# Reads the number of an operation, the bytes of its job, and what its pointers point to; returns the last of these.
DRIVER = """
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
typedef void operation(const void *job, void *worker);
operation bnn_pack, bnn_convolve, bnn_real_convolve, bnn_pool;
static operation *const operations[] = {bnn_pack, bnn_convolve, bnn_real_convolve, bnn_pool};
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
    operations[head[0]](job, 0);
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
    """In the place of `kernels.Kernel`, for the operations of binary layers, real convolutions and pooling.

    Args:
        folder: Of the program that is compiled.
    """

    name = "aarch64"

    def __init__(self, folder: Path) -> None:
        (folder / "driver.c").write_text(DRIVER, encoding="utf-8")
        kernels = [str(FOLDER / name) for name in ("binary_conv.c", "conv2d.c", "pool.c", "thread_team.c")]
        sources = [str(folder / "driver.c"), *kernels]
        command = [*zig(), "cc", "-target", "aarch64-linux-musl", "-static", "-O3", "-std=c11", *sources]
        caches = {"ZIG_GLOBAL_CACHE_DIR": str(folder / "cache"), "ZIG_LOCAL_CACHE_DIR": str(folder / "cache")}
        subprocess.run([*command, "-o", str(folder / "driver")], check=True, env=os.environ | caches)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([str(QEMU), str(folder / "driver")], **pipes)  # type: ignore[call-overload]

    def run(self, operation: str, job: ctypes.Structure) -> None:
        """Run an operation, and write its result where the job says."""
        number = OPERATIONS.index(operation)
        sizes = (_packing, _convolution, _real_convolution, _pooling)[number](job)  # type: ignore[operator]
        found = {name: (*_pointer(job, name), size) for name, size in sizes.items()}
        given = [(offset, address, size) for offset, address, size in found.values() if address]
        request = struct.pack("<qqq", number, ctypes.sizeof(job), len(given)) + bytes(job)
        for offset, address, size in given:
            request += struct.pack("<qq", offset, size) + ctypes.string_at(address, size)
        self._process.stdin.write(request)
        self._process.stdin.flush()
        _, address, size = given[-1]
        result = self._process.stdout.read(size)
        assert len(result) == size, "the emulated kernel has ended"
        ctypes.memmove(address, result, size)


def _pointer(job: ctypes.Structure, name: str) -> tuple[int, int]:
    """Return where a pointer lies in a job, and what it points to; "after.out" is one of a structure within."""
    outer, _, inner = name.rpartition(".")
    if not outer:
        return getattr(type(job), name).offset, getattr(job, name)
    offset, address = _pointer(getattr(job, outer), inner)
    return getattr(type(job), outer).offset + offset, address


def _span(counts: tuple[int, ...], steps: tuple[int, ...]) -> int:
    """Return the elements from the first to the last."""
    return 1 + sum(step * (count - 1) for step, count in zip(steps, counts, strict=True))


def _after(after: After, images: int, name: str = "after") -> dict[str, int]:
    channels = 64 * -(-after.channels // 16)
    out = 4 * images * after.height * after.width * after.out_channels
    return {f"{name}.slope": channels, f"{name}.shift": channels, f"{name}.out": out}


def _real_convolution(job: RealConvolution) -> dict[str, int]:
    of_map = job.inner if job.maxima.height else job.after
    channels = 64 * -(-job.after.channels // 16)
    starts = [(job.bias_y, of_map.height), (job.bias_x, of_map.width)]
    far = [max(struct.unpack(f"<{n}i", ctypes.string_at(at, 4 * n))) for at, n in starts if at]
    counts, steps = (job.images, job.channels, job.height, job.width), (job.x_image, job.x_channel, job.x_y, job.x_x)
    inner = {name: size for name, size in _after(job.inner, 0, "inner").items() if name != "inner.out"}
    return {
        "x": (1 if job.bytes else 4) * _span(counts, steps),
        "weight": job.factors * channels,
        "bias": 4 * sum(far) + channels,
        "residual": 4 * job.images * job.after.height * job.after.width * job.after.channels,
        **dict.fromkeys(("gain", "offset"), channels),
        **dict.fromkeys(("mean", "std"), 4 * job.channels),
        "offsets": 4 * job.factors,
        "scale": channels,
        "bias_y": 4 * of_map.height,
        "bias_x": 4 * of_map.width,
        "work": WORKERS * job.work_size,
        **inner,
        **_after(job.after, job.images),
    }


def _pooling(job: Pooling) -> dict[str, int]:
    channels = 64 * -(-job.after.channels // 16)
    x = 4 * job.images * job.height * job.width * job.after.channels
    return {"x": x, "before": channels, **_after(job.after, job.images)}


def _packing(job: Packing) -> dict[str, int]:
    """Return the bytes of what a job points to, what it writes last."""
    steps = (job.stride_image, job.stride_y, job.stride_x, job.stride_channel)
    counts = (job.images, job.height, job.width, job.groups * job.channels)
    words = job.groups * job.words
    return {
        "x": 4 * _span(counts, steps),
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
        **dict.fromkeys(("gain", "offset", "scale", "bias", "lift", "slope", "shift"), 4 * channels),
        "residual": 4 * pixels * (job.residual_channels or job.groups * job.channels),
        "out": 4 * pixels * job.groups * job.channels,
    }
