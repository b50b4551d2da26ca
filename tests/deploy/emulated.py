"""The kernels of ARM on another processor: compiled for Linux by zig, run by qemu, fed through pipes.

One static program for each instruction set has all kernels. It is told the fields of a call, by their numbers, and the
memory that these point to, which the rules of the verifier measure; it returns that memory. Where this machine's own
kernels round products and sums once, as those of ARM do, both must be equal bit by bit.
"""

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
from typing import Any, NamedTuple

import numpy as np

from bnn_lightning.deploy.kernels.abi import KERNELS, field_offsets
from bnn_lightning.deploy.kernels.call import Address, KernelCall, Region
from bnn_lightning.deploy.kernels.job import Job, Memory
from bnn_lightning.deploy.kernels.library import Kernel, supported_kernels
from bnn_lightning.deploy.kernels.rules import RULES

_DEPLOY = Path(__file__).parents[2] / "src" / "bnn_lightning" / "deploy"
FOLDER = _DEPLOY / "kernels" / "csrc"
# zig keeps the C libraries of other systems, which take most of the time, and what did not change.
CACHE = Path(__file__).parents[2] / "build" / "zig"


class _Target(NamedTuple):
    system: str
    cpu: str
    emulator: str


# The instruction sets of setup.py that ARM has: what zig calls system and processor, and the emulator.
SETS = {
    "aarch64": _Target("aarch64-linux-musl", "generic", "qemu-aarch64"),
    "aarch64_dot": _Target("aarch64-linux-musl", "generic+v8_2a+dotprod", "qemu-aarch64"),
    "armv7": _Target("arm-linux-musleabihf", "cortex_a7", "qemu-arm"),
}
# Takes: the kernel, and how many memories and fields there are; for each memory its size, and its bytes unless that is
# negative; for each field its number, its value in 64 bits, and a pointer's memory, or -1. Gives the memories back.
DRIVER = """
#include "internal.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef void kernel(const void *job, void *worker);
#define DECLARE(name, more) kernel bnn_##name##_arm;
BNN_KERNELS(DECLARE, )
#define LIST(name, more) bnn_##name##_arm,
static kernel *const kernels[] = {BNN_KERNELS(LIST, )};
static void take(void *to, size_t n) { if (n && fread(to, 1, n, stdin) != n) exit(0); }
int main(void) {
  for (;;) {
    int64_t head[3], size, field[3];
    take(head, sizeof head);
    char **memory = malloc(head[1] * sizeof *memory + 1), *job = calloc(1, kernel_facts[head[0]].size);
    int64_t *sizes = malloc(head[1] * sizeof *sizes + 1);
    for (int64_t i = 0; i < head[1]; i++) {
      take(&size, sizeof size);
      memory[i] = calloc(1, (size < 0 ? -size : size) + 1), sizes[i] = size < 0 ? 0 : size;
      take(memory[i], sizes[i]);
    }
    for (int64_t i = 0; i < head[2]; i++) {
      take(field, sizeof field);
      const struct field *f = kernel_facts[head[0]].field + field[0];
      char *const pointer = field[2] < 0 ? 0 : memory[field[2]] + field[1];
      if (f->kind == POINTER) memcpy(job + f->at, &pointer, sizeof pointer);
      else memcpy(job + f->at, &field[1], f->kind == REAL ? 4 : 8);
    }
    kernels[head[0]](job, 0);
    for (int64_t i = 0; i < head[1]; i++) fwrite(memory[i], 1, sizes[i], stdout), free(memory[i]);
    fflush(stdout);
    free(memory), free(sizes), free(job);
  }
}
"""

# Instruction sets with fused products and sums.
FUSED = ("x86_64_v4", "x86_64_v3", "aarch64_dot", "aarch64")


def zig() -> list[str]:
    """Return the command of the compiler, empty where there is none."""
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang"]
    return [found] if (found := shutil.which("zig")) else []


def emulator_of(name: str) -> str | None:
    """Return the emulator of an instruction set, None where there is none."""
    wanted = SETS[name].emulator
    return shutil.which(f"{wanted}-static") or shutil.which(wanted)


def can_emulate(name: str = "aarch64") -> bool:
    """Whether there is a compiler, and an emulator of the instruction set."""
    return emulator_of(name) is not None and bool(zig())


@cache
def emulated(name: str = "aarch64") -> "Emulated":
    """Return the kernels of an instruction set, compiled once."""
    return Emulated(name, Path(mkdtemp(prefix=f"bnn-{name}-")))


def fused_kernel() -> Kernel | None:
    """Return kernels of this machine that round as those of ARM do, or None."""
    names = [name for name in supported_kernels() if name in FUSED]
    return Kernel(names[0]) if names else None


def differences(found: bytes, wanted: bytes) -> str:
    """Say where bits differ; empty if nowhere. All NaN are equal: their bits are those of a processor."""
    if found == wanted:
        return ""
    parts = [np.frombuffer(part[: len(part) // 4 * 4], np.uint32) for part in (found, wanted)]
    numbers = [part.view(np.float32) for part in parts]
    at = np.flatnonzero((parts[0] != parts[1]) & ~(np.isnan(numbers[0]) & np.isnan(numbers[1])))
    if not len(at) and found[4 * len(parts[0]) :] == wanted[4 * len(parts[0]) :]:
        return ""
    shown = [f"[{i}] {numbers[0][i]!r} ({parts[0][i]:08x}), not {numbers[1][i]!r} ({parts[1][i]:08x})" for i in at[:3]]
    return f"{len(at)} of {len(parts[0])} words differ: {'; '.join(shown)}"


class _Span(NamedTuple):
    """Memory that a field points to."""

    begin: int
    end: int
    scratch: bool


class _Spans(Job):
    """The memory of a call, as the verifier's rules reach it."""

    def __init__(self, call: KernelCall) -> None:
        super().__init__(call, Memory({}, 1))
        self.spans: list[_Span] = []

    def reach(
        self, name: str, count: int, size: int = 4, *, of: Any = None, needed: bool = True, write: bool = False
    ) -> None:
        address = getattr(self.job if of is None else of, name)
        if isinstance(address, Address):
            scratch = name == "work"
            bytes_ = self.job.work_size if scratch and "work_size" in self.call.fields else count * size
            self.spans.append(_Span(address.offset, address.offset + bytes_, scratch))

    def table(self, name: str, count: int) -> tuple[int, int]:
        self.reach(name, count)
        values = (ctypes.c_int32 * count).from_address(getattr(self.job, name).offset)
        return min(values), max(values)


class Emulated:
    """In the place of `library.Kernel`: all kernels of an instruction set of ARM.

    Args:
        name: A key of `SETS`.
        folder: Folder of the program that is compiled.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._here = name, fused_kernel()
        (folder / "driver.c").write_text(DRIVER, encoding="utf-8")
        sources = [folder / "driver.c", *sorted(FOLDER.glob("*.c"))]
        sources.append(_DEPLOY / "runtime" / "csrc" / "fields.c")
        include = [f"-I{_DEPLOY / part / 'csrc'}" for part in ("kernels", "runtime")]
        target = SETS[name]
        command = [
            *zig(),
            "cc",
            "-target",
            target.system,
            f"-mcpu={target.cpu}",
            "-static",
            "-O3",
            "-std=c11",
            "-ffp-contract=on",
            "-DBNN_SET=arm",
            *include,
        ]
        # zig compiles the C library of the target for each new global cache, which takes 19 of 20 seconds.
        caches = {"ZIG_GLOBAL_CACHE_DIR": str(CACHE), "ZIG_LOCAL_CACHE_DIR": str(folder / "cache")}
        words = [*command, *map(str, sources), "-o", str(folder / "driver")]
        built = subprocess.run(words, env=os.environ | caches, capture_output=True, text=True)
        assert built.returncode == 0, built.stderr
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen([str(emulator_of(name)), str(folder / "driver")], **pipes)

    def run(self, operation: str, job: ctypes.Structure) -> None:
        """Run an operation, and write its results where the job says.

        Raises:
            AssertionError: The results differ from those of this machine.
        """
        fields = {}
        for name, (offset, kind) in field_offsets(operation).items():
            value = kind.from_buffer(job, offset).value
            if value:
                fields[name] = Address(Region.ARENA, value) if kind is ctypes.c_void_p else value
        spans = _Spans(KernelCall(operation, fields))
        RULES[operation](spans)
        memories = _joined(spans.spans)
        results = self._results(_request(operation, fields, memories), memories)
        if self._here is not None:
            self._here.run(operation, job)
        for span, found in zip(memories, results, strict=True):
            if not span.scratch:
                here = ctypes.string_at(span.begin, len(found))
                where = differences(found, here) if self._here else ""
                assert not where, f"{self.name}, {operation}: {where}"
                if found != here:
                    ctypes.memmove(span.begin, found, len(found))

    def _results(self, request: bytes, memories: list[_Span]) -> list[bytes]:
        """Send a request; return the bytes of memories, none of scratch memory."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(request)
        stdin.flush()
        sizes = [0 if span.scratch else span.end - span.begin for span in memories]
        results = [stdout.read(size) for size in sizes]
        assert [*map(len, results)] == sizes, "the emulated kernel has ended"
        return results


def _joined(spans: list[_Span]) -> list[_Span]:
    """Return spans of memory without overlaps."""
    found: list[_Span] = []
    for span in sorted(spans):
        if found and span.begin < found[-1].end:
            last = found.pop()
            span = _Span(last.begin, max(last.end, span.end), last.scratch and span.scratch)
        found.append(span)
    return found


def _request(operation: str, fields: dict[str, Any], memories: list[_Span]) -> bytes:
    words, lines = list(field_offsets(operation)), []
    for name, value in fields.items():
        if isinstance(value, Address):
            at = value.offset
            holds = (i for i, span in enumerate(memories) if span.begin <= at < max(span.end, span.begin + 1))
            number = next(holds, -1)
            lines.append(
                struct.pack("<qqq", words.index(name), 0 if number < 0 else at - memories[number].begin, number)
            )
        elif isinstance(value, float):
            lines.append(struct.pack("<qfiq", words.index(name), value, 0, -1))
        else:
            lines.append(struct.pack("<qqq", words.index(name), value, -1))
    request = struct.pack("<qqq", list(KERNELS).index(operation), len(memories), len(lines))
    for span in memories:
        size = span.end - span.begin
        request += struct.pack("<q", -size if span.scratch else size)
        request += b"" if span.scratch else ctypes.string_at(span.begin, size)
    return request + b"".join(lines)
