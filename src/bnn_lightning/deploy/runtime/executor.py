"""Run plans on torch tensors: kernels by rows, torch in between for the nodes that it computes.

One plan serves every number of images and every number of threads. A context is memory for one call at a time; those
that later calls need are kept for them.
"""

import os
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bnn_lightning.deploy.format.container import Container
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.frontend.fresh import floats
from bnn_lightning.deploy.ir.types import Type
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.library import Kernel
from bnn_lightning.deploy.planner.plan import Address, Plan, Region, TorchCall
from bnn_lightning.deploy.planner.planner import make_plan
from bnn_lightning.deploy.planner.typed_graph import TypedGraph, size_of
from bnn_lightning.deploy.runtime.contexts import Contexts
from bnn_lightning.deploy.runtime.native import MOST_IMAGES, Rows, Sections

_DTYPES = {"f32": torch.float32, "i8": torch.int8, "i32": torch.int32, "i64": torch.int64}
# Computes the value of a node, by its number, from those that it reads.
Interpreter = Callable[[int, Mapping[int, Tensor]], Tensor]
_ALL: "weakref.WeakSet[Executor]" = weakref.WeakSet()


@dataclass(frozen=True, eq=False)
class Opened:
    """A plan that the library has opened and verified for an instruction set.

    Attributes:
        sections: Opened plan of the library; contexts share it.
        takes_bytes: Whether it takes images as bytes.
        rows: Calls of kernels that follow upon each other, from the first to behind the last, and calls of torch.
        types: Types of the values; of what only kernels compute there need be none.
        kernel: Instruction set.
    """

    sections: Sections
    takes_bytes: bool
    rows: tuple[tuple[int, int] | TorchCall, ...]
    types: Sequence[Type]
    kernel: Kernel

    @classmethod
    def of(cls, plan: Plan, types: Sequence[Type], kernel: Kernel) -> "Opened":
        """Open a plan.

        Raises:
            RuntimeFileError: A call leaves its memory.
        """
        constants = np.frombuffer(plan.constants, np.uint8)
        sections = Sections(PlanSection((plan,)).to_bytes(), constants, kernel.number)
        return cls(sections, plan.takes_bytes, _rows(plan), types, kernel)


def _rows(plan: Plan) -> tuple[tuple[int, int] | TorchCall, ...]:
    rows: list[tuple[int, int] | TorchCall] = []
    for at, call in enumerate(plan.calls):
        before = rows[-1] if rows else None
        if isinstance(call, TorchCall):
            rows.append(call)
        elif isinstance(before, tuple):
            rows[-1] = (before[0], at + 1)
        else:
            rows.append((at, at + 1))
    return tuple(rows)


class FilePlans:
    """The plans of a packed file, opened by the library as they lie there: nothing is planned, nothing copied.

    Args:
        container: A file whose plan section is of the kernels' version.
    """

    def __init__(self, container: Container) -> None:
        self._container = container
        self._sections: dict[str, Sections] = {}  # by instruction set

    def __deepcopy__(self, memo: dict[int, Any]) -> "FilePlans":
        return self

    def __reduce__(self) -> tuple[type["FilePlans"], tuple[Container]]:
        return FilePlans, (self._container,)

    def sections(self, kernel: Kernel) -> Sections:
        """Return what the library made of the section for an instruction set.

        Raises:
            RuntimeFileError: A call leaves its memory.
        """
        if kernel.name not in self._sections:
            constants = np.frombuffer(self._container.data, np.uint8)
            self._sections[kernel.name] = Sections(bytes(self._container.plan), constants, kernel.number)
        return self._sections[kernel.name]

    def check(self, kernel: Kernel, shape: tuple[int, int, int], num_classes: int) -> None:
        """Refuse plans that leave their memory, or are of other images or classes than the file's graph.

        Raises:
            ValueError: Says what is wrong.
        """
        sections = self.sections(kernel)
        planned, wanted = (sections.shape, sections.num_classes), (shape, num_classes)
        if planned != wanted:
            raise ValueError(f"Its plan is for images and classes {planned}, its graph for {wanted}.")

    def opened(self, kernel: Kernel, *, takes_bytes: bool) -> Opened | None:
        """Return the plan for images of a type; None where there is none, or torch has a part in it."""
        sections = self.sections(kernel)
        calls = sections.native_calls(takes_bytes=takes_bytes)  # what torch computes in between is planned again
        return Opened(sections, takes_bytes, ((0, calls),), (), kernel) if calls else None


class Execution:
    """Memory for one call at a time of a plan.

    Args:
        opened: The plan.
        most: Most images of a call.

    Attributes:
        needed: Call that needed it last, see `Contexts`.
    """

    def __init__(self, opened: Opened, most: int) -> None:
        self.plan, self.most, self.needed = opened, most, 0
        self._rows = Rows(opened.sections, most, takes_bytes=opened.takes_bytes)

    def run(self, images: Tensor, interpret: Interpreter, seconds: list[float] | None = None) -> Tensor:
        """Compute the logits of images.

        Args:
            images: Dense, (N, C, H, W), of the type that the plan takes; at most as many as there is room for.
            interpret: Computes the nodes that stay with torch.
            seconds: One a call of the plan; what each takes is added.
        """
        number, at = images.shape[0], 0
        logits = floats(number, self.plan.sections.num_classes)
        self._rows.place(images.data_ptr(), number, logits.data_ptr())
        self._rows.use_threads(*self.plan.kernel.threads())
        for row in self.plan.rows:
            torch_call = isinstance(row, TorchCall)
            ends = [(at, at + 1)] if isinstance(row, TorchCall) else [row]
            if seconds is not None and not torch_call:
                ends = [(one, one + 1) for one in range(*ends[0])]
            for begin, at in ends:
                start = time.perf_counter()
                if isinstance(row, TorchCall):
                    self._interpret(row, number, logits, interpret)
                else:
                    self._rows.run(begin, at)
                if seconds is not None:
                    seconds[begin] += time.perf_counter() - start
        return logits

    @torch.no_grad()
    def _interpret(self, call: TorchCall, number: int, logits: Tensor, interpret: Interpreter) -> None:
        types = self.plan.types
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
        memory = self._rows.memory(address.at(number), size_of(of).at(number))
        flat = torch.from_numpy(memory).view(_DTYPES[of.dtype])
        if len(shape) == 4 and of.dtype == "f32":
            return flat.view(shape[0], *shape[2:], shape[1]).permute(0, 3, 1, 2)
        return flat.view(shape)


class Runnable(Protocol):
    """A network that an executor can run."""

    def typed_graph(self, *, takes_bytes: bool) -> TypedGraph:
        """Return its graph with types, for images as floats or as bytes."""

    def run_node(self, number: int, values: Mapping[int, Tensor]) -> Tensor:
        """Compute the value of a node, by its number, from those that it reads."""


class Executor:
    """Runs the plans of a network: one for images as floats, one for images as bytes, with the constants shared.

    Copies begin with the plans of their file alone. A forked process keeps plans, but no contexts: its parent's threads
    may have been at work on these, or held the lock.

    Args:
        file: Plans of the file that the network comes from; what they do not have is planned at the first call.
    """

    def __init__(self, file: FilePlans | None = None) -> None:
        self._file = file
        self._section = ConstantSection()
        self._planned: dict[bool, tuple[Plan, Sequence[Type]]] = {}
        self._opened: dict[tuple[bool, str], Opened] = {}
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._contexts = Contexts[Execution]()

    def __deepcopy__(self, memo: dict[int, Any]) -> "Executor":
        return Executor(self._file)

    def __reduce__(self) -> tuple[type["Executor"], tuple[FilePlans | None]]:
        return Executor, (self._file,)

    def clear(self) -> None:
        """Forget plans and contexts: the tensors of the network have changed."""
        with self._lock:
            self._section, self._planned, self._opened, self._file = ConstantSection(), {}, {}, None
            self._contexts.clear()

    def plan(self, network: Runnable, *, takes_bytes: bool) -> Plan:
        """Return a plan of a network, which is made when it is asked for the first time.

        Raises:
            CallError: More would be derived of its constants than a plan may ask for.
        """
        return self._plan(network, takes_bytes)[0]

    def run(self, network: Runnable, images: Tensor, kernel: Kernel, seconds: list[float] | None = None) -> Tensor:
        """Compute the logits of images, (N, C, H, W), uint8 or float32, on the CPU.

        Args:
            network: Runnable that the plans are of.
            images: As `LoadedNetwork.forward` takes them.
            kernel: Instruction set.
            seconds: One a call of the plan; what each takes is added.

        Raises:
            ValueError: More images than a call may have.
        """
        number = images.shape[0]
        if number > MOST_IMAGES:
            raise ValueError(f"A call takes at most {MOST_IMAGES} images, got {number}: divide them.")
        opened = self._open(network, images.dtype == torch.uint8, kernel)
        execution = self._contexts.take(number, opened) or Execution(opened, number)
        logits = execution.run(images.contiguous().resolve_neg(), network.run_node, seconds)
        self._contexts.give(execution, number)
        return logits

    def _plan(self, network: Runnable, takes_bytes: bool) -> tuple[Plan, Sequence[Type]]:
        with self._lock:
            if takes_bytes not in self._planned:
                graph = network.typed_graph(takes_bytes=takes_bytes)
                self._planned[takes_bytes] = make_plan(graph, self._section), graph.types
            return self._planned[takes_bytes]

    def _open(self, network: Runnable, takes_bytes: bool, kernel: Kernel) -> Opened:
        key = takes_bytes, kernel.name
        if key not in self._opened:
            opened = None if self._file is None else self._file.opened(kernel, takes_bytes=takes_bytes)
            self._opened[key] = opened or Opened.of(*self._plan(network, takes_bytes), kernel)
        return self._opened[key]


def _begin_all() -> None:
    for executor in list(_ALL):
        executor._begin()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_begin_all)
