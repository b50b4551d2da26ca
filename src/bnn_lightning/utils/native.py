"""Compiled libraries: which one of those that were built fits this processor, and torch's own parallel loop.

C files are compiled while the package is built, once for every instruction set of the host's architecture, into a
folder of libraries. Where that was not possible, or none fits the processor, torch computes the same.
"""

import ctypes
import os
import platform
from functools import cache
from pathlib import Path

import torch

# Best first: the name of a library and what the processor must have (names of `torch.cpu.get_capabilities`).
_NEEDS = {
    "x86_64_v4": (
        *("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl"),
        *("avx512_vpopcntdq", "avx512_bitalg", "avx512_vnni"),
    ),
    "x86_64_v3": ("avx2", "bmi2", "fma3", "lzcnt"),
    "x86_64_v2": ("sse4_2", "popcnt"),
}
_ENVIRONMENT = "BNN_KERNEL"
_SUFFIX = ".dll" if os.name == "nt" else ".so"


def built_libraries(folder: Path) -> tuple[str, ...]:
    """Return the names of the libraries that were compiled with the package."""
    return tuple(sorted(file.stem for file in folder.glob(f"*{_SUFFIX}"))) if folder.is_dir() else ()


def library_file(folder: Path, name: str) -> Path:
    """Return the file of a library.

    Example:
        >>> library_file(Path("_kernels"), "x86_64_v3").stem
        'x86_64_v3'
    """
    return folder / f"{name}{_SUFFIX}"


def supported_libraries(folder: Path) -> tuple[str, ...]:
    """Return the names of the built libraries that this processor runs, the best first."""
    built = built_libraries(folder)
    if platform.machine().lower() in ("aarch64", "arm64"):
        return tuple(name for name in built if name == "aarch64")
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return ()
    has = cpu_capabilities()
    return tuple(name for name, needs in _NEEDS.items() if name in built and all(has.get(need) for need in needs))


def choose_library(folder: Path) -> tuple[str | None, str]:
    """Return the name of the library to use, or None for torch and the reason.

    `BNN_KERNEL` in the environment chooses another one of the built, or "torch".

    Raises:
        ValueError: `BNN_KERNEL` names a library that this machine cannot run.
    """
    return choose_name(built_libraries(folder), supported_libraries(folder))


def choose_name(built: tuple[str, ...], fitting: tuple[str, ...]) -> tuple[str | None, str]:
    """Return which of some kernels to use, or None for torch and the reason, as `BNN_KERNEL` says.

    Args:
        built: Names of all that were built.
        fitting: Those that this processor runs, the best first.

    Raises:
        ValueError: `BNN_KERNEL` names what this machine cannot run.
    """
    wanted = os.environ.get(_ENVIRONMENT, "")
    if wanted == "torch":
        return None, f"{_ENVIRONMENT}=torch asks for it."
    if wanted and wanted not in fitting:
        raise ValueError(f"{_ENVIRONMENT}={wanted}: this machine can run {', '.join([*fitting, 'torch'])}.")
    if not fitting:
        names = ", ".join(built) or "none"
        return None, f"No compiled kernel fits this processor ({platform.machine()}; built: {names})."
    return wanted or fitting[0], ""


def cpu_capabilities() -> dict[str, object]:
    """Return the facts that torch knows of this processor, by name."""
    # torch 2.10 has no `get_capabilities`; what it calls AVX2 has everything of x86-64-v3 that is asked for here.
    if hasattr(torch.cpu, "get_capabilities"):
        return dict(torch.cpu.get_capabilities())
    level = torch.backends.cpu.get_cpu_capability()
    names = _NEEDS["x86_64_v3"] + _NEEDS["x86_64_v2"] if level in ("AVX2", "AVX512") else ()
    return dict.fromkeys(names, True)


@cache
def parallel_for() -> int | None:
    """Return the address of torch's own parallel loop, so that `torch.set_num_threads` is obeyed; None: no threads."""
    folder = Path(torch.__file__).parent / "lib"
    for file in ("libtorch_cpu.so", "libtorch_cpu.dylib", "torch_cpu.dll"):
        if (folder / file).is_file():
            function = getattr(ctypes.CDLL(str(folder / file)), "torch_parallel_for", None)
            return None if function is None else ctypes.cast(function, ctypes.c_void_p).value
    return None
