"""Networks of the C library in a process that ends."""

import subprocess
import sys

import pytest

from bnn_lightning.deploy.kernels.library import supported_kernels
from bnn_lightning.zoo import packed_file

pytestmark = pytest.mark.skipif(not supported_kernels(), reason="needs a compiled kernel")
COMPUTE_AT_THE_END = """
import sys, threading, time
import numpy as np
from bnn_lightning.deploy.runtime import native
network, images = native.load(sys.argv[1]), np.zeros((8, 3, 32, 32), np.uint8)
def compute():
    while True:
        network(images)
for _ in range(2):
    threading.Thread(target=compute, daemon=True).start()
time.sleep(0.2)
"""


def test_threads_may_compute_when_the_process_ends() -> None:
    for _ in range(3):
        command = [sys.executable, "-c", COMPUTE_AT_THE_END, str(packed_file("zoo:cifar10_resnet20"))]
        assert subprocess.run(command, timeout=60).returncode == 0
