"""Run plans on torch tensors: kernels by rows, torch in between for the nodes that it computes.

One plan serves every number of images and every number of threads. A context is memory for one call at a time; some
that are idle are kept for the next calls.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from bnn_lightning.deploy.frontend.fresh import floats
from bnn_lightning.deploy.ir.types import Type
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.library import Kernel, NativeStep
from bnn_lightning.deploy.planner.check import verify_plan
from bnn_lightning.deploy.planner.plan import Address, Plan, Region, TorchCall
from bnn_lightning.deploy.planner.planner import make_plan
from bnn_lightning.deploy.planner.typed_graph import TypedGraph, size_of
from bnn_lightning.deploy.runtime.commands import Commands, Context, Row

MOST_IMAGES = 1 << 20  # of a call
MOST_IDLE = 4  # contexts that a network keeps for calls at the same time
_DTYPES = {"f32": torch.float32, "i8": torch.int8, "i32": torch.int32, "i64": torch.int64}
# Computes the value of a node, by its number, from those that it reads.
Interpreter = Callable[[int, Mapping[int, Tensor]], Tensor]
_ALL: "weakref.WeakSet[Executor]" = weakref.WeakSet()


class Execution:
    """A context on a kernel.

    Args:
        commands: Of a plan.
        kernel: Library of kernels.
        most: Most images of a call.
    """

    def __init__(self, commands: Commands, kernel: Kernel, most: int) -> None:
        self.commands, self.kernel, self.most = commands, kernel, most
        self.context = Context(commands, most)
        base = self.context.structures.ctypes.data
        self._steps = [
            NativeStep(kernel.address(name), base + start)
            for name, start in zip(commands.kernels, commands.starts, strict=True)
        ]
        self._rows = {
            row.first: (NativeStep * (row.end - row.first))(*self._steps[row.first : row.end])
            for row in commands.items
            if isinstance(row, Row)
        }

    def takes(self, commands: Commands, kernel: Kernel, images: int) -> bool:
        """Whether it runs a plan on a kernel, for so many images."""
        return self.commands is commands and self.kernel.name == kernel.name and images <= self.most

    def run(
        self, images: Tensor, types: Sequence[Type], interpret: Interpreter, seconds: list[float] | None = None
    ) -> Tensor:
        """Compute the logits of images.

        Args:
            images: Dense, (N, C, H, W), of the type that the plan takes; at most as many as there is room for.
            types: Of the values.
            interpret: Computes the nodes that stay with torch.
            seconds: One a call of the plan; what each takes is added.
        """
        number = images.shape[0]
        logits = floats(number, self.commands.plan.num_classes)
        self.context.set(number, images.data_ptr(), logits.data_ptr())
        at = 0
        for item in self.commands.items:
            start = time.perf_counter()
            if isinstance(item, TorchCall):
                self._interpret(item, number, logits, types, interpret)
                if seconds is not None:
                    seconds[at] += time.perf_counter() - start
                at += 1
            elif seconds is None:
                self.kernel.run_all(self._rows[item.first])
                at += item.end - item.first
            else:
                for step in self._steps[item.first : item.end]:
                    start = time.perf_counter()
                    self.kernel.run_all((NativeStep * 1)(step))
                    seconds[at] += time.perf_counter() - start
                    at += 1
        return logits

    def _interpret(
        self, call: TorchCall, number: int, logits: Tensor, types: Sequence[Type], interpret: Interpreter
    ) -> None:
        values = {value: self._tensor(address, types[value], number, logits) for value, address in call.reads.items()}
        result, place = interpret(call.node, values), self._tensor(call.writes, types[call.node], number, logits)
        if result.shape != place.shape or result.dtype != place.dtype:
            found, wanted = (f"{tuple(one.shape)}, {one.dtype}" for one in (result, place))
            raise RuntimeError(f"Value {call.node} of the network is {found} now, and was planned as {wanted}.")
        place.copy_(result)

    def _tensor(self, address: Address, of: Type, number: int, logits: Tensor) -> Tensor:
        """Return the tensor of a value: channels side by side in maps of floats."""
        shape = of.for_images(number)
        if address.region == Region.OUTPUT:
            return logits.view(shape)
        flat = torch.from_numpy(self.context.memory(address, size_of(of).at(number))).view(_DTYPES[of.dtype])
        if len(shape) == 4 and of.dtype == "f32":
            return flat.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
        return flat.view(shape)


class Network(Protocol):
    """What an executor asks of a network."""

    def typed_graph(self, *, takes_bytes: bool) -> TypedGraph:
        """Return its graph with types, for images as floats or as bytes."""

    def run_node(self, number: int, values: Mapping[int, Tensor]) -> Tensor:
        """Compute the value of a node, by its number, from those that it reads."""


class Executor:
    """Runs the plans of a network: one for images as floats, one for images as bytes, with the constants shared.

    Copies begin without plans. So does a forked process, but for the plans themselves: its parent's threads may have
    been at work on contexts, or held the lock.
    """

    def __init__(self) -> None:
        self._section = ConstantSection()
        self._planned: dict[bool, tuple[Commands, Sequence[Type]]] = {}
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[Execution] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> "Executor":
        return Executor()

    def __reduce__(self) -> tuple[type["Executor"], tuple[()]]:
        return Executor, ()

    @property
    def num_idle(self) -> int:
        """Number of contexts that wait for calls."""
        return len(self._idle)

    def clear(self) -> None:
        """Forget plans and contexts: the tensors of the network have changed."""
        with self._lock:
            self._section, self._planned, self._idle = ConstantSection(), {}, []

    def plan(self, network: Network, *, takes_bytes: bool) -> Plan:
        """Return a plan of a network, which is made and verified when it is asked for the first time."""
        return self._prepare(network, takes_bytes)[0].plan

    @torch.no_grad()
    def run(self, network: Network, images: Tensor, kernel: Kernel, seconds: list[float] | None = None) -> Tensor:
        """Compute the logits of images, (N, C, H, W), uint8 or float32, on the CPU.

        Args:
            network: Whose plans these are.
            images: As `LoadedNetwork.forward` takes them.
            kernel: Library of kernels.
            seconds: One a call of the plan; what each takes is added.

        Raises:
            ValueError: More images than a call may have.
        """
        number = images.shape[0]
        if number > MOST_IMAGES:
            raise ValueError(f"A call takes at most {MOST_IMAGES} images, got {number}: divide them.")
        commands, types = self._prepare(network, images.dtype == torch.uint8)
        execution = self._take(commands, kernel, number)
        logits = execution.run(images.contiguous(), types, network.run_node, seconds)
        self._give(execution)
        return logits

    def _prepare(self, network: Network, takes_bytes: bool) -> tuple[Commands, Sequence[Type]]:
        if takes_bytes not in self._planned:
            with self._lock:
                graph = network.typed_graph(takes_bytes=takes_bytes)
                plan = make_plan(graph, self._section)
                verify_plan(plan, MOST_IMAGES)
                self._planned[takes_bytes] = Commands(plan), graph.types
        return self._planned[takes_bytes]

    def _take(self, commands: Commands, kernel: Kernel, images: int) -> Execution:
        """Return a context with room for so many images: the smallest idle one or a new one."""
        with self._lock:
            fits = [one for one in self._idle if one.takes(commands, kernel, images)]
            if fits:
                smallest = min(fits, key=lambda one: one.most)
                self._idle.remove(smallest)
                return smallest
        return Execution(commands, kernel, images)

    def _give(self, execution: Execution) -> None:
        """Keep a context for later calls; the one with the least room goes when there are too many."""
        with self._lock:
            self._idle.append(execution)
            if len(self._idle) > MOST_IDLE:
                self._idle.remove(min(self._idle, key=lambda one: one.most))


def _begin_all() -> None:
    for executor in list(_ALL):
        executor._begin()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_begin_all)
