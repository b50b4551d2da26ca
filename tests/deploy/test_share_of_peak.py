"""The benchmark of binary convolutions against the processor's own rate."""

import pytest

from benchmarks.share import LAYERS, shares
from bnn_lightning.deploy.kernels import library as kernels

pytestmark = pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")


def test_no_layer_is_faster_than_its_processor() -> None:
    pytest.importorskip("ziglang", reason="the loop is compiled for the kernel's instruction set")
    found = shares(kernels.supported_kernels()[0], 1)
    assert found.keys() == LAYERS.keys()
    assert all(0 < own < 1.5 * peak for own, peak in found.values())  # one turn each, on a busy machine
