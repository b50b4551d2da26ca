"""The compiled kernels: which of them this machine runs, and the calls into them.

The C files are compiled while the package is built, into one library with the kernels of every instruction set of the
host's architecture (`setup.py`). Where that was not possible, or none fits the processor, torch computes the same
integers.
"""

import ctypes
import os
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from bnn_lightning.deploy.kernels.abi import KERNELS, VERSION
from bnn_lightning.utils.native import choose_name, parallel_for

_SUFFIXES = {"Windows": ".dll", "Darwin": ".dylib"}
LIBRARY = Path(__file__).parents[1] / "runtime" / "_lib" / f"libbnn{_SUFFIXES.get(platform.system(), '.so')}"


class NativeStep(ctypes.Structure):
    """`struct bnn_step` of thread_team.c."""

    _fields_ = [("operation", ctypes.c_void_p), ("job", ctypes.c_void_p)]


@dataclass(frozen=True)
class KernelInfo:
    """Kernels that compute packed layers here.

    Attributes:
        name: Name of the kernel in use: an instruction set, or "torch", the fallback.
        built: Kernels that were compiled with the package.
        reason: Why the fallback is in use, or empty.
        threads: Threads that a layer may use, those of torch.
    """

    name: str
    built: tuple[str, ...]
    reason: str
    threads: int


class Kernel:
    """The kernels of an instruction set.

    Args:
        name: Instruction set.

    Raises:
        OSError: There is no library, or it cannot be loaded.
        RuntimeError: It was built from another version of the C files.
        ValueError: It has no such instruction set.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._library = load_library()
        self.number = _names(self._library).index(name)  # of the instruction set
        self._run = self._library.bnn_run_steps
        self._run.restype = None
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run.argtypes = (pointer, number, pointer, number, pointer)
        self._address = self._library.bnn_kernel_address
        self._address.restype = pointer

    def address(self, operation: str) -> int:
        """Return where the function of an operation, such as "convolve", lies."""
        return int(self._address(self.number, list(KERNELS).index(operation)))

    def run(self, operation: str, job: ctypes.Structure) -> None:
        """Run one operation on torch's threads.

        Args:
            operation: A key of `abi.KERNELS`.
            job: The structure that it takes.
        """
        step = NativeStep(self.address(operation), ctypes.addressof(job))
        self.run_all((NativeStep * 1)(step))

    def run_all(self, steps: "ctypes.Array[NativeStep]") -> None:
        """Run operations one after the other on torch's threads, without Python in between."""
        self._run(steps, len(steps), *self.threads())

    def threads(self) -> tuple[int | None, int, int | None]:
        """Return torch's parallel loop, its number of threads, and what gives the processor away."""
        return parallel_for(), torch.get_num_threads(), give_way()


def kernel_info() -> KernelInfo:
    """Say which kernel computes packed layers here.

    Example:
        >>> kernel_info().name in ("x86_64_v4", "x86_64_v3", "x86_64_v2", "aarch64_dot", "aarch64", "torch")
        True
    """
    loaded, reason = _load()
    name = "torch" if loaded is None else loaded.name
    return KernelInfo(name=name, built=built_kernels(), reason=reason, threads=torch.get_num_threads())


def built_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that were compiled with the package."""
    return tuple(sorted(_names_in_library()[0]))


def supported_kernels() -> tuple[str, ...]:
    """Return the names of the built kernels that this processor runs, the best first."""
    names, _ = _names_in_library()
    return tuple(name for number, name in enumerate(names) if load_library().bnn_kernel_runs(number))


@cache
def load_library() -> ctypes.CDLL:
    """Load the library of the engine.

    Raises:
        OSError: There is none, or it cannot be loaded.
        RuntimeError: It was built from another version of the C files.
    """
    library = ctypes.CDLL(str(LIBRARY))
    library.bnn_abi_version.restype = ctypes.c_int64
    if library.bnn_abi_version() != VERSION:
        raise RuntimeError(f"`{LIBRARY}` was built from another version: install the package again.")
    return library


def _names(library: ctypes.CDLL) -> list[str]:
    name = library.bnn_kernel_name
    name.restype = ctypes.c_char_p
    return [name(number).decode() for number in range(library.bnn_num_kernels())]


def _names_in_library() -> tuple[list[str], str]:
    """Return the names of the kernels in the library; none, and the error, where it cannot be loaded."""
    try:
        return _names(load_library()), ""
    except (OSError, RuntimeError) as error:
        return [], str(error)


def current_kernel() -> Kernel | None:
    """Return the kernel in use, or None for torch. `BNN_KERNEL` in the environment chooses another one of the built."""
    return _load()[0]


@cache
def _load() -> tuple[Kernel | None, str]:
    name, reason = choose_name(built_kernels(), supported_kernels())
    return (None, f"{reason} {_names_in_library()[1]}".rstrip()) if name is None else (Kernel(name), "")


@cache
def give_way() -> int | None:
    """Return the address of the function that gives the processor to other threads; None: the system has none."""
    posix = os.name == "posix"
    library = ctypes.CDLL(None if posix else "kernel32")
    function = getattr(library, "sched_yield" if posix else "SwitchToThread", None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value
