"""Ranks of a distributed run, with the environment that torchrun gives them.

Each is forked from a server that has imported torch and Lightning: a start of Python takes longer than what it runs. A
rank has one thread, and the environment of the test that starts it.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest import mock

import torch

# The server's: of the time of collection, as a test may have set more when the first ranks start.
_ENVIRONMENT = dict(os.environ)
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["bnn_lightning.workflows.training"])
# Seconds that the other ranks may go on when one has failed.
_GRACE = 20.0


def run_ranks(work: Callable[..., Any], *arguments: Any, folder: Path, number: int = 2, timeout: float = 120) -> str:
    """Call a function on each rank, and return what all of them print.

    Args:
        work: A function of a module, which the ranks import.
        *arguments: Its arguments.
        folder: For files with what the ranks print.
        number: Number of ranks.
        timeout: Seconds until ranks that hang are killed.

    Raises:
        AssertionError: A rank failed, or it did not end in time.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "tests"}
    shared |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number), "GROUP_RANK": "0", "OMP_NUM_THREADS": "1"}
    with mock.patch.dict(os.environ, _ENVIRONMENT, clear=True):
        forkserver.ensure_running()
    outputs = [folder / f"rank{rank}.txt" for rank in range(number)]
    ranks = []
    for rank, output in enumerate(outputs):
        environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(_SERVER.Process(target=_run, args=(work, arguments, environment, output)))
        ranks[-1].start()
    end = time.monotonic() + timeout
    while (running := [rank for rank in ranks if rank.exitcode is None]) and time.monotonic() < end:
        wait([rank.sentinel for rank in running], timeout=max(0.0, end - time.monotonic()))
        if any(rank.exitcode for rank in ranks):
            end = min(end, time.monotonic() + _GRACE)
    for rank in running:
        rank.kill()
        rank.join()
    printed = "\n".join(output.read_text() for output in outputs if output.exists())
    assert [rank.exitcode for rank in ranks] == [0] * number, printed[-3000:]
    return printed


def _run(work: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], output: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # the server has imported torch, which reads OMP_NUM_THREADS then
    from pytorch_lightning.utilities import rank_zero_only

    rank_zero_only.rank = int(environment["RANK"])  # type: ignore[attr-defined]
    with output.open("w") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    work(*arguments)
