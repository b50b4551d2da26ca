"""Convolutions of groups of channels compute what torch does, on every instruction set, for drawn shapes."""

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.abi import After, GroupConvolution
from bnn_lightning.functional.pack import BLOCK, pack_activations, spread

CASES = 48


@pytest.fixture(params=kernels.supported_kernels())
def kernel(request: pytest.FixtureRequest) -> kernels.Kernel:
    return kernels.Kernel(request.param)


def weights_of(weight: Tensor, groups: int) -> Tensor:
    """Lay weights out as the kernel reads them."""
    outputs = len(weight) // groups
    rows = weight.permute(0, 2, 3, 1).flatten(1)
    if weight.shape[1] == outputs == 1:
        return spread(rows.t()).unflatten(1, (-1, BLOCK)).transpose(0, 1).contiguous()
    return spread(rows.t(), groups=groups).unflatten(1, (-1, BLOCK)).transpose(0, 1).contiguous()


def parameters(values: Tensor) -> Tensor:
    return F.pad(spread(values), (0, BLOCK))


def last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def test_drawn_convolutions(kernel: Any) -> None:
    for number in range(CASES):
        r = random.Random(number)
        torch.manual_seed(number)
        if r.random() < 0.5:
            groups, channels, outputs = r.choice([1, 3, 16, 24, 40]), 1, r.choice([1, 1, 2])
        else:
            groups, channels, outputs = r.choice([2, 3, 4]), r.choice([1, 4, 9, 16]), r.choice([1, 5, 16, 17, 32])
        drawn = [(r.randint(1, 5), r.randint(1, 2), r.randint(1, 3), r.randint(0, 3)) for _ in (0, 1)]
        kernel_size, dilation, stride, padding = ([pair[i] for pair in drawn] for i in range(4))
        size = [max(1, dilation[i] * (kernel_size[i] - 1) + r.randint(1, 16) - 2 * padding[i]) for i in (0, 1)]
        x = torch.randn(r.randint(1, 3), groups * channels, *size)
        weight = torch.randn(groups * outputs, channels, *kernel_size) / (channels * kernel_size[0]) ** 0.5
        expected = F.conv2d(x, weight, None, stride, padding, dilation, groups)
        after = After(*expected.shape[2:], groups * outputs, groups * outputs, low=-2.0, high=1.5)
        job = GroupConvolution(len(x), *size, groups, channels, *kernel_size, *stride, *dilation, *padding)
        maps = {"x": last(x)}
        values = {"weight": weights_of(weight, groups)}
        for name in ("bias", "gain", "offset", "slope", "shift"):
            if r.random() < 0.5 or (name == "offset" and "gain" in values):
                values[name] = parameters(torch.randn(groups * outputs))
        if "gain" not in values:
            values.pop("offset", None)
        held = {name: value[: groups * outputs].view(-1, 1, 1) for name, value in values.items() if value.dim() == 1}
        expected = expected + held.get("bias", torch.zeros(()))
        if "gain" in held:
            expected = expected * held["gain"] + held["offset"]
        if r.random() < 0.5:
            residual = torch.randn(expected.shape)
            maps["residual"] = last(residual)
            expected = expected + residual
        expected = torch.where(expected > 0, expected, expected * held.get("slope", torch.ones(())))
        expected = (expected + held.get("shift", torch.zeros(()))).clamp(-2, 1.5)
        out = torch.full((len(x), *expected.shape[2:], groups * outputs), torch.nan)
        after.out = out.data_ptr()
        aligned = outputs % BLOCK == 0 or channels == outputs == 1
        if aligned:
            threshold = parameters(torch.full((groups * outputs,), 0.25))
            bits = torch.zeros(*out.shape[:3], -(-groups * outputs // 32), dtype=torch.int32)
            threshold[groups * outputs :] = torch.inf
            after.bits_height, after.bits_width, after.bits_words = bits.shape[1:]
            after.threshold, after.bits = threshold.data_ptr(), bits.data_ptr()
        for name, value in {**maps, **values}.items():
            setattr(after if name in ("slope", "shift") else job, name, value.data_ptr())
        job.after = after
        kernel.run("group_convolve", job)
        case = (number, groups, channels, outputs, kernel_size, stride, padding, dilation)
        found = out.permute(0, 3, 1, 2)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=2e-5, msg=lambda text, case=case: f"{case}: {text}")
        if aligned:
            assert torch.equal(bits, pack_activations(found, torch.full((groups * outputs,), 0.25))), case
