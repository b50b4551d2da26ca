"""Real convolutions, stems on bytes and pooling on ARM: the tests of other processors, run in qemu."""

from collections.abc import Callable

import pytest

from tests.deploy import called, test_byte_stem, test_real
from tests.deploy.emulated import can_emulate, emulated

CHECKS = (
    test_real.test_convolutions,
    test_real.test_maxima_in_the_same_pass,
    test_real.test_pointwise_convolutions_after_averages,
    test_real.test_pools,
    test_real.test_a_maximum_of_nan_is_nan,
    test_byte_stem.test_sums_are_whole_numbers,
    test_byte_stem.test_what_follows_the_sums,
    test_byte_stem.test_floats_are_taken_in_255ths,
)


@pytest.mark.skipif(not can_emulate(), reason="Needs ziglang and qemu-aarch64.")
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_on_arm(check: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = emulated()
    monkeypatch.setattr(test_real, "CASES", 8)
    monkeypatch.setattr(test_byte_stem, "CASES", 16)
    monkeypatch.setattr(called, "chosen", lambda: kernel)
    check(kernel.name)
