"""The kernels link for every system and processor that `setup.py` builds them for."""

import configparser
import importlib.util
import os
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from tests.packaging.binaries import directory, exported, only_libc_of_windows

# Target of zig: operating system and machine as Python names them, and how a library begins.
TARGETS = {
    "x86_64-linux-gnu.2.17": ("Linux", "x86_64", b"\x7fELF"),
    "aarch64-linux-gnu.2.17": ("Linux", "aarch64", b"\x7fELF"),
    "arm-linux-gnueabihf.2.17": ("Linux", "armv7l", b"\x7fELF"),
    "x86_64-linux-musl": ("Linux", "x86_64", b"\x7fELF"),
    "x86_64-macos": ("Darwin", "x86_64", b"\xcf\xfa\xed\xfe"),
    "aarch64-macos": ("Darwin", "arm64", b"\xcf\xfa\xed\xfe"),
    "x86_64-windows-gnu": ("Windows", "amd64", b"MZ"),
    "wasm32-wasi": ("WASI", "wasm32", b"\0asm"),
}
ENGINE = ("open", "open_memory", "describe", "context_open", "run_bytes", "run_floats", "run_steps", "prepare", "close")
SURROGATES = ("version", "sign_f32", "ede_gradient_bf16")


@pytest.fixture(scope="module")
def builder(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_of_kernels", root / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = str(tmp_path_factory.mktemp("zig"))
    return {"ZIG_GLOBAL_CACHE_DIR": folder, "ZIG_LOCAL_CACHE_DIR": folder}


def surrogates_link(target: str, builder: ModuleType, cache: dict[str, str], root: Path, out: Path) -> None:
    system, machine, magic = TARGETS[target]
    ((_, sources),) = builder.LIBRARIES.items()
    for kernel in filter(None, builder.TARGETS[machine]):
        command = builder.command(builder.TARGETS[machine][kernel], out, sources, system, target)
        done = subprocess.run(command, cwd=root, env=os.environ | cache, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        data = out.read_bytes()
        assert data.startswith(magic)
        names = exported(data) if system == "Windows" else data
        assert all(f"bnn_{name}".encode() in names for name in SURROGATES)
        if system == "Windows":
            assert directory(data, 1) == 0, "it imports other libraries"


def engine_links(target: str, builder: ModuleType, cache: dict[str, str], root: Path, out: Path) -> None:
    system, machine, magic = TARGETS[target]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        builder.build_engine(out, machine, system, target, cache["ZIG_GLOBAL_CACHE_DIR"])
    data = out.read_bytes()
    assert data.startswith(magic)
    assert len(data) < 600_000
    names = exported(data) if system == "Windows" else data
    assert all(f"bnn_{name}".encode() in names for name in ENGINE)
    for name in filter(None, builder.TARGETS[machine]):
        assert name.encode() in data
    if system == "Windows":
        only_libc_of_windows(data)


needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="Needs ziglang.")


@needs_zig
@pytest.mark.parametrize("name", ["map.c", "pool.c"])
def test_what_asks_the_system_compiles_for_windows(
    name: str, builder: ModuleType, cache: dict[str, str], root: Path, tmp_path: Path
) -> None:
    (source,) = (file for file in builder.RUNTIME if Path(file).name == name)
    command = builder.compiler(builder.TARGETS["amd64"][""], "x86_64-windows-gnu")
    command += ["-Werror", "-Wno-unused-command-line-argument", "-O0", "-c", source, "-o", str(tmp_path / "out.o")]
    done = subprocess.run(command, cwd=root, env=os.environ | cache, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_zig
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_library_links(
    target: str, builder: ModuleType, cache: dict[str, str], root: Path, tmp_path: Path
) -> None:
    engine_links(target, builder, cache, root, tmp_path / "engine")
    if TARGETS[target][1] not in ("armv7l", "wasm32"):
        surrogates_link(target, builder, cache, root, tmp_path / "surrogates")


def test_every_machine_that_is_built_for_is_linked_here(builder: ModuleType) -> None:
    assert {machine for _, machine, _ in TARGETS.values()} == set(builder.TARGETS)
    assert "-ffp-contract=on" in builder.FLAGS


def test_the_compiler_is_bounded_and_the_same_everywhere(root: Path) -> None:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(root / "setup.cfg", encoding="utf-8")
    pattern = re.compile(r"ziglang([^;\n]*);")
    for_tests = pattern.findall(parser["options.extras_require"]["dev"])
    for_builds = pattern.findall((root / "pyproject.toml").read_text(encoding="utf-8"))
    assert for_builds
    assert for_tests == for_builds
    assert len(set(for_builds)) == 1
    assert re.fullmatch(r">=[\d.]+,<[\d.]+", for_builds[0])
