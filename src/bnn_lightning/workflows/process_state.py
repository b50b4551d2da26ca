"""State of the process that libraries change while a verb works, and that is the caller's again afterwards."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from bnn_lightning.workflows.log_filters import silence

# Variables that Lightning and loggers write. Those by which the processes of a distributed run know each other
# (MASTER_ADDR, LOCAL_RANK ...) are not among them: the processes, and the next Trainer in them, live on.
_VARIABLES = (
    *("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG", "OMP_NUM_THREADS"),
    *("MLFLOW_ALLOW_FILE_STORE", "WANDB_MODE"),
)


@contextmanager
def contained() -> Iterator[None]:
    """Leave the process as it was: logging, warnings, random generators, flags of torch, and the environment.

    As a decorator it does so for each call of a function. Generators are those of Python, NumPy, CPUs and CUDA.
    """
    with silence(), _kept_generators(), _kept_flags(), _kept_environment():
        yield


@contextmanager
def _kept_generators() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - others may draw from it
    # Asking for a state would start CUDA, on every GPU.
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if started else []):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if not started:
            torch.cuda.manual_seed_all(torch.initial_seed())  # as `torch.manual_seed` had left them


@contextmanager
def _kept_flags() -> Iterator[None]:
    threads, gradients = torch.get_num_threads(), torch.is_grad_enabled()
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    deterministic = _deterministic()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(gradients)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
        if _deterministic() != deterministic:  # setting it imports the compiler of torch
            torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


@contextmanager
def _kept_environment() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _VARIABLES}
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
