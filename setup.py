"""Metadata stands in `setup.cfg`; the mapping of `conf/` into the package and the kernels need code.

The C files of `deploy` and `functional` are compiled for several instruction sets by the compiler that pip installs for
the build (ziglang), or by the Clang that BNN_CC names (BNN_CC=clang). Where that fails the package is installed all the
same, and torch computes the same, slower.
"""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PACKAGE = Path("src", "bnn_lightning")
# Folder of libraries in the package: the C files that each of them is made of.
LIBRARIES = {
    Path("bnn_lightning", "deploy", "kernels", "_kernels"): [
        str(PACKAGE / "deploy" / "kernels" / "csrc" / name)
        for name in (
            *("thread_team.c", "binary_conv.c", "conv2d.c", "group_conv.c", "linear.c", "pool.c", "squeeze_excite.c"),
            "elementwise.c",
        )
    ],
    Path("bnn_lightning", "functional", "_kernels"): [str(PACKAGE / "functional" / "csrc" / "surrogates.c")],
}
X86 = {
    "x86_64_v2": "x86_64_v2",
    "x86_64_v3": "x86_64_v3",
    "x86_64_v4": "x86_64_v4+avx512vpopcntdq+avx512bitalg+avx512vnni",
}
# Name of a kernel: what zig calls the processor.
TARGETS = {"x86_64": X86, "amd64": X86, "aarch64": {"aarch64": "generic"}, "arm64": {"aarch64": "generic"}}
# The same for Clang's own -march.
MARCH = {
    "x86_64_v4+avx512vpopcntdq+avx512bitalg+avx512vnni": "x86-64-v4 -mavx512vpopcntdq -mavx512bitalg -mavx512vnni",
    "generic": "armv8-a",
}
# -ffp-contract=on, Clang's default, is stated because bits depend on it: products and sums of one expression are fused.
FLAGS = ["-O3", "-std=c11", "-ffp-contract=on", "-shared", "-fPIC", "-nostdlib"]
SUFFIXES = {"Windows": ".dll"}  # of libraries; elsewhere .so
MORE_SOURCES = {"Windows": [str(PACKAGE / "deploy" / "kernels" / "csrc" / "windows.c")]}


def command(cpu: str, out: Path, sources: list[str], system: str = "", target: str = "") -> list[str]:
    """Return the command that builds a kernel.

    Args:
        cpu: Processor, as zig names it.
        out: The library.
        sources: Its C files.
        system: Operating system that it runs on, as `platform.system` names it; empty is this one.
        target: The same for zig, with architecture and ABI; empty is this machine.
    """
    sources = [*sources, *MORE_SOURCES.get(system or platform.system(), [])]
    own = os.environ.get("BNN_CC", "")
    if own and not target:
        march = MARCH.get(cpu, cpu.replace("_v", "-v").replace("x86_64", "x86-64"))
        return [*shlex.split(own), *FLAGS, *f"-march={march}".split(), "-o", str(out), *sources]
    zig = [sys.executable, "-m", "ziglang", "cc", *(["-target", target] if target else [])]
    return [*zig, *FLAGS, "-s", f"-mcpu={cpu}", "-o", str(out), *sources]


def compile_kernels(folder: Path, sources: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as cache:
        places = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        for name, cpu in TARGETS.get(platform.machine().lower(), {}).items():
            out = Path(cache, name).with_suffix(SUFFIXES.get(platform.system(), ".so"))
            try:
                environment = os.environ | places
                subprocess.run(command(cpu, out, sources), check=True, capture_output=True, text=True, env=environment)
                # Removed before: a process that runs the old one keeps it.
                (folder / out.name).unlink(missing_ok=True)
                (folder / out.name).write_bytes(out.read_bytes())
            except (OSError, subprocess.CalledProcessError) as error:
                reason = (getattr(error, "stderr", "") or str(error)).strip()
                print(f"warning: the kernel {name} was not built, and is not needed to run: {reason}", file=sys.stderr)


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        for folder, sources in LIBRARIES.items():
            compile_kernels(Path("src" if self.editable_mode else self.build_lib) / folder, sources)


class PlatformDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


class PlatformWheel(bdist_wheel):
    """A wheel for one platform, and any Python: the kernels depend on neither Python nor torch."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


if __name__ == "__main__":
    setup(
        packages=[*find_packages("src"), "bnn_lightning.conf"],
        package_dir={"": "src", "bnn_lightning.conf": "conf"},
        distclass=PlatformDistribution,
        cmdclass={"build_py": BuildPy, "bdist_wheel": PlatformWheel},
    )
