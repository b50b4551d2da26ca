"""Every kernel that this machine runs gives the integers of the reference."""

import random
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F

from bnn_lightning.deploy.frontend import torch_library as ops
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.functional import pack
from tests.deploy.emulated import can_emulate, emulated
from tests.packed_dot import packed_dot

CASES = 500
KERNELS = [*kernels.supported_kernels(), "torch"]
EMULATED = "aarch64 in qemu"


class Case(NamedTuple):
    groups: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int]
    pad_value: int
    size: tuple[int, int, int]
    channels_last: bool


def draw(number: int) -> Case:
    r = random.Random(number)
    kernel, dilation = (r.randint(1, 4), r.randint(1, 4)), (r.randint(1, 2), r.randint(1, 2))
    size = [dilation[i] * (kernel[i] - 1) + r.randint(1, 9) for i in (0, 1)]
    return Case(
        groups=r.choice([1, 1, 1, 2, 4]),
        in_channels=r.choice([1, 3, 16, 31, 32, 33, 64, 70]),
        out_channels=r.choice([1, 3, 15, 16, 17, 32, 33, 64, 70, 100]),
        kernel=kernel,
        stride=(r.randint(1, 2), r.randint(1, 3)),
        dilation=dilation,
        padding=(r.randint(0, 2), r.randint(0, 2)),
        pad_value=r.choice([0, -1, 1]),
        size=(r.randint(1, 3), size[0], size[1]),
        channels_last=r.random() < 0.5,
    )


@pytest.fixture(params=[*KERNELS, pytest.param(EMULATED, marks=pytest.mark.slow)])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == EMULATED and not can_emulate():
        pytest.skip("Needs ziglang and qemu-aarch64.")
    emulator = emulated() if request.param == EMULATED else None
    loaded = emulator or (None if request.param == "torch" else kernels.Kernel(request.param))
    monkeypatch.setattr(ops, "current_kernel", lambda: loaded)
    return str(request.param)


def pack_with(x: torch.Tensor, threshold: torch.Tensor, case: Case) -> torch.Tensor:
    missing = pack.num_words(case.in_channels) * 32 - case.in_channels
    padded = F.pad(threshold.view(case.groups, -1), (0, missing), value=float("inf")).flatten()
    top, left = case.padding
    return torch.ops.bnn_lightning.pack_activations(x, padded, case.groups, [top, top, left, left], case.pad_value == 1)


def plain_epilogue(channels: int, groups: int = 1) -> list[torch.Tensor | None]:
    given = {"scale": torch.ones(channels), "bias": torch.zeros(channels)}
    return [pack.spread(given[name], groups=groups) if name in given else None for name in EPILOGUE]


def test_integers_are_those_of_the_reference(kernel: str) -> None:
    # Emulation is slow; `make test-slow` has all cases.
    check_integers(range(0, CASES, 12 if kernel == EMULATED else 1))


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [EMULATED], indirect=True)
def test_integers_of_all_cases_emulated(kernel: str) -> None:
    check_integers(range(CASES))


def check_integers(numbers: range) -> None:
    for number in numbers:
        case = draw(number)
        torch.manual_seed(number)
        groups, (images, height, width) = case.groups, case.size
        x = torch.randn(images, groups * case.in_channels, height, width)
        if case.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        threshold = 0.3 * torch.randn(groups * case.in_channels)
        weight = torch.where(torch.rand(groups * case.out_channels, case.in_channels, *case.kernel) < 0.5, -1.0, 1.0)
        signs = torch.where(x >= threshold.view(-1, 1, 1), 1.0, -1.0)
        top, left = case.padding
        padded = F.pad(signs, (left, left, top, top), value=case.pad_value)
        expected = F.conv2d(padded, weight, None, case.stride, 0, case.dilation, groups)

        words, packed = pack.pack_weight(weight, groups=groups), pack_with(x, threshold, case)
        if case.pad_value:  # the reference has no zeros
            assert torch.equal(packed, pack.pack_activations(padded, groups=groups)), case
            reference = packed_dot(
                packed,
                words,
                out_channels=groups * case.out_channels,
                in_channels=case.in_channels,
                kernel_size=case.kernel,
                stride=case.stride,
                dilation=case.dilation,
            )
            assert torch.equal(reference.float(), expected), case
        zeros = case.pad_value == 0 and any(case.padding)
        out = torch.ops.bnn_lightning.binary_conv2d(
            packed,
            words,
            pack.tap_sums(weight, groups=groups),
            plain_epilogue(len(weight), groups),
            len(weight),
            case.in_channels,
            case.kernel,
            case.stride,
            case.dilation,
            [top, left, height, width] if zeros else [],
        )
        assert torch.equal(out, expected), case


@pytest.mark.parametrize("channels, size", [(5, 3), (16, 4), (40, 5), (64, 1)])
def test_epilogue(kernel: str, channels: int, size: int) -> None:
    torch.manual_seed(channels)
    x, weight = torch.randn(2, 8, size, size), torch.where(torch.rand(channels, 8, 1, 1) < 0.5, -1.0, 1.0)
    values = {name: torch.randn(channels) for name in EPILOGUE}
    residual = torch.randn(2, channels, size, size)
    packed = pack_with(
        x, torch.zeros(8), Case(1, 8, channels, (1, 1), (1, 1), (1, 1), (0, 0), 0, (2, size, size), False)
    )
    out = torch.ops.bnn_lightning.binary_conv2d(
        packed,
        pack.pack_weight(weight),
        pack.tap_sums(weight),
        [pack.spread(value) for value in values.values()],
        *[channels, 8, [1, 1], [1, 1], [1, 1], []],
        residual,
        *[-1.5, 2.5],
    )
    of = {name: value.view(-1, 1, 1) for name, value in values.items()}
    signs = torch.where(x >= 0, 1.0, -1.0)
    taps = weight.sum((1, 2, 3)).view(-1, 1, 1)
    t = F.conv2d(signs, weight) * of["gain"] + of["pull"] * signs.sum(1, keepdim=True)
    t = t + of["center"] * (taps * of["tap_scale"] + of["tap_offset"] * 8) + of["offset"]
    t = torch.maximum(t, of["floor"]) * of["scale"] + of["bias"] + residual + of["lift"]
    expected = (torch.where(t > 0, t, t * of["slope"]) + of["shift"]).clamp(-1.5, 2.5)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_threads_give_the_same(kernel: str) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(4, 64, 20, 20), torch.where(torch.rand(100, 64, 3, 3) < 0.5, -1.0, 1.0)
    case = Case(1, 64, 100, (3, 3), (1, 1), (1, 1), (1, 1), 0, (4, 20, 20), False)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(
                torch.ops.bnn_lightning.binary_conv2d(
                    pack_with(x, torch.zeros(64), case),
                    *[pack.pack_weight(weight), pack.tap_sums(weight), plain_epilogue(100), 100, 64],
                    *[[3, 3], [1, 1], [1, 1], [1, 1, 20, 20]],
                )
            )
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_info_says_what_is_in_use() -> None:
    info = kernels.kernel_info()
    assert info.built == kernels.built_kernels()
    assert (info.name == "torch") == bool(info.reason)
    assert info.threads == torch.get_num_threads()


@pytest.mark.parametrize("wanted", KERNELS)
def test_environment_chooses_the_kernel(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNN_KERNEL", wanted)
    kernels._load.cache_clear()  # as in a new process
    try:
        assert kernels.kernel_info().name == wanted
    finally:
        kernels._load.cache_clear()


def test_environment_cannot_choose_what_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNN_KERNEL", "vax")
    kernels._load.cache_clear()
    try:
        with pytest.raises(ValueError, match=r"BNN_KERNEL=vax: this machine can run .*torch"):
            kernels.current_kernel()
    finally:
        kernels._load.cache_clear()


def test_the_reason_names_a_library_of_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernels.built_kernels():
        pytest.skip("Needs a compiled library.")
    monkeypatch.delenv("BNN_KERNEL", raising=False)
    monkeypatch.setattr(kernels, "VERSION", kernels.VERSION + 1)
    caches = (kernels._load, kernels.load_library)
    for cached in caches:
        cached.cache_clear()
    try:
        info = kernels.kernel_info()
        assert (info.name, info.built) == ("torch", ())
        assert "libbnn" in info.reason
        assert "another version" in info.reason
    finally:
        for cached in caches:
            cached.cache_clear()


def test_kernels_were_built_where_a_compiler_was() -> None:
    import importlib.util
    import platform

    if importlib.util.find_spec("ziglang") is None and not kernels.built_kernels():
        pytest.skip("Installed without the compiler.")
    if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        pytest.skip("No kernel for this architecture.")
    assert kernels.supported_kernels()
