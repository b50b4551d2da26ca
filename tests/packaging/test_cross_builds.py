"""The kernels link for every system and processor that `setup.py` builds them for."""

import configparser
import importlib.util
import os
import re
import struct
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

# Target of zig: operating system and machine as Python names them, and how a library begins.
TARGETS = {
    "x86_64-linux-gnu": ("Linux", "x86_64", b"\x7fELF"),
    "aarch64-linux-gnu": ("Linux", "aarch64", b"\x7fELF"),
    "x86_64-macos": ("Darwin", "x86_64", b"\xcf\xfa\xed\xfe"),
    "aarch64-macos": ("Darwin", "arm64", b"\xcf\xfa\xed\xfe"),
    "x86_64-windows-gnu": ("Windows", "amd64", b"MZ"),
}


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


OPERATIONS = {
    "kernels": ("version", "run", "pack", "convolve", "real_convolve", "linear", "pool", "gate"),
    "functional": ("version", "sign_f32", "ede_gradient_bf16"),
}


def links(target: str, kernel: str, builder: ModuleType, cache: dict[str, str], root: Path, out: Path) -> None:
    assert {folder.parent.name for folder in builder.LIBRARIES} == set(OPERATIONS)
    for folder, sources in builder.LIBRARIES.items():
        library_links(target, kernel, builder, cache, root, out, sources, OPERATIONS[folder.parent.name])


def library_links(
    target: str,
    kernel: str,
    builder: ModuleType,
    cache: dict[str, str],
    root: Path,
    out: Path,
    sources: list[str],
    operations: tuple[str, ...],
) -> None:
    system, machine, magic = TARGETS[target]
    command = builder.command(builder.TARGETS[machine][kernel], out, sources, system, target)
    done = subprocess.run(command, cwd=root, env=os.environ | cache, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    data = out.read_bytes()
    assert data.startswith(magic)
    names = exported(data) if system == "Windows" else data
    assert all(f"bnn_{name}".encode() in names for name in operations)
    if system == "Windows":
        assert directory(data, 1) == 0, "it imports other libraries"


def directory(data: bytes, number: int) -> int:
    """Return the address of a table of a DLL: 0 exports, 1 imports."""
    header = struct.unpack_from("<I", data, 0x3C)[0] + 24
    return int(struct.unpack_from("<I", data, header + 112 + 8 * number)[0])


def exported(data: bytes) -> list[bytes]:
    """Return the names that a DLL exports."""
    header = struct.unpack_from("<I", data, 0x3C)[0]
    (count,), (size,) = struct.unpack_from("<H", data, header + 6), struct.unpack_from("<H", data, header + 20)
    sections = [struct.unpack_from("<8xIIII", data, header + 24 + size + 40 * place) for place in range(count)]

    def place(address: int) -> int:
        return next(file + address - begin for _, begin, length, file in sections if begin <= address < begin + length)

    table = place(directory(data, 0))
    (number,), (names,) = struct.unpack_from("<I", data, table + 24), struct.unpack_from("<I", data, table + 32)
    starts = [place(address) for address in struct.unpack_from(f"<{number}I", data, place(names))]
    return [data[start : data.index(b"\0", start)] for start in starts]


needs_zig = pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="Needs ziglang.")


@needs_zig
@pytest.mark.parametrize("target", TARGETS)
def test_a_kernel_links(target: str, builder: ModuleType, cache: dict[str, str], root: Path, tmp_path: Path) -> None:
    kernel = "aarch64" if target.startswith("aarch64") else "x86_64_v3"
    links(target, kernel, builder, cache, root, tmp_path / "library")


@needs_zig
@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_every_kernel_links(
    target: str, builder: ModuleType, cache: dict[str, str], root: Path, tmp_path: Path
) -> None:
    for kernel in builder.TARGETS[TARGETS[target][1]]:
        links(target, kernel, builder, cache, root, tmp_path / kernel)


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
