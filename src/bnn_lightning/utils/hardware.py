"""Facts of the machine and of this process: processor, cores, memory, other ranks."""

import os
import platform
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def processor() -> str:
    """Return the name of the processor, or of the GPU that torch sees."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def num_cores() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """Describe the hardware of a measurement in one line."""
    return f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def peak_resident() -> int:
    """Return the most bytes that this process has held."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not `ru_maxrss`: on Linux a process begins with that of the one that started it.
        return 1024 * int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1])
    import resource  # Windows has none

    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib if sys.platform == "darwin" else 1024 * kib


def is_distributed() -> bool:
    """Whether there are other ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
