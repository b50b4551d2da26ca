import platform
import subprocess
import sys

import pytest
import torch
from pytorch_lightning import Trainer

from bnn_lightning.models import create_backbone
from bnn_lightning.tasks import ClassificationTask
from bnn_lightning.workflows import compute


def line(model: str, precision: str, width: int = 16, **options: object) -> str:
    network = create_backbone(model, num_classes=10, in_channels=3, image_size=8, width=width)
    task = ClassificationTask(network, num_classes=10, optimizer=torch.optim.SGD, **options)
    trainer = Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    return compute.compute_line(task, trainer)


@pytest.mark.parametrize("fast", [True, False])
def test_line_names_what_is_used_and_what_would_be_faster(fast: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compute, "has_fast_bfloat16", lambda device: fast)
    said = line("resnet20", "32-true")
    assert all(word in said for word in ("32-true", "channels_last", f"threads: {torch.get_num_threads()}"))
    assert ("precision=bf16" in said) == fast
    assert "task.channels_last=true" not in said
    assert "task.channels_last=true" in line("resnet20", "32-true", channels_last=False)
    assert "precision=bf16" not in line("resnet20", "bf16-mixed")
    assert "channels_last" not in line("mlp", "32-true")
    assert ("precision=bf16" in line("mlp", "32-true", width=1024)) == fast
    assert "precision=bf16" not in line("mlp", "32-true", width=64)  # too small to gain


def test_bfloat16_is_fast_where_the_processor_says_so(monkeypatch: pytest.MonkeyPatch):
    for capabilities, fast in (({"avx512_bf16": True}, True), ({"amx_bf16": False, "avx2": True}, False), ({}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=capabilities: found, raising=False)
        assert compute.has_fast_bfloat16(torch.device("cpu")) == fast


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")
def test_freed_memory_is_kept_for_the_next_step():
    code = """
import resource, torch
from bnn_lightning.workflows.compute import keep_freed_memory
step = lambda: [torch.ones(2**22) for _ in range(4)]  # 64 MiB, 16,384 pages
for device in "meta", "cpu":
    keep_freed_memory(torch.device(device))
    step(), step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4): step()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    elsewhere, on_the_processor = map(int, done.stdout.split())
    assert on_the_processor < 100 < elsewhere
