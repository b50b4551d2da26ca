"""Metadata stands in `setup.cfg`; the mapping of `conf/` into the package and the kernels need code.

The C files of `deploy` are compiled for several instruction sets by the compiler that pip installs for the build
(ziglang), or by the Clang that BNN_CC names (BNN_CC=clang). Where that fails the package is installed all the same, and
packed layers are computed by torch.
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

FOLDER = Path("src", "bnn_lightning", "deploy")
SOURCES = [str(FOLDER / name) for name in ("team.c", "kernel.c", "real.c", "linear.c", "pool.c", "gate.c")]
KERNELS = Path("bnn_lightning", "deploy", "_kernels")
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
FLAGS = ["-O3", "-std=c11", "-shared", "-fPIC", "-nostdlib"]


def command(cpu: str, out: Path) -> list[str]:
    own = os.environ.get("BNN_CC", "")
    if own:
        march = MARCH.get(cpu, cpu.replace("_v", "-v").replace("x86_64", "x86-64"))
        return [*shlex.split(own), *FLAGS, *f"-march={march}".split(), "-o", str(out), *SOURCES]
    return [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-s", f"-mcpu={cpu}", "-o", str(out), *SOURCES]


def compile_kernels(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, cpu in TARGETS.get(platform.machine().lower(), {}).items():
        with tempfile.TemporaryDirectory() as cache:
            out = Path(cache, f"{name}.so")
            places = {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
            try:
                subprocess.run(command(cpu, out), check=True, capture_output=True, text=True, env=os.environ | places)
                # Removed before: a process that runs the old one keeps it.
                (folder / out.name).unlink(missing_ok=True)
                (folder / out.name).write_bytes(out.read_bytes())
            except (OSError, subprocess.CalledProcessError) as error:
                reason = (getattr(error, "stderr", "") or str(error)).strip()
                print(f"warning: the kernel {name} was not built, and is not needed to run: {reason}", file=sys.stderr)


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        compile_kernels(Path("src" if self.editable_mode else self.build_lib) / KERNELS)


class PlatformDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


class PlatformWheel(bdist_wheel):
    """A wheel for one platform, and any Python: the kernels depend on neither Python nor torch."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    packages=[*find_packages("src"), "bnn_lightning.conf"],
    package_dir={"": "src", "bnn_lightning.conf": "conf"},
    distclass=PlatformDistribution,
    cmdclass={"build_py": BuildPy, "bdist_wheel": PlatformWheel},
)
