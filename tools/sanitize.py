"""Run packed files under AddressSanitizer and UBSan: `make sanitize`.

The kernels are compiled with sanitizers by the Clang that CLANG names (Debian: clang-22 and libclang-rt-22-dev), for
each instruction set that this processor runs. With them drawn programs (`tools/drawn.py`) are compared with torch, and
files that lie (`tools/fuzz.py`) are read and run. A byte beyond the arena, the signs or the constants of a plan is
noticed. The first finding ends the program. `--files 1000000` instead reads that many of the inputs of `make fuzz` by
the C library alone.
"""

import argparse
import os
import platform
import runpy
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLAGS = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def engine_objects(clang: str, folder: Path) -> list[str]:
    """Compile the engine of this architecture with sanitizers; return its object files."""
    builder = runpy.run_path(str(ROOT / "setup.py"))
    os.environ["BNN_CC"] = " ".join([clang, *FLAGS])
    os.chdir(ROOT)
    commands, files = builder["objects"](folder, platform.machine().lower())
    builder["run_all"]([[part for part in one if part != "-O3"] for one in commands], dict(os.environ))
    return list(files)


def compile_engine(clang: str, folder: Path) -> None:
    """Compile the library of the engine with sanitizers."""
    command = [clang, *FLAGS, "-shared", *engine_objects(clang, folder), "-o", str(folder / "libbnn.so")]
    subprocess.run([*command, "-lpthread", "-lm"], check=True)


def again_with_sanitizer(clang: str, folder: Path) -> int:
    """Start this program once more, with the sanitizer's allocator in the place of the system's."""
    library = "libclang_rt.asan-" + ("x86_64" if os.uname().machine == "x86_64" else "aarch64") + ".so"
    printed = subprocess.run([clang, f"-print-file-name={library}"], check=True, capture_output=True, text=True)
    options = {"detect_leaks": 0, "abort_on_error": 0, "exitcode": 99, "detect_stack_use_after_return": 0}
    more = {
        "LD_PRELOAD": printed.stdout.strip(),
        "ASAN_OPTIONS": ":".join(f"{name}={value}" for name, value in options.items()),
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "BNN_SANITIZED": str(folder),
    }
    return subprocess.run(
        [sys.executable, "-m", "tools.sanitize", *sys.argv[1:]], env=os.environ | more, cwd=ROOT
    ).returncode


def use(folder: Path, name: str) -> None:
    """Let plans and layers run on a sanitized kernel."""
    from bnn_lightning.deploy.kernels import library as kernels
    from bnn_lightning.deploy.runtime import native

    kernels.LIBRARY = native.LIBRARY = folder / "libbnn.so"
    kernels.load_library.cache_clear()
    native.library.cache_clear()
    kernel = kernels.Kernel(name)
    for module in list(sys.modules.values()):
        if module.__name__.startswith("bnn_lightning.deploy") and hasattr(module, "current_kernel"):
            module.current_kernel = lambda: kernel  # type: ignore[attr-defined]


def main() -> int:
    """Compile, then run what the command line says."""
    from bnn_lightning.deploy.kernels.library import supported_kernels

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clang", default=os.environ.get("CLANG", "clang"))
    parser.add_argument("--programs", type=int, default=1000, help="drawn programs for each instruction set")
    parser.add_argument("--lies", type=int, default=1000, help="files that lie for each instruction set")
    parser.add_argument("--files", type=int, default=0, help="read so many inputs of `make fuzz` in C alone")
    parser.add_argument("--kernel", choices=supported_kernels(), help="one of the instruction sets alone")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if "BNN_SANITIZED" not in os.environ:
        with tempfile.TemporaryDirectory(prefix="bnn-sanitize-") as folder:
            compile_engine(options.clang, Path(folder))
            return again_with_sanitizer(options.clang, Path(folder))
    import torch

    from tools import fuzz
    from tools.drawn import differs

    for name in [options.kernel] if options.kernel else supported_kernels():
        use(Path(os.environ["BNN_SANITIZED"]), name)
        if options.files:
            print(fuzz.read_inputs(options.files, seed=options.seed, lies=0.05, in_python=False), flush=True)
            break
        for threads in (1, 2):
            torch.set_num_threads(threads)
            begin, seeds = time.monotonic(), range(options.seed + threads - 1, options.seed + options.programs, 2)
            findings = [found for seed in seeds if (found := differs(seed))]
            if findings:
                raise ValueError(f"{name}: {findings}")
            print(f"{name}: {len(seeds)} programs, threads: {threads}, {time.monotonic() - begin:.0f} s", flush=True)
        print(f"{name}: {fuzz.read_inputs(options.lies, seed=options.seed, lies=1.0)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
