"""Metadata stands in `setup.cfg`; the mapping of `conf/` into the package and the kernels need code.

The C files of `deploy` and `functional` are compiled for several instruction sets by the compiler that pip installs for
the build (ziglang), or by the Clang that BNN_CC names (BNN_CC=clang). One library holds the engine with all of them;
the surrogates of training are a library each. Where that fails the package is installed all the same, and torch
computes the same, slower.
"""

import os
import platform
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from setuptools import Distribution, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

PACKAGE = Path("src", "bnn_lightning")
CSRC = {name: PACKAGE / "deploy" / name / "csrc" for name in ("kernels", "runtime")}
# Compiled once for each instruction set, and once for any processor of the architecture.
_SHARED = ("thread_team.c",)
KERNELS = [str(file) for file in sorted(CSRC["kernels"].glob("*.c")) if file.name not in _SHARED]
RUNTIME = [str(file) for file in [*sorted(CSRC["runtime"].glob("*.c")), *(CSRC["kernels"] / name for name in _SHARED)]]
# The library of the engine: runtime, and kernels of all instruction sets of an architecture.
ENGINE = Path("bnn_lightning", "deploy", "runtime", "_lib")
# The same for web pages.
WEB = Path("bnn_lightning", "deploy", "export", "web", "_lib", "bnn.wasm")
# Folder of libraries of one instruction set each: the C files that they are made of.
LIBRARIES = {
    Path("bnn_lightning", "functional", "_kernels"): [str(PACKAGE / "functional" / "csrc" / "surrogates.c")],
}
X86 = {
    "x86_64_v4": "x86_64_v4+avx512vpopcntdq+avx512bitalg+avx512vnni",
    "x86_64_v3": "x86_64_v3",
    "x86_64_v2": "x86_64_v2",
}
ARM64 = {"aarch64_dot": "generic+v8_2a+dotprod", "aarch64": "generic"}
# Instruction sets of an architecture, the best first: name, and what zig calls the processor. "": any processor of it.
TARGETS = {
    "x86_64": {**X86, "": "x86_64"},
    "amd64": {**X86, "": "x86_64"},
    "aarch64": {**ARM64, "": "generic"},
    "arm64": {**ARM64, "": "generic"},
    "armv7l": {"armv7": "cortex_a7", "": "generic+v7a+vfp3d16-neon"},
    "wasm32": {"simd128": "generic+simd128", "": "generic+simd128"},
}
# The same for Clang's own -march.
MARCH = {
    "x86_64": "x86-64",
    "x86_64_v4+avx512vpopcntdq+avx512bitalg+avx512vnni": "x86-64-v4 -mavx512vpopcntdq -mavx512bitalg -mavx512vnni",
    "generic": "armv8-a",
    "generic+v8_2a+dotprod": "armv8.2-a+dotprod",
    "cortex_a7": "armv7ve -mfpu=neon-vfpv4",
    "generic+v7a+vfp3d16-neon": "armv7-a -mfpu=vfpv3-d16",
}
# -ffp-contract=on, Clang's default, is stated because bits depend on it: products and sums of one expression are fused.
FLAGS = ["-O3", "-std=c11", "-ffp-contract=on", "-fPIC"]
NO_UNWINDING = ["-fno-unwind-tables", "-fno-asynchronous-unwind-tables"]  # C throws nothing; the tables would be kept
SUFFIXES = {"Windows": ".dll", "Darwin": ".dylib", "WASI": ".wasm"}  # of the engine; elsewhere .so
# A library of functions rather than a program, without a C library (runtime/csrc/wasm.c); pages that load it take
# memory for files and images from it.
WASI = ["-nostdlib", "-Wl,--no-entry", "-Wl,--export-dynamic", "-Wl,--export=malloc", "-Wl,--export=free"]
MORE_SOURCES = {"Windows": [str(PACKAGE / "functional" / "csrc" / "windows.c")]}


def compiler(cpu: str, target: str = "") -> list[str]:
    """Return the compiler for a processor.

    Args:
        cpu: Processor, as zig names it.
        target: Architecture, operating system and ABI, as zig names them; empty is this machine.
    """
    own = os.environ.get("BNN_CC", "")
    if own and not target:
        march = MARCH.get(cpu, cpu.replace("_v", "-v").replace("x86_64", "x86-64"))
        return [*shlex.split(own), *FLAGS, *f"-march={march}".split()]
    zig = [sys.executable, "-m", "ziglang", "cc", *(["-target", target] if target else [])]
    return [*zig, *FLAGS, f"-mcpu={cpu}"]


def command(cpu: str, out: Path, sources: list[str], system: str = "", target: str = "") -> list[str]:
    """Return the command that builds a library of one instruction set, without any runtime library.

    Args:
        cpu: Processor, as zig names it.
        out: The library.
        sources: Its C files.
        system: Operating system that it runs on, as `platform.system` names it; empty is this one.
        target: See `compiler`.
    """
    system = system or platform.system()
    sources = [*sources, *MORE_SOURCES.get(system, [])]
    return [*compiler(cpu, target), "-shared", "-nostdlib", "-s", *named(out, system), "-o", str(out), *sources]


def objects(folder: Path, machine: str, target: str = "") -> tuple[list[list[str]], list[str]]:
    """Return the commands that compile the engine, and the object files that they make.

    Args:
        folder: Place of the object files.
        machine: Architecture, a key of `TARGETS`.
        target: See `compiler`.
    """
    sets = [name for name in TARGETS[machine] if name]
    flags = ["-fvisibility=hidden", *NO_UNWINDING]
    commands, files = [], []
    for name, cpu in TARGETS[machine].items():
        more = [f"-DBNN_SET={name}"] if name else ["-DBNN_SETS=" + " ".join(f"S({one})" for one in sets)]
        for source in KERNELS if name else RUNTIME:
            files.append(str(folder / f"{name or 'runtime'}-{Path(source).stem}.o"))
            commands.append([*compiler(cpu, target), *flags, *more, "-c", source, "-o", files[-1]])
    return commands, files


def named(out: Path, system: str) -> list[str]:
    """Return the linker's options for the name by which programs and loaders know a library.

    Without one, programs keep the path of the link, and find the library nowhere else.

    Args:
        out: The library.
        system: See `command`, not empty.
    """
    if system == "Darwin":
        return [f"-Wl,-install_name,@rpath/{out.name}"]
    return [] if system in ("Windows", "WASI") else [f"-Wl,-soname,{out.name}"]


def link(out: Path, files: list[str], machine: str, system: str = "", target: str = "") -> list[str]:
    """Return the command that links the engine.

    Args:
        out: The library.
        files: Object files.
        machine: See `objects`.
        system: See `command`.
        target: See `compiler`.
    """
    system = system or platform.system()
    kind = [*WASI, "-Wl,-z,stack-size=1048576"] if system == "WASI" else ["-shared", *named(out, system)]
    if system == "Linux":
        # Another version of the library in the process does not take part; threads of the pool outlive dlclose.
        kind += ["-Wl,-Bsymbolic", "-Wl,-z,nodelete"]  # elsewhere pool.c sees to the latter
    libraries = {"WASI": [], "Windows": ["-lm"]}.get(system, ["-lpthread", "-lm"])
    return [*compiler(TARGETS[machine][""], target), *kind, "-s", "-o", str(out), *files, *libraries]


def run_all(commands: list[list[str]], environment: dict[str, str]) -> None:
    """Run commands side by side.

    Raises:
        subprocess.CalledProcessError: One fails.
        OSError: One cannot be started.
    """

    def run(one: list[str]) -> None:
        subprocess.run(one, check=True, capture_output=True, text=True, env=environment)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(run, commands))


def build_engine(out: Path, machine: str, system: str = "", target: str = "", cache: str = "") -> None:
    """Build the library of the engine.

    Args:
        out: The library.
        machine: See `objects`.
        system: See `command`.
        target: See `compiler`.
        cache: Folder for the compiler's cache; empty is a fresh one.

    Raises:
        subprocess.CalledProcessError: It does not compile.
        OSError: There is no compiler, or there are no sources below the current folder.
    """
    if not KERNELS:
        raise FileNotFoundError(f"No C files in `{CSRC['kernels'].absolute()}`: build from the root of the checkout.")
    with tempfile.TemporaryDirectory() as folder:
        cache = cache or folder
        environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        commands, files = objects(Path(folder), machine, target)
        run_all(commands, environment)
        made = Path(folder, out.name)
        run_all([link(made, files, machine, system, target)], environment)
        replace(out, made)


def replace(out: Path, made: Path) -> None:
    """Put a library in its place. The old one is removed before: a process that runs it keeps it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    out.write_bytes(made.read_bytes())


def compile_libraries(root: Path) -> None:
    """Compile the libraries of this machine into a package that lies in `root`; a warning says what could not be."""
    machine = platform.machine().lower()
    with tempfile.TemporaryDirectory() as cache:
        if machine in TARGETS:
            out = root / ENGINE / f"libbnn{SUFFIXES.get(platform.system(), '.so')}"
            warned("the engine", partial(build_engine, out, machine, cache=cache))
        web = root / WEB
        warned("the module of web pages", partial(build_engine, web, "wasm32", "WASI", "wasm32-wasi", cache))
        environment = os.environ | {"ZIG_GLOBAL_CACHE_DIR": cache, "ZIG_LOCAL_CACHE_DIR": cache}
        for folder, sources in LIBRARIES.items():
            for name, cpu in TARGETS.get(machine, {}).items():
                out = Path(cache, name).with_suffix(".dll" if platform.system() == "Windows" else ".so")
                if name and warned(name, partial(run_all, [command(cpu, out, sources)], environment)):
                    replace(root / folder / out.name, out)


def warned(name: str, build: Callable[[], None]) -> bool:
    """Return whether a build succeeds; warn where it fails."""
    try:
        build()
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip()
        print(f"warning: {name} was not built, and is not needed to run: {reason}", file=sys.stderr)
        return False
    return True


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        compile_libraries(Path("src" if self.editable_mode else self.build_lib))


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
