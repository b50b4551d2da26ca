"""The soft-label bank."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from bnn_lightning.distill import SoftLabelBank

LOGITS = torch.tensor([[2.0, 1, 0], [0, 3, 1], [1, 0, 5], [4, 0, 0], [0, 1, 2]])
LABELS = torch.tensor([0, 1, 1, 0, 2])


def test_published_vector() -> None:
    bank = SoftLabelBank(3)
    bank.update(LOGITS[:2], LABELS[:2])
    bank.update(LOGITS[2:], LABELS[2:])
    assert bank.sums.tolist() == [[6, 1, 0], [0, 3, 1], [0, 1, 2]]
    assert bank.counts.tolist() == [2, 1, 1]
    assert not bank.bank.any()
    assert not bank.valid.any()
    bank.commit()
    assert bank.bank.tolist() == [[3, 0.5, 0], [0, 3, 1], [0, 1, 2]]
    assert bank.valid.all()
    assert not bank.sums.any()
    assert not bank.counts.any()


def test_mode_all_takes_in_wrong_predictions() -> None:
    bank = SoftLabelBank(3, mode="all")
    bank.update(LOGITS, LABELS)
    bank.commit()
    assert bank.bank.tolist() == [[3, 0.5, 0], [0.5, 1.5, 3], [0, 1, 2]]


def test_a_class_without_a_correct_prediction_keeps_its_row() -> None:
    bank = SoftLabelBank(3)
    bank.update(LOGITS[:2], LABELS[:2])
    bank.commit()
    target, valid = bank.target(torch.tensor([2, 1]))
    assert valid.tolist() == [False, True]
    assert torch.isfinite(target).all()
    bank.update(LOGITS[3:], LABELS[3:])  # classes 0 and 2
    bank.commit()
    assert bank.bank.tolist() == [[4, 0, 0], [0, 3, 1], [0, 1, 2]]
    assert bank.valid.all()
    bank.commit()  # an epoch without a step
    assert bank.bank.tolist() == [[4, 0, 0], [0, 3, 1], [0, 1, 2]]


def test_wrong_predictions_that_are_not_finite_stay_out() -> None:
    bank = SoftLabelBank(2)
    bank.update(torch.tensor([[float("inf"), 0.0], [1.0, 2.0]]), torch.tensor([1, 1]))
    assert bank.sums.tolist() == [[0, 0], [1, 2]]


def test_state_in_mid_epoch_travels_in_the_state_dict() -> None:
    torch.manual_seed(0)
    first, resumed = SoftLabelBank(3), SoftLabelBank(3)
    for step in range(6):
        if step == 4:
            resumed.load_state_dict(first.state_dict())
        logits, labels = torch.randn(8, 3), torch.randint(3, (8,))
        for bank in (first, resumed) if step >= 4 else (first,):
            bank.update(logits, labels)
        if step == 2:
            first.commit()
    for bank in (first, resumed):
        bank.commit()
    for name, value in first.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_half_precision_networks_keep_exact_sums() -> None:
    bank = SoftLabelBank(2).to(torch.bfloat16)
    for _ in range(600):  # bfloat16 cannot count beyond 256
        bank.update(torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16), torch.tensor([0]))
    assert bank.counts.tolist() == [600, 0]
    assert bank.sums[0].tolist() == [600, 0]
    assert SoftLabelBank(2).double().sums.dtype == torch.float64


def test_no_graph_is_kept() -> None:
    bank = SoftLabelBank(3)
    bank.update(LOGITS.clone().requires_grad_(), LABELS)
    assert not bank.sums.requires_grad


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="`num_classes` must be a whole number of at least 1, got 0"):
        SoftLabelBank(0)
    with pytest.raises(ValueError, match=r"`mode` must be one of \['correct', 'all'\], got 'none'"):
        SoftLabelBank(3, mode="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`logits` must have shape \(N, 3\), got \[5, 4\]"):
        SoftLabelBank(3).update(torch.zeros(5, 4), LABELS)


TWO_RANKS = """
    import os
    import sys
    import torch
    import torch.distributed as dist
    from torch import nn
    from torch.nn.parallel import DistributedDataParallel
    from bnn_lightning.distill import Batch, Outputs, SelfKD

    rank, folder = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)

    class Task(nn.Module):  # the distiller is a submodule of what DDP wraps, as in a LightningModule
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.distiller = SelfKD(3, alpha=0.0, gamma=0.0)

        def forward(self, logits, labels):
            logits = logits * self.scale
            return self.distiller.total(self.distiller(Batch(logits, labels), Outputs(logits)))

    torch.manual_seed(0)
    logits, labels = torch.randn(2, 5, 16, 3), torch.randint(3, (2, 5, 16))
    task = Task()
    wrapped = DistributedDataParallel(task)  # it broadcasts rank 0's buffers before every forward
    dist.barrier()

    def step(number, epoch):
        wrapped(logits[epoch, number, rank::2], labels[epoch, number, rank::2]).backward()

    for epoch in range(2):
        for number in range(5):
            step(number, epoch)
            if number == 2:
                task.distiller.sync()  # before a checkpoint
                middle = {k: v.clone() for k, v in task.state_dict().items()}
        if epoch == 1:  # resume in mid-epoch, all ranks from the state of one
            states = [middle]
            dist.broadcast_object_list(states, src=0)
            for key in middle:
                assert torch.equal(states[0][key], middle[key]), key
            task.load_state_dict(states[0])
            step(3, 1), step(4, 1)
        task.distiller.end_epoch()
        total, counts = torch.zeros(3, 3), torch.zeros(3)
        for z, y in zip(logits[epoch].flatten(0, 1), labels[epoch].flatten()):
            if z.argmax() == y:
                total[y] += z
                counts[y] += 1
        torch.testing.assert_close(task.distiller.bank.bank, total / counts[:, None])
        assert task.distiller.bank.valid.all()
        assert not task.distiller.bank.counts.any()
    dist.barrier()
    dist.destroy_process_group()
    print("done", flush=True)
    # torch 2.14 with gloo aborts in one of thirty exits of the interpreter, also without a line of ours.
    os._exit(0)
"""


def test_two_ranks_gather_one_bank(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent(TWO_RANKS))
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), tmp_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err.decode()
        assert out.decode().strip() == "done"
