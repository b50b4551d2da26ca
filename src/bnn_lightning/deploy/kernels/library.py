"""The compiled kernels: which one this machine runs, and the calls into it.

The C files of this folder are compiled together while the package is built, once for every instruction set of the
host's architecture. Where that was not possible, or none fits the processor, the operations of `deploy.ops` compute the
same integers with torch.
"""

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from bnn_lightning.deploy.kernels.abi import VERSION
from bnn_lightning.utils.native import built_libraries, choose_library, library_file, parallel_for, supported_libraries

FOLDER = Path(__file__).parent / "_kernels"


class NativeStep(ctypes.Structure):
    """`struct bnn_step` of thread_team.c."""

    _fields_ = [("operation", ctypes.c_void_p), ("job", ctypes.c_void_p)]


@dataclass(frozen=True)
class KernelInfo:
    """What computes packed layers.

    Attributes:
        name: Of the kernel in use: an instruction set, or "torch", the fallback.
        built: Kernels that were compiled with the package.
        reason: Why the fallback is in use, or empty.
        threads: Threads that a layer may use, those of torch.
    """

    name: str
    built: tuple[str, ...]
    reason: str
    threads: int


class Kernel:
    """A loaded kernel.

    Args:
        name: Instruction set.

    Raises:
        OSError: There is no such file, or it cannot be loaded.
        RuntimeError: It was built from another version of the C files.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._library = ctypes.CDLL(str(library_file(FOLDER, name)))
        self._library.bnn_version.restype = ctypes.c_int64
        if self._library.bnn_version() != VERSION:
            raise RuntimeError(f"The kernel {name} was built from another version: install the package again.")
        self._run = self._library.bnn_run
        self._run.restype = None
        pointer, number = ctypes.c_void_p, ctypes.c_int64
        self._run.argtypes = (pointer, number, pointer, number, pointer)

    def address(self, operation: str) -> int:
        """Return where the function of an operation, such as "convolve", lies."""
        function = getattr(self._library, f"bnn_{operation}")
        return ctypes.cast(function, ctypes.c_void_p).value or 0

    def run(self, operation: str, job: ctypes.Structure) -> None:
        """Run one operation on torch's threads.

        Args:
            operation: The function of the library is `bnn_<operation>`.
            job: The structure that it takes.
        """
        step = NativeStep(self.address(operation), ctypes.addressof(job))
        self.run_all((NativeStep * 1)(step))

    def run_all(self, steps: "ctypes.Array[NativeStep]") -> None:
        """Run operations one after the other on torch's threads, without Python in between."""
        self._run(steps, len(steps), parallel_for(), torch.get_num_threads(), give_way())


def kernel_info() -> KernelInfo:
    """Say which kernel computes packed layers here.

    Example:
        >>> kernel_info().name in ("x86_64_v4", "x86_64_v3", "x86_64_v2", "aarch64", "torch")
        True
    """
    loaded, reason = _load()
    name = "torch" if loaded is None else loaded.name
    return KernelInfo(name=name, built=built_kernels(), reason=reason, threads=torch.get_num_threads())


def built_kernels() -> tuple[str, ...]:
    """Return the names of the kernels that were compiled with the package."""
    return built_libraries(FOLDER)


def supported_kernels() -> tuple[str, ...]:
    """Return the names of the built kernels that this processor runs, the best first."""
    return supported_libraries(FOLDER)


def current_kernel() -> Kernel | None:
    """Return the kernel in use, or None for torch. `BNN_KERNEL` in the environment chooses another one of the built."""
    return _load()[0]


@cache
def _load() -> tuple[Kernel | None, str]:
    name, reason = choose_library(FOLDER)
    if name is None:
        return None, reason
    try:
        return Kernel(name), ""
    except (OSError, RuntimeError) as error:
        return None, str(error)


@cache
def give_way() -> int | None:
    """Return the address of what gives the processor to other threads while one waits for them; None: nothing does."""
    posix = os.name == "posix"
    library = ctypes.CDLL(None if posix else "kernel32")
    function = getattr(library, "sched_yield" if posix else "SwitchToThread", None)
    return None if function is None else ctypes.cast(function, ctypes.c_void_p).value
