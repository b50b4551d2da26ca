"""Parallel measurement of landscape points on all cores or devices."""

import multiprocessing
import pickle
import signal
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TYPE_CHECKING

import torch

from bnn_lightning.analysis.loss_grid import Measured, Problem, Surroundings
from bnn_lightning.utils.processes import end_with_parent

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue

_around: Surroundings | None = None


def scan(
    problem: Problem, points: Iterable[tuple[int, Sequence[float]]], *, devices: Sequence[str] = ("cpu",)
) -> Iterator[tuple[int, Measured]]:
    """Measure points, and yield each as it is done.

    Args:
        problem: Problem that all of them share. With several devices it is sent to processes: an evaluator must then
            be a function or a class of a module.
        points: Number and steps of each.
        devices: One is used by this process, with all its threads. Several are used by a process each, which share the
            threads; `["cpu"] * 2` are two processes with a half of the cores each, in any order of points.

    Yields:
        Number of a point, and what was found there.

    Raises:
        ValueError: No device, what `Surroundings` refuses, or a problem that cannot be sent to another process.
    """
    if not devices:
        raise ValueError("`devices` is empty.")
    if len(devices) > 1:
        yield from _scan_in_processes(problem, list(points), devices)
        return
    around = Surroundings(problem.to(devices[0]))
    for index, steps in points:
        yield index, around.at(steps)


def _scan_in_processes(
    problem: Problem, points: Sequence[tuple[int, Sequence[float]]], devices: Sequence[str]
) -> Iterator[tuple[int, Measured]]:
    try:
        # By value: torch would hand tensors over in shared memory, of which containers have little.
        sent = pickle.dumps(problem.to("cpu"))
    except (AttributeError, TypeError, pickle.PicklingError) as error:
        raise ValueError(
            f"The problem cannot be sent to {len(devices)} processes: {error}. Take an evaluator that is a function or "
            "a class of a module, or one device."
        ) from error
    # Forked processes hang in the threads of OpenMP, and cannot use CUDA.
    context = multiprocessing.get_context("spawn")
    free: SimpleQueue[str] = context.SimpleQueue()
    for device in devices:
        free.put(device)
    threads = max(1, torch.get_num_threads() // len(devices))
    pool = ProcessPoolExecutor(
        min(len(devices), len(points)) or 1, mp_context=context, initializer=_begin, initargs=(sent, free, threads)
    )
    try:
        for future in as_completed([pool.submit(_measure, index, steps) for index, steps in points]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(sent: bytes, free: "SimpleQueue[str]", threads: int) -> None:
    global _around
    # Ctrl-C goes to the whole group of processes; the one in front ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(threads)
    problem: Problem = pickle.loads(sent)
    _around = Surroundings(problem.to(free.get()))


def _measure(index: int, steps: Sequence[float]) -> tuple[int, Measured]:
    assert _around is not None
    return index, _around.at(steps)
