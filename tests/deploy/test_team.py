"""A row of operations gives the same on any number of threads, however torch hands them out."""

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.abi import WORKERS
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from tests.deploy.test_plan import SIZE, Writer

WORK = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
PARALLEL_FOR = ctypes.CFUNCTYPE(ctypes.c_int32, *[ctypes.c_int64] * 3, ctypes.c_void_p, ctypes.c_void_p)
Call = Callable[[int, int], None]
THREADS = 3
pytestmark = pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")


def in_turn(n: int, call: Call) -> None:
    for i in range(n):
        call(i, i + 1)


def backwards(n: int, call: Call) -> None:
    for i in reversed(range(n)):
        call(i, i + 1)


def by_one_alone(n: int, call: Call) -> None:
    call(0, n)


def together(n: int, call: Call, wait: float = 0.0) -> None:
    threads = [threading.Thread(target=call, args=(i, i + 1)) for i in range(n)]
    for thread in threads:
        thread.start()
        time.sleep(wait)
    for thread in threads:
        thread.join()


def one_by_one(n: int, call: Call) -> None:
    together(n, call, wait=0.01)


def by_fewer(n: int, call: Call) -> None:
    ends = [(0, n // 2), (n // 2, n)]
    together(2, lambda i, _: call(*ends[i]))


class Pool:
    """In the place of `torch_parallel_for`."""

    def __init__(self, hand_out: Callable[[int, Call], None] | None, threads: int = THREADS) -> None:
        self.calls, self.lock = 0, threading.Lock()

        def run(begin: int, end: int, grain: int, work: int, context: int) -> int:
            with self.lock:
                self.calls += 1
            assert (begin, end, grain) == (0, threads, 1)
            if hand_out is None:
                return 1
            hand_out(end, lambda first, last: WORK(work)(first, last, context))
            return 0

        self.function = PARALLEL_FOR(run)

    def address(self) -> int:
        return ctypes.cast(self.function, ctypes.c_void_p).value or 0


@pytest.fixture
def network(tmp_path: Path) -> LoadedNetwork:
    """Binary convolutions that are worth threads, a short one, packings, a stem, and averages."""
    writer = Writer(0)
    x = y = writer.stem(64)
    for number in range(4):
        y = writer.conv(y, 64, 64, x if number % 2 else None, kernel=3 if number != 2 else 1, threshold=None)
    writer.conv(y, 64, 64, x, threshold=writer.thresholds(64))
    return writer.network(64, tmp_path)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("hand_out", [in_turn, backwards, by_one_alone, together, one_by_one, by_fewer, None])
def test_any_pool_gives_the_same(
    network: LoadedNetwork,
    threads: None,
    monkeypatch: pytest.MonkeyPatch,
    hand_out: Callable[[int, Call], None] | None,
) -> None:
    images = torch.rand(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    wanted = network(images)
    torch.set_num_threads(THREADS)
    pool = Pool(hand_out)
    monkeypatch.setattr(kernels, "parallel_for", pool.address)
    for number in range(1, 4):
        torch.testing.assert_close(network(images), wanted, rtol=0, atol=0)
        assert pool.calls == number  # one parallel loop for the whole network


@pytest.mark.parametrize("images", [1, 3])
def test_threads_divide_layers_of_several_chunks(
    images: int, threads: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer(0)
    x = y = writer.stem(200)
    for number in range(4):
        y = writer.conv(y, 200, 200, x if number % 2 else None, threshold=None)
    network, given = writer.network(200, tmp_path), torch.rand(images, 3, SIZE, SIZE)
    torch.set_num_threads(1)
    wanted = network(given)
    torch.set_num_threads(THREADS)
    for hand_out in (in_turn, backwards, by_one_alone, together):
        pool = Pool(hand_out)
        monkeypatch.setattr(kernels, "parallel_for", pool.address)
        torch.testing.assert_close(network(given), wanted, rtol=0, atol=0)
        assert pool.calls == 1


def test_several_calls_at_the_same_time(network: LoadedNetwork, threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    wanted, found = network(images), []
    torch.set_num_threads(THREADS)
    monkeypatch.setattr(kernels, "parallel_for", Pool(together).address)
    together(3, lambda *_: found.extend(network(images) for _ in range(3)))
    assert len(found) == 9
    for logits in found:
        torch.testing.assert_close(logits, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("hand_out", [in_turn, backwards, together])
def test_more_workers_than_have_memory_of_their_own(
    network: LoadedNetwork, threads: None, monkeypatch: pytest.MonkeyPatch, hand_out: Callable[[int, Call], None]
) -> None:
    images = torch.rand(16, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(1)
    wanted = network(images)
    torch.set_num_threads(WORKERS + 4)
    monkeypatch.setattr(kernels, "parallel_for", Pool(hand_out, WORKERS + 4).address)
    torch.testing.assert_close(network(images), wanted, rtol=0, atol=0)


def test_what_is_not_worth_threads_is_done_without(
    network: LoadedNetwork, threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = Pool(None)
    monkeypatch.setattr(kernels, "parallel_for", pool.address)
    torch.set_num_threads(THREADS)
    network(torch.rand(1, 3, SIZE, SIZE))
    assert pool.calls == 0
