"""ARM under emulation: libraries of the wheels, and every C command of the page on Raspberry Pi and phones."""

import fnmatch
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from bnn_lightning.deploy import PackedInfo, pack, save
from bnn_lightning.deploy.runtime import native
from bnn_lightning.models import create_backbone
from bnn_lightning.zoo import packed_file
from tests.deploy.emulated import CACHE, fused_kernel, zig
from tests.deploy.test_convert import settled
from tests.packaging.pages import DOCS, ROOT, blocks
from tests.packaging.test_runtime_wheel import accepted
from tests.small_networks import small_options

pytestmark = pytest.mark.slow
Run = Callable[..., str]
PAGE = (DOCS / "guides" / "deploy_raspberry_pi.md").read_text(encoding="utf-8")
TABLES = [re.findall(r"`([^`]+)`", line) for line in PAGE.splitlines() if line.startswith("|")]


class System(NamedTuple):
    """A row of the page: architecture in the name of the wheel, compiler, emulator."""

    wheel: str
    compiler: str
    emulator: str


SYSTEMS = {row[0]: System(*row) for row in TABLES if len(row) == 3}
(CLANG,) = (row[-1] for row in TABLES if row and row[-1].startswith("clang --target"))
SETS = {"aarch64": ("aarch64_dot", "aarch64"), "armv7l": ("armv7",)}


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest) -> System:
    found = SYSTEMS[request.param]
    for tool in (found.compiler, found.emulator.split()[0]):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}")
    return found


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels that the page builds, by their architecture."""
    if not zig():
        pytest.skip("needs ziglang")
    builder = runpy.run_path(str(ROOT / "runtime" / "wheels.py"))
    (named,) = re.findall(r"--targets ([^\"]+)\"", PAGE)
    targets = [target for target in builder["TARGETS"] if target.zig in named.split()]
    folder = tmp_path_factory.mktemp("page") / "dist"
    return {target.machine: builder["build_target"](folder, target, str(CACHE)) for target in targets}


def clang() -> str:
    """Return the Clang of this machine, with or without a version in its name; empty if there is none."""
    names = ["clang", *(f"clang-{version}" for version in range(30, 13, -1))]
    return next((name for name in names if shutil.which(name)), "")


def test_pip_takes_the_wheels_of_the_page(dist: dict[str, Path], tmp_path: Path, run: Run) -> None:
    patterns = re.findall(r"pip install (bnn_runtime-\S+\.whl)", PAGE)
    assert len(patterns) == len(SYSTEMS)
    for pattern, wheel in zip(patterns, dist.values(), strict=True):
        assert fnmatch.filter([one.name for one in dist.values()], pattern) == [wheel.name]
        assert wheel.name in PAGE
        for tag in wheel.stem.split("-")[-1].split("."):
            accepted(wheel, tag, tmp_path / tag, run)


def runs_on(system: System, script: str) -> bool:
    """Say whether commands of the page are C for a system: the static program and Android's are those of 64 bits."""
    if re.search(r"^(bnn|bnn-runtime|make|pip|adb) ", script, flags=re.MULTILINE):
        return False
    return system.wheel == "aarch64" or not re.search(r"-static|\$CLANG", script)


def test_commands_of_the_page(system: System, dist: dict[str, Path], tmp_path: Path) -> None:
    """Compilers and emulators are those that the page names; `./program` runs under the emulator."""
    shutil.copytree(dist[system.wheel].parent, tmp_path / "dist")
    shutil.copy(packed_file("zoo:mnist_mlp"), tmp_path / "mlp.bnn")
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    (tmp_path / "two.pgm").write_bytes(b"P5 28 28 255\n" + pixels.tobytes())
    script = f'clang() {{ command {clang()} "$@"; }}\nCLANG={shlex.quote(CLANG)}\n'
    for block in blocks(PAGE):
        if block.title:
            (tmp_path / block.title).write_text(block.script, encoding="utf-8")
        elif block.language in ("sh", "bash") and runs_on(system, block.script):
            script += block.script
    default = SYSTEMS["aarch64"]
    chosen = f"WHEEL={default.wheel} CC={default.compiler}"
    assert chosen in script
    script = script.replace(chosen, f"WHEEL={system.wheel} CC={system.compiler}")
    script = re.sub(r"(?<!\S)(?=\./(?:classify|load))", f"{system.emulator} ", script)
    if "$CLANG" in script and not clang():
        pytest.skip("needs Clang")
    path = os.pathsep.join([str(Path(sys.prefix, "bin")), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "PROJECT": str(ROOT), "ZIG_GLOBAL_CACHE_DIR": str(CACHE)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    network = native.load(tmp_path / "mlp.bnn")
    (logits,) = network(network.prepare(pixels)[None])
    wanted = [f"{logit:.9g} {number}" for number, logit in enumerate(logits)]
    programs = {"aarch64": 2, "armv7l": 1}[system.wheel]
    assert len(re.findall(r"qemu\S* .*\./classify", script)) == programs
    printed = re.findall(r"^\S+ \d$", done.stdout, flags=re.MULTILINE)
    assert len(printed) == programs * len(wanted)
    if fused_kernel():
        assert printed == programs * wanted
    loaded = re.findall(r"^mlp: 10 classes, (\w+)$", done.stdout, flags=re.MULTILINE)
    assert loaded == [*SETS[system.wheel]]  # the best of the wheel, and on 64 bits the one that was compiled by hand


# Loads libbnn.so while it runs: libbnn.so model.bnn images.bin number logits.bin.
PROGRAM = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include "bnn.h"
#define FUNCTION(name) __typeof__(name) *const name##_ = (__typeof__(name) *)dlsym(library, #name)
#define TRY(call) if (call) return fprintf(stderr, "%s\\n", error.text), 1
int main(int argc, char **argv) {
  void *library = dlopen(argv[1], RTLD_NOW);
  if (!library) return fprintf(stderr, "%s\\n", dlerror()), 2;
  FUNCTION(bnn_open); FUNCTION(bnn_describe); FUNCTION(bnn_context_open); FUNCTION(bnn_run_bytes);
  FUNCTION(bnn_context_close); FUNCTION(bnn_close);
  bnn_network *network;
  bnn_context *context;
  bnn_error error;
  TRY(bnn_open_(argv[2], &network, &error));
  const bnn_facts *facts = bnn_describe_(network);
  const size_t n = strtoul(argv[4], 0, 10), size = n * facts->channels * facts->height * facts->width;
  unsigned char *images = malloc(size);
  float *logits = malloc(n * facts->classes * sizeof *logits);
  FILE *in = fopen(argv[3], "rb"), *out = fopen(argv[5], "wb");
  if (fread(images, 1, size, in) != size) return 3;
  TRY(bnn_context_open_(network, n, 2, &context, &error));
  TRY(bnn_run_bytes_(context, images, n, logits, &error));
  fwrite(logits, sizeof *logits, n * facts->classes, out), fclose(out);
  printf("%s", facts->kernels);
  bnn_context_close_(context), bnn_close_(network);
  return 0;
}
"""


def network_files(folder: Path) -> dict[Path, np.ndarray]:
    """Write networks with all kinds of layers; return images by their file."""
    files = {}
    for name, more in {"resnet20": {}, "birealnet18": {"stem": "u8"}, "bnext_tiny": {"rest": "int8"}}.items():
        torch.manual_seed(0)
        network = create_backbone(name, num_classes=10, image_size=32, **small_options(name))
        packed = pack(settled(network, torch.rand(8, 3, 32, 32)))
        options: dict[str, Any] = more
        save(packed, folder / f"{name}.bnn", PackedInfo(name, 3, 32), **options)
        files[folder / f"{name}.bnn"] = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), np.uint8)
    return files


def test_libraries_of_the_wheels_give_equal_bits(
    system: System, dist: dict[str, Path], tmp_path: Path, run: Run
) -> None:
    if fused_kernel() is None:
        pytest.skip("this processor rounds otherwise")
    run(["unzip", "-q", dist[system.wheel], "-d", tmp_path / "engine"], cwd=tmp_path)
    (tmp_path / "load.c").write_text(PROGRAM, encoding="utf-8")
    include = f"-I{ROOT / 'src/bnn_lightning/deploy/runtime/csrc'}"
    run([system.compiler, "load.c", include, "-ldl", "-o", "load"], cwd=tmp_path)
    library = tmp_path / "engine" / "bnn_runtime" / "_lib" / "libbnn.so"
    for file, images in network_files(tmp_path).items():
        (tmp_path / "images.bin").write_bytes(images.tobytes())
        for name in SETS[system.wheel]:
            words = [*system.emulator.split(), "./load", library, file, "images.bin", str(len(images)), "logits.bin"]
            assert run(["env", f"BNN_KERNEL={name}", *words], cwd=tmp_path) == name
            logits = np.fromfile(tmp_path / "logits.bin", np.float32).reshape(len(images), -1)
            np.testing.assert_array_equal(logits, native.load(file)(images), err_msg=f"{file.stem}, {name}")
    if system.wheel == "armv7l":  # a processor without VFPv4
        program, options = system.emulator.split()[0], system.emulator.split()[1:]
        words = [program, "-cpu", "cortex-a9", *options, "./load", library, file, "images.bin", "1", "logits.bin"]
        done = subprocess.run(list(map(str, words)), cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, "processor" in done.stderr) == (1, True)
