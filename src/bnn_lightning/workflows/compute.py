"""Precision, memory format, threads and memory of a run, and a faster setting that this machine has."""

import ctypes
import platform
from collections.abc import Iterator

import torch
from pytorch_lightning import Trainer

from bnn_lightning.layers.module_utils import prefers_channels_last
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.native import cpu_capabilities

# Parameters from which networks without convolutions train faster in bfloat16: an MLP of 0.34 M takes 1.0 to 1.2 of the
# time of float32, one of 0.94 M 0.8 to 0.9 (batches of 64 and 128, a core with AMX).
_LARGE = 500_000
_THRESHOLDS = (-1, -3)  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h, in bytes


def compute_line(task: ClassificationTask, trainer: Trainer) -> str:
    """Return one line on precision, memory format, device and threads of a run, and on a faster setting.

    Args:
        task: The network and its memory format.
        trainer: Its precision and device.
    """
    device = trainer.strategy.root_device
    memory_format = "channels_last" if task.channels_last else "contiguous"
    place = (
        f"CPU threads: {torch.get_num_threads()}" if device.type == "cpu" else f"{device.type}: {trainer.num_devices}"
    )
    faster = " ".join(_faster(task, trainer, device))
    return f"Computes in {trainer.precision}, {memory_format}, {place}" + (f"; faster here: {faster}" if faster else "")


def _faster(task: ClassificationTask, trainer: Trainer, device: torch.device) -> Iterator[str]:
    is_large = prefers_channels_last(task.backbone) or sum(p.numel() for p in task.backbone.parameters()) >= _LARGE
    if trainer.precision == "32-true" and is_large and has_fast_bfloat16(device):
        yield "precision=bf16"
    if not task.channels_last and prefers_channels_last(task.backbone):
        yield "task.channels_last=true"


def keep_freed_memory(device: torch.device) -> None:
    """Let this process keep the memory that a step on a CPU frees, until it ends: the next step takes it again.

    glibc gives maps back to the system when they are freed, which then hands them out anew, page by page, at every
    step: 4 to 9 % of the time of ResNet-20 and BNext-Tiny. Other C libraries are left as they are.

    Args:
        device: Device of the network.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for threshold in _THRESHOLDS:
            libc.mallopt(threshold, 2**31 - 1)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = cpu_capabilities()  # AVX512-BF16, AMX, and BF16 of ARM
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
