"""Wheels of bnn-runtime: for this machine as a build backend of pip, for all targets as a program (`make wheels`).

A wheel holds three Python files and the C library, which zig compiles for any target on any host; it fits any Python.
"""

import argparse
import base64
import hashlib
import os
import platform
import re
import runpy
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENGINE = ROOT / "src" / "bnn_lightning" / "deploy" / "runtime"
METADATA = """Metadata-Version: 2.4
Name: bnn-runtime
Version: {version}
Summary: Run packed binary neural networks with numpy.
License-Expression: Apache-2.0
License-File: LICENSE
Requires-Python: >=3.10
Requires-Dist: numpy>=1.26
Provides-Extra: pictures
Requires-Dist: pillow>=10.3; extra == "pictures"
Description-Content-Type: text/markdown

{readme}"""


class Target(NamedTuple):
    """A platform: what zig calls it, operating system and machine as Python names them, and tags of its wheel."""

    zig: str
    system: str
    machine: str
    tags: str


# glibc 2.17 is that of manylinux2014; the C library of musl keeps its interface since 1.2.
TARGETS = (
    Target("x86_64-linux-gnu.2.17", "Linux", "x86_64", "manylinux_2_17_x86_64.manylinux2014_x86_64"),
    Target("aarch64-linux-gnu.2.17", "Linux", "aarch64", "manylinux_2_17_aarch64.manylinux2014_aarch64"),
    Target("arm-linux-gnueabihf.2.17", "Linux", "armv7l", "manylinux_2_17_armv7l.manylinux2014_armv7l"),
    Target("x86_64-linux-musl", "Linux", "x86_64", "musllinux_1_2_x86_64"),
    Target("aarch64-linux-musl", "Linux", "aarch64", "musllinux_1_2_aarch64"),
    Target("x86_64-macos.11.0", "Darwin", "x86_64", "macosx_11_0_x86_64"),
    Target("aarch64-macos.11.0", "Darwin", "arm64", "macosx_11_0_arm64"),
    Target("x86_64-windows-gnu", "Windows", "amd64", "win_amd64"),
)


def version() -> str:
    """Return the version of bnn-lightning, which is that of bnn-runtime, too."""
    text = (ROOT / "src" / "bnn_lightning" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"', text, re.MULTILINE)
    assert found is not None
    return found[1]


def write_wheel(folder: Path, tags: str, library: Path) -> Path:
    """Write a wheel.

    Args:
        folder: Place of the wheel.
        tags: Its platforms, with points between them.
        library: The C library.
    """
    info = f"bnn_runtime-{version()}.dist-info"
    tag_lines = "".join(f"Tag: py3-none-{tag}\n" for tag in tags.split("."))
    files: dict[str, bytes] = {
        **{f"bnn_runtime/{path.name}": path.read_bytes() for path in sorted((HERE / "bnn_runtime").glob("*.py"))},
        **{f"bnn_runtime/{name}": (ENGINE / name).read_bytes() for name in ("contexts.py", "native.py")},
        f"bnn_runtime/_lib/{library.name}": library.read_bytes(),
        "bnn_runtime/py.typed": b"",
        f"{info}/licenses/LICENSE": (ROOT / "LICENSE").read_bytes(),
        f"{info}/METADATA": METADATA.format(version=version(), readme=(HERE / "README.md").read_text()).encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: bnn-lightning\nRoot-Is-Purelib: false\n{tag_lines}".encode(),
        f"{info}/entry_points.txt": b"[console_scripts]\nbnn-runtime = bnn_runtime.cli:main\n",
    }
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD").encode()
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"bnn_runtime-{version()}-py3-none-{tags}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0))  # the same bytes whenever it is built
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return wheel


def _record(files: Mapping[str, bytes], own: str) -> str:
    lines = []
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    return "".join(lines) + f"{own},,\n"


def build_target(folder: Path, target: Target, cache: str = "") -> Path:
    """Build the library of a target, and its wheel."""
    with tempfile.TemporaryDirectory() as place, _builder() as builder:
        library = Path(place, f"libbnn{builder['SUFFIXES'].get(target.system, '.so')}")
        builder["build_engine"](library, target.machine, target.system, target.zig, cache)
        return write_wheel(folder, target.tags, library)


def build_wheel(wheel_directory: str, config_settings: Any = None, metadata_directory: str | None = None) -> str:
    """Build the wheel of this machine, as pip asks for it (PEP 517)."""
    folder = Path(wheel_directory).absolute()
    with tempfile.TemporaryDirectory() as place, _builder() as builder:
        library = Path(place, f"libbnn{builder['SUFFIXES'].get(platform.system(), '.so')}")
        builder["build_engine"](library, platform.machine().lower())
        tags = re.sub(r"\W", "_", sysconfig.get_platform())
        return write_wheel(folder, tags, library).name


@contextmanager
def _builder() -> Iterator[dict[str, Any]]:
    """Give the names of setup.py, which looks for its sources in the current folder."""
    before = Path.cwd()
    os.chdir(ROOT)
    try:
        yield runpy.run_path(str(ROOT / "setup.py"))
    finally:
        os.chdir(before)


def main() -> int:
    """Build the wheels that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("dist"), help="folder of the wheels (default: dist)")
    parser.add_argument("--targets", nargs="*", choices=[target.zig for target in TARGETS], help="default: all")
    options = parser.parse_args()
    out = options.out.absolute()
    with tempfile.TemporaryDirectory() as cache:
        for target in TARGETS:
            if not options.targets or target.zig in options.targets:
                wheel = build_target(out, target, cache)
                print(f"{wheel} ({wheel.stat().st_size} bytes)", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
