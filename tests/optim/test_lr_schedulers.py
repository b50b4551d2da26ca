import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from bnn_lightning.optim import constant, linear, warmup_cosine


def rates(schedule: Callable[..., Any], peak: float, length: int, **options: Any) -> list[float]:
    """The rates in use at times 0 ... length - 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
    config = schedule(optimizer, **options)
    used = []
    for _ in range(length):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        config["scheduler"].step()
    return used


def test_published_rates() -> None:
    """Vector A9 of SKD-BNN: peak 0.1, 8 warm-up epochs, 700 epochs."""
    used = rates(warmup_cosine, 0.1, 700, steps_per_epoch=390, epochs=700, warmup_epochs=8)
    expected = {0: 0.01111111, 1: 0.02222222, 8: 0.1, 9: 0.09999948, 350: 0.05090792, 699: 5.1526e-7}
    for epoch, rate in expected.items():
        assert used[epoch] == pytest.approx(rate, rel=1e-5), epoch


@pytest.mark.parametrize("warmup", [0, 3])
def test_steps(warmup: int) -> None:
    used = rates(warmup_cosine, 0.5, 50, steps_per_epoch=5, epochs=10, warmup_epochs=warmup, interval="step")
    start, end = 5 * warmup, 50
    for time, rate in enumerate(used):
        share = (time - start) / (end - start)
        factor = (time + 1) / (start + 1) if time <= start else 0.5 * (1 + math.cos(math.pi * share))
        assert rate == pytest.approx(0.5 * factor, rel=1e-12)


def test_cosine_is_torchs() -> None:
    """The MLP's schedule: Adam from 0.01 to 1e-5 with T_max 100."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.01)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=1e-5)
    used = rates(warmup_cosine, 0.01, 100, steps_per_epoch=235, epochs=100, min_factor=1e-3)
    for rate in used:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        reference.step()


def test_linear_and_constant() -> None:
    assert rates(linear, 1.0, 4, steps_per_epoch=1, epochs=4, min_factor=0.2) == pytest.approx([1.0, 0.8, 0.6, 0.4])
    assert rates(linear, 1.0, 4, steps_per_epoch=1, epochs=4, warmup_epochs=1) == pytest.approx([0.5, 1, 2 / 3, 1 / 3])
    assert rates(constant, 2.0, 4, steps_per_epoch=2, warmup_epochs=1, interval="step") == pytest.approx(
        [2 / 3, 4 / 3, 2, 2]
    )


def test_groups_keep_their_ratio() -> None:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (0.1, 0.3)]
    scheduler = warmup_cosine(torch.optim.SGD(groups, lr=1.0), steps_per_epoch=1, epochs=9, warmup_epochs=1)[
        "scheduler"
    ]
    assert scheduler.get_last_lr() == pytest.approx([0.05, 0.15])


def test_past_the_end() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        used = rates(warmup_cosine, 1.0, 5, steps_per_epoch=1, epochs=5)
    with pytest.warns(UserWarning, match="schedule of 5 epochs is over.*`epochs`"):
        longer = rates(warmup_cosine, 1.0, 8, steps_per_epoch=1, epochs=5)
    assert longer == [*used, used[-1], used[-1], used[-1]]


def test_state_is_restored_to_the_bit() -> None:
    def make() -> tuple[torch.optim.Optimizer, Any]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        return optimizer, warmup_cosine(optimizer, steps_per_epoch=3, epochs=4, warmup_epochs=1, interval="step")[
            "scheduler"
        ]

    optimizer, scheduler = make()
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    other, resumed = make()
    other.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(scheduler.state_dict())
    for _ in range(6):
        optimizer.step(), scheduler.step(), other.step(), resumed.step()
        assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "`epochs` must be a whole number of at least 1, got 0"),
        ({"epochs": 2.5}, "`epochs` must be a whole number"),
        ({"epochs": 8, "warmup_epochs": 8}, "`warmup_epochs` must be less than `epochs` = 8, got 8"),
        ({"epochs": 8, "warmup_epochs": -1}, "`warmup_epochs` must be a whole number of at least 0"),
        ({"epochs": 8, "interval": "batch"}, r"`interval` must be one of \['epoch', 'step'\], got 'batch'"),
        ({"epochs": 8, "min_factor": 2.0}, "`min_factor` must lie between 0 and 1, got 2.0"),
        ({"epochs": 8, "interval": "step", "steps_per_epoch": 0}, "`steps_per_epoch` must be"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ValueError, match=message):
        warmup_cosine(optimizer, **{"steps_per_epoch": 10} | options)


def test_published_rates_of_bnext() -> None:
    """Specification 2.3: a warm-up from 1e-5, and a cosine whose period the warm-up does not shorten."""
    options = {"warmup_epochs": 5, "warmup_start": 0.01, "decay_epochs": 512, "min_factor": 1e-4}
    used = rates(warmup_cosine, 1e-3, 512, steps_per_epoch=2502, epochs=512, **options)
    assert used[:5] == pytest.approx([1e-5, 2.08e-4, 4.06e-4, 6.04e-4, 8.02e-4], rel=1e-12)
    for epoch in range(5, 512):
        expected = 1e-7 + 0.5 * (1e-3 - 1e-7) * (1 + math.cos(math.pi * (epoch - 5) / 512))
        assert used[epoch] == pytest.approx(expected, rel=1e-9), epoch
    assert used[5] == pytest.approx(1e-3)
    assert used[511] == pytest.approx(4.4e-7, rel=0.01)


@pytest.mark.parametrize("schedule", [warmup_cosine, linear, constant])
def test_warmup_from_a_share_of_the_peak(schedule: Callable[..., Any]) -> None:
    length = {} if schedule is constant else {"epochs": 10}
    used = rates(schedule, 2.0, 5, steps_per_epoch=1, warmup_epochs=4, warmup_start=0.2, **length)
    assert used == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])


def test_a_fall_that_ends_early_stays_at_its_end() -> None:
    used = rates(linear, 1.0, 8, steps_per_epoch=1, epochs=8, warmup_epochs=2, decay_epochs=4)
    assert used == pytest.approx([1 / 3, 2 / 3, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0])


def test_warmup_start_and_decay_epochs_are_checked() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ValueError, match="`warmup_start` must lie between 0 and 1, got 2"):
        warmup_cosine(optimizer, steps_per_epoch=1, epochs=3, warmup_epochs=1, warmup_start=2.0)
    with pytest.raises(ValueError, match="`decay_epochs` must be a whole number of at least 1, got 0"):
        linear(optimizer, steps_per_epoch=1, epochs=3, decay_epochs=0)


def test_a_run_of_skd_bnn_has_the_rates_of_torch() -> None:
    """The published length, 8 + 692 epochs; torch multiplies from rate to rate and so rounds otherwise."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    parts: list[torch.optim.lr_scheduler.LRScheduler] = [
        torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=1 / 9, total_iters=8),
        torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=692),
    ]
    scheduler = torch.optim.lr_scheduler.SequentialLR(optimizer, parts, milestones=[8])
    expected = []
    for _ in range(700):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    ours = rates(warmup_cosine, 0.1, 700, steps_per_epoch=1, epochs=700, warmup_epochs=8)
    assert ours == pytest.approx(expected, rel=0, abs=1e-15)


def test_rates_of_groups_keep_their_ratio_down_to_the_smallest() -> None:
    """`CosineAnnealingLR` has one `eta_min` for all groups: that of Adam's rate would raise the adaptivity of Bop."""
    weights = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    groups = [{"params": weights[:1], "lr": 1e-2}, {"params": weights[1:], "lr": 1e-6}]
    optimizer = torch.optim.Adam(groups)
    scheduler = warmup_cosine(optimizer, steps_per_epoch=1, epochs=100, min_factor=1e-3)["scheduler"]
    for _ in range(99):
        optimizer.step()
        scheduler.step()
    first, second = (group["lr"] for group in optimizer.param_groups)
    assert second / first == pytest.approx(1e-4)
    assert first < 1.3e-5
