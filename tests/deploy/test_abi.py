"""The structures of `abi.py` are those of the C files, field by field."""

import ctypes
import os
import subprocess
from pathlib import Path

import pytest

from bnn_lightning.deploy.kernels import abi, layout
from bnn_lightning.deploy.kernels.abi import KERNELS, field_offsets, structure_of
from tests.deploy.emulated import FOLDER, zig


@pytest.mark.skipif(not zig(), reason="Needs ziglang.")
def test_sizes_and_offsets_are_those_of_c(tmp_path: Path) -> None:
    constants = {name: getattr(abi, name) for name in ("VERSION", "PART", "WORKERS", "LINE", "MOST_LINES")}
    constants |= {"BLOCK": layout.BLOCK, "WORD_BITS": layout.WORD_BITS}
    checks = [f"{name} == {value}" for name, value in constants.items()]
    for kernel, structure in KERNELS.items():
        checks.append(f"sizeof(struct bnn_{kernel}) == {ctypes.sizeof(structure)}")
        for name, (offset, kind) in field_offsets(kernel).items():
            checks.append(f"offsetof(struct bnn_{kernel}, {name}) == {offset}")
            checks.append(f"sizeof(((struct bnn_{kernel} *)0)->{name}) == {ctypes.sizeof(kind)}")
    assert len(checks) > 400
    lines = ["#include <stddef.h>", '#include "arguments.h"', *(f'_Static_assert({c}, "{c}");' for c in checks)]
    (tmp_path / "checks.c").write_text("\n".join(lines), encoding="utf-8")
    caches = {"ZIG_GLOBAL_CACHE_DIR": str(tmp_path / "cache"), "ZIG_LOCAL_CACHE_DIR": str(tmp_path / "cache")}
    files = ["-c", str(tmp_path / "checks.c"), "-o", str(tmp_path / "checks.o")]
    command = [*zig(), "cc", "-std=c11", "-I", str(FOLDER), *files]
    subprocess.run(command, check=True, env=os.environ | caches)


def test_fields_of_structures_within_are_filled() -> None:
    structure = structure_of("real_convolve", {"images": 3, "after.low": 0.5, "inner.height": 7, "after.out": 64})
    assert (structure.images, structure.after.low, structure.inner.height, structure.after.out) == (3, 0.5, 7, 64)
    assert structure.after.height == 0
