"""Precision, memory format and threads of a run, and a faster setting that this machine has."""

from collections.abc import Iterator

import torch
from pytorch_lightning import Trainer

from bnn_lightning.layers.module_utils import prefers_channels_last
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.utils.native import cpu_capabilities


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
    if trainer.precision == "32-true" and has_fast_bfloat16(device):
        yield "precision=bf16"
    if not task.channels_last and prefers_channels_last(task.backbone):
        yield "task.channels_last=true"


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = cpu_capabilities()  # AVX512-BF16, AMX, and BF16 of ARM
    return any(capabilities.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
