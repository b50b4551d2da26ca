"""All kernels on ARM: the tests of other processors, run in qemu.

Every kernel of aarch64 has a few cases in `make test`; `make test-slow` has more, of all instruction sets.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from bnn_lightning.deploy.kernels.abi import KERNELS, Pair
from tests.deploy import (
    called,
    test_byte_stem,
    test_channels_last,
    test_elementwise,
    test_group_conv,
    test_kernels,
    test_real,
)
from tests.deploy.emulated import SETS, Emulated, can_emulate, emulated

Check = Callable[[Any], None]
# Checks that take the name of a kernel.
NAMED: dict[str, Check] = {
    "convolutions": test_real.test_convolutions,
    "large bands": test_real.test_rows_of_many_channels_are_copied_whatever_their_size,
    "maxima": test_real.test_maxima_in_the_same_pass,
    "averages": test_real.test_pointwise_convolutions_after_averages,
    "linear": partial(test_real.test_linear_layers, int8=False),
    "linear int8": partial(test_real.test_linear_layers, int8=True),
    "pools": test_real.test_pools,
    "infinities": test_real.test_a_maximum_of_infinities_is_one,
    "NaN": test_real.test_a_maximum_of_nan_is_nan,
    "means": test_real.test_means,
    "gates": partial(test_real.test_gates, int8=False),
    "gates int8": partial(test_real.test_gates, int8=True),
    "second passes": test_real.test_second_passes,
    "bytes": test_byte_stem.test_sums_are_whole_numbers,
    "after bytes": test_byte_stem.test_what_follows_the_sums,
    "255ths": test_byte_stem.test_floats_are_taken_in_255ths,
    "epilogue": partial(test_kernels.test_epilogue, channels=40, size=5),
    "signs": lambda name: test_kernels.check_integers(range(0, 500, 500 // test_real.CASES)),
}
# Checks that take the kernel itself.
DIRECT: dict[str, Check] = {
    "groups": test_group_conv.test_drawn_convolutions,
    "functions": test_elementwise.test_functions,
    "copies": test_elementwise.test_copies,
    "layer norms": test_channels_last.check_rows,
    "softmax": partial(test_elementwise.test_softmax, logarithm=True),
    "zeros": test_elementwise.test_zeros_around_channels,
    "sums": test_elementwise.test_sums_and_maxima_over_dimensions,
    **{pair.name: partial(test_elementwise.test_pairs, pair=pair) for pair in Pair},
}
# Slow: zig compiles a C library for the driver first.
pytestmark = pytest.mark.slow

CASES = 40  # that each check draws
needs = {name: pytest.mark.skipif(not can_emulate(name), reason=f"Needs ziglang and qemu: {name}.") for name in SETS}


@pytest.fixture
def emulator(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Emulated:
    kernel = emulated(request.param)
    for module in (test_real, test_byte_stem, test_elementwise, test_group_conv):
        monkeypatch.setattr(module, "CASES", CASES)
    monkeypatch.setattr(called, "chosen", lambda: kernel)
    monkeypatch.setattr(test_kernels.ops, "current_kernel", lambda: kernel)
    return kernel


@pytest.mark.parametrize("emulator", [pytest.param(name, marks=needs[name]) for name in SETS], indirect=True)
@pytest.mark.parametrize("check", [*NAMED, *DIRECT])
def test_on_arm(emulator: Emulated, check: str) -> None:
    if check in NAMED:
        NAMED[check](emulator.name)
    else:
        DIRECT[check](emulator)


@needs["aarch64"]
@pytest.mark.parametrize("emulator", ["aarch64"], indirect=True)
def test_no_kernel_is_left_out(emulator: Emulated, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    run = emulator.run
    monkeypatch.setattr(emulator, "run", lambda operation, job: (seen.add(operation), run(operation, job)))
    for check in (*NAMED, *DIRECT):
        test_on_arm(emulator, check)
    assert seen == set(KERNELS)
