"""Networks in C under other compilers: microcontrollers, C++, and processors without fused products and sums."""

import ctypes
import ctypes.util
import math
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bnn_lightning.deploy import LoadedNetwork
from bnn_lightning.deploy.export.c99_text import functions
from bnn_lightning.models import create_backbone
from tests.deploy.emulated import zig
from tests.deploy.test_c99 import COMPILER, FLAGS, bytes_of, needs_compiler, written
from tests.deploy.test_convert import settled

# Processors of microcontrollers with an instruction for fused products and sums of floats, as zig names them.
BOARDS = {
    "cortex_m4": ("thumb-freestanding-eabihf", "cortex_m4+vfp4d16sp"),
    "riscv": ("riscv32-freestanding", "generic_rv32+m+f"),
}
_SKETCH = """
#include "net.h"
int main() {
  uint8_t pixels[net_PIXELS];
  for (int i = 0; i < net_PIXELS; i++) pixels[i] = (uint8_t)(i * 37);
  return net_classify(pixels);
}
"""
_FUSED = """
float fused(float a, float b, float c);
float fused(float a, float b, float c) { return BNN_FMA(a, b, c); }
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoadedNetwork]:
    """The folder of a network in C, and the network."""
    folder = tmp_path_factory.mktemp("small")
    torch.manual_seed(0)
    images = bytes_of(3, 1, 8, 8) / 255
    network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=32)
    return folder, written(settled(network, images), images, folder)


@pytest.mark.skipif(not zig(), reason="needs zig")
@pytest.mark.parametrize("board", BOARDS)
def test_a_microcontroller_needs_no_other_functions(board: str, small: tuple[Path, LoadedNetwork]) -> None:
    folder, (target, cpu) = small[0], BOARDS[board]
    command = [*zig(), "cc", "-target", target, f"-mcpu={cpu}", *FLAGS, "-fno-unwind-tables", "-c", "net.c"]
    subprocess.run([*command, "-o", "board.o"], cwd=folder, check=True)
    names = set(re.findall(rb"(?<=\0)[a-z_]\w*(?=\0)", (folder / "board.o").read_bytes()))
    assert b"net_classify" in names
    # Neither fmaf nor arithmetic in software, for floats or for doubles.
    assert {name for name in names if re.match(rb"fma|__\w+[sd]f[23s]|__aeabi_[dfiu]", name)} == set()


@needs_compiler
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a compiler of C++")
def test_a_program_in_cpp_calls_the_network(small: tuple[Path, LoadedNetwork]) -> None:
    folder, packed = small
    (folder / "sketch.cpp").write_text(_SKETCH, encoding="utf-8")
    subprocess.run([str(COMPILER), *FLAGS, "-c", "net.c"], cwd=folder, check=True)
    subprocess.run(["c++", "-Wall", "-Werror", "sketch.cpp", "net.o", "-o", "sketch"], cwd=folder, check=True)
    done = subprocess.run([str(folder / "sketch")], check=False)
    pixels = (torch.arange(64) * 37 % 256).to(torch.uint8).view(1, 1, 8, 8)
    assert done.returncode == packed(pixels).argmax()


@needs_compiler
@pytest.mark.skipif(ctypes.util.find_library("m") is None, reason="needs a mathematics library")
def test_products_and_sums_round_once(tmp_path: Path) -> None:
    (tmp_path / "fused.c").write_text(f"#include <stdint.h>\n{functions({'fma'})}{_FUSED}", encoding="utf-8")
    subprocess.run([str(COMPILER), *FLAGS, "-shared", "-fPIC", "fused.c", "-o", "fused.so"], cwd=tmp_path, check=True)
    found, wanted = (ctypes.CDLL(str(name)) for name in (tmp_path / "fused.so", ctypes.util.find_library("m")))
    for function in (fused := found.fused, fmaf := wanted.fmaf):
        function.restype, function.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    # Products beside half a unit of a sum's last place: doubles round to the half, and floats then wrongly.
    rng = np.random.default_rng(0)
    units = rng.integers(1, 5, 3000) * rng.choice([-1, 1], 3000)
    numbers = rng.integers(2**20, 2**24, 3000) * rng.choice([-1, 1], 3000)
    exponents = rng.integers(-149, 100, 3000).tolist()
    twice = 0
    for unit, number, exponent in zip(units.tolist(), numbers.tolist(), exponents, strict=True):
        half = exponent // 2
        a = math.ldexp(1 + unit * 2**-23, half - 1)
        b, c = math.ldexp(1 - unit * 2**-23, exponent - half), math.ldexp(number, exponent)
        assert fused(a, b, c) == fmaf(a, b, c), (a.hex(), b.hex(), c.hex())
        twice += float(np.float32(a * b + c)) != fmaf(a, b, c)
    assert twice > 100
    for case in ((math.inf, 1, 1), (3e38, 3e38, -math.inf), (0.0, -1.0, -0.0), (3e38, 2, 3e38), (1, 1, -1)):
        assert struct.pack("f", fused(*case)) == struct.pack("f", fmaf(*case))
    assert math.isnan(fused(math.inf, 0, 1))
