"""The plans of a network, by the shape of its images, shared by threads."""

import os
import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bnn_lightning.deploy.kernels.library import Kernel
from bnn_lightning.deploy.planner.schedule import Plan, make_plan
from bnn_lightning.deploy.planner.typed_graph import TypedGraph
from bnn_lightning.deploy.runtime.executor import Execution

if TYPE_CHECKING:
    from bnn_lightning.deploy.runtime.network import LoadedNetwork

MOST_PLANS = 8  # shapes of images whose plans a network keeps
MOST_IDLE = 4  # sets of memory that a plan keeps for calls at the same time
_ALL: "weakref.WeakSet[Plans]" = weakref.WeakSet()


class Plans:
    """What a network has planned so far; the least recently used plan goes when there are too many.

    Copies of a network begin without plans. So does a forked process: its parent's threads may have been at work on
    them, or held the lock.
    """

    def __init__(self) -> None:
        self._begin()
        _ALL.add(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._plans: OrderedDict[tuple[object, ...], tuple[Plan, list[Execution]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._plans)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Plans":
        return Plans()

    def __reduce__(self) -> tuple[type["Plans"], tuple[()]]:
        return Plans, ()

    def clear(self) -> None:
        """Forget all plans: the tensors of the network have moved."""
        with self._lock:
            self._plans.clear()

    def run(self, network: "LoadedNetwork", images: Tensor, kernel: Kernel) -> Tensor:
        """Compute a network's output by the plan for these images, which is made at the first call."""
        key = (images.shape, images.stride(), images.dtype, torch.get_num_threads(), kernel.name)
        with self._lock:
            plan, idle = self._plans.get(key, (None, []))
            execution = idle.pop() if idle else None
        if plan is None:
            plan = make_plan(TypedGraph(network, images))
        execution = Execution(plan, kernel) if execution is None else execution
        output = execution.run(images)
        with self._lock:
            _, idle = self._plans.setdefault(key, (plan, []))
            self._plans.move_to_end(key)
            if execution.plan is self._plans[key][0] and len(idle) < MOST_IDLE:
                idle.append(execution)
            while len(self._plans) > MOST_PLANS:
                self._plans.popitem(last=False)
        return output


def _begin_all() -> None:
    for plans in list(_ALL):
        plans._begin()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_begin_all)
