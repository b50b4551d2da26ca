"""Plans at work: the memory and the jobs of one call."""

import ctypes
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.frontend.fresh import CPU, floats, pixels, strided, zeros
from bnn_lightning.deploy.kernels.conv2d import RealConv2d
from bnn_lightning.deploy.kernels.library import Kernel, NativeStep
from bnn_lightning.deploy.kernels.verify import Region, verify
from bnn_lightning.deploy.planner.schedule import Action, Plan, kind_of
from bnn_lightning.deploy.planner.select import emitting, halved, summed
from bnn_lightning.deploy.planner.typed_graph import BYTES, Job, Resource, Signs, Sums
from bnn_lightning.functional.pack import pack_activations

_Words = ctypes.Array[ctypes.c_uint64]
_ALIGN = 64


@dataclass
class _Row:
    """Native operations that follow upon each other.

    Attributes:
        steps: What the kernel runs.
        given: By number of a value that may lie elsewhere at each call, the words of the jobs that say where.
        ends: Values that nothing reads afterwards.
        owners: For each step, the place of its action in the plan.
    """

    steps: "ctypes.Array[NativeStep]"
    given: dict[int, list[tuple[_Words, int]]]
    ends: list[int]
    owners: list[int]


class Execution:
    """The memory and the jobs of a plan, for one call at a time.

    Args:
        plan: What to do.
        kernel: What computes it.
    """

    def __init__(self, plan: Plan, kernel: Kernel) -> None:
        self.plan, self.graph, self.kernel = plan, plan.graph, kernel
        self._keep: list[object] = []  # what jobs point to
        self._strides = _expected_strides(plan)
        self._arena = floats(plan.arena // 4 + _ALIGN // 4)
        self._first = -self._arena.data_ptr() % _ALIGN // 4
        self._signs = self._memory_of_signs()
        self._maps = {name: self._map(name) for name in plan.places if isinstance(name, int)}
        self._sums = {
            name: self._floats(place, math.prod(name.shape)).view(name.shape)
            for name, place in plan.places.items()
            if isinstance(name, Sums)
        }
        self._items: list[_Row | int] = []  # an action that torch does is its place among all
        row: list[int] = []
        for at, action in enumerate([*plan.actions, None]):
            if action is not None and action.operation is not None:
                row.append(at)
                continue
            self._items += [self._row(row)] if row else []
            self._items += [at] if action is not None else []
            row = []
        self._converts = self.graph.bytes and any(0 in action.reads(self.graph) for action in plan.actions)

    @torch.no_grad()
    def run(self, images: Tensor, seconds: list[float] | None = None) -> Tensor:
        """Compute the network's output for images of the plan's shape.

        Args:
            images: Of that shape.
            seconds: One a plan's action; what each takes is added, and the steps of a row run one by one.
        """
        values = {BYTES: images} if self.graph.bytes else {0: images}
        if self._converts:
            values[0] = pixels(images)
        for item in self._items:
            if isinstance(item, _Row):
                held = self._point(item, values)
                if seconds is None:
                    self.kernel.run_all(item.steps)
                else:
                    self._time(item, seconds)
                del held
                ends = item.ends
            else:
                number, start = self.plan.actions[item].number, time.perf_counter()
                values[number] = self.graph.network.run_node(number, {**self._maps, **values})
                if seconds is not None:
                    seconds[item] += time.perf_counter() - start
                ends = self.plan.ends[item]
            for number in ends:
                values.pop(number, None)
        output = values[self.graph.last]
        inside = output.untyped_storage().data_ptr() == self._arena.untyped_storage().data_ptr()
        return output.clone() if inside else output

    def _time(self, row: _Row, seconds: list[float]) -> None:
        for step, owner in zip(row.steps, row.owners, strict=True):
            one = (NativeStep * 1)(step)
            start = time.perf_counter()
            self.kernel.run_all(one)
            seconds[owner] += time.perf_counter() - start

    def _point(self, row: _Row, values: dict[int, Tensor]) -> list[Tensor]:
        """Tell jobs where what they are given lies in this call; return tensors that must live while they run."""
        held = []
        for number, words in row.given.items():
            meta, strides = self.graph.metas[number], self._strides[number]
            shape = tuple(meta.shape)
            if number == self.graph.last:
                values[number] = tensor = strided(shape, strides)
            else:
                tensor = values[number]
                if tensor.shape != meta.shape or tensor.dtype != meta.dtype:
                    found, wanted = (f"{tuple(one.shape)}, {one.dtype}" for one in (tensor, meta))
                    raise RuntimeError(f"Value {number} of the graph is {found} now, and was planned as {wanted}.")
                if tensor.stride() != strides:
                    tensor = strided(shape, strides, tensor.dtype).copy_(tensor)
            held.append(tensor)
            for memory, place in words:
                memory[place] = tensor.data_ptr()
        return held

    def _row(self, numbers: list[int]) -> _Row:
        """Make the jobs of actions that follow upon each other."""
        given: dict[int, list[tuple[_Words, int]]] = {}
        jobs: list[Job] = []
        owners: list[int] = []
        for at in numbers:
            action = self.plan.actions[at]
            tensors, outside = self._tensors(at, action)
            made, found = self._jobs(action, tensors), set()
            regions = [_region(tensor) for tensor in (*tensors.values(), *self._companions(action))]
            for job in made:
                verify(job.operation, job.structure, regions + [_region(tensor) for tensor in constants(job.keep)])
                count = ctypes.sizeof(job.structure) // 8
                memory = (ctypes.c_uint64 * count).from_buffer(job.structure)
                for number, tensor in outside.items():
                    places = [place for place in range(count) if memory[place] == tensor.data_ptr()]
                    given.setdefault(number, []).extend((memory, place) for place in places)
                    found |= {number} if places else set()
            assert found == set(outside), f"The jobs of value {action.number} hold other addresses than what they got."
            jobs += made
            owners += [at] * len(made)
        self._keep.append(jobs)
        steps = (NativeStep * len(jobs))(
            *(NativeStep(self.kernel.address(job.operation), ctypes.addressof(job.structure)) for job in jobs)
        )
        return _Row(steps, given, [number for at in numbers for number in self.plan.ends[at]], owners)

    def _jobs(self, action: Action, tensors: Mapping[Resource, Tensor]) -> list[Job]:
        operation = action.operation
        assert operation is not None
        jobs = operation.build(tensors)
        if action.emitted is not None:
            jobs[-1] = emitting(jobs[-1], action.emitted, self._signs[action.emitted], operation.blocks)
        if action.sums is not None:
            jobs[-1] = summed(jobs[-1], self._sums[action.sums])
        if action.half is not None:
            jobs[-1] = halved(jobs[-1], action.half, self._maps[action.half.number])
        return jobs

    def _companions(self, action: Action) -> list[Tensor]:
        """Return the memory of what an action writes beside its result."""
        signs = [] if action.emitted is None else [self._signs[action.emitted]]
        sums = [] if action.sums is None else [self._sums[action.sums]]
        return [*signs, *sums, *([] if action.half is None else [self._maps[action.half.number]])]

    def _tensors(self, at: int, action: Action) -> tuple[dict[Resource, Tensor], dict[int, Tensor]]:
        """Return the tensors of a native operation, and those among them that are stand-ins for what is given later."""
        operation = action.operation
        assert operation is not None
        tensors: dict[Resource, Tensor] = {}
        outside: dict[int, Tensor] = {}
        result = [operation.result] if isinstance(operation.result, Signs | Sums) or action.floats else []
        for item in [*operation.reads, *result]:
            if isinstance(item, Signs):
                tensors[item] = self._signs[item]
            elif isinstance(item, Sums):
                tensors[item] = self._sums[item]
            elif isinstance(item, int) and item in self._maps:
                tensors[item] = self._maps[item]
            elif isinstance(item, int):
                meta = self.graph.metas[item]
                tensors[item] = outside[item] = strided(meta.shape, self._strides[item], meta.dtype)
        for name, shape in operation.scratch.items():
            tensors[name] = self._floats(self.plan.places[at, name], math.prod(shape)).view(shape)
        return tensors, outside

    def _floats(self, place: int, count: int) -> Tensor:
        begin = self._first + place // 4
        return self._arena[begin : begin + count]

    def _map(self, number: int) -> Tensor:
        shape = self.graph.shape(number)
        strides = dense_strides(shape)
        return self._floats(self.plan.places[number], math.prod(shape)).as_strided(shape, strides)

    def _memory_of_signs(self) -> dict[Signs, Tensor]:
        memory: dict[tuple[object, int], Tensor] = {}
        for signs, slot in self.plan.slots.items():
            if (kind_of(signs), slot) not in memory:
                words = torch.zeros(signs.shape, dtype=torch.int32, device=CPU)
                if signs.ones:
                    words += pack_activations(zeros(1, signs.channels, 1, 1), groups=signs.groups)  # sign(0) is +1
                memory[kind_of(signs), slot] = words
        return {signs: memory[kind_of(signs), slot] for signs, slot in self.plan.slots.items()}


def constants(keep: Iterable[object]) -> Iterator[Tensor]:
    """Return the tensors among what a job points to."""
    for item in keep:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, tuple):
            yield from constants(item)
        elif isinstance(item, nn.Module):
            yield from item.buffers()
            yield from item.tables() if isinstance(item, RealConv2d) else ()


def _region(tensor: Tensor) -> Region:
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return Region(tensor.data_ptr(), tensor.element_size() * (last + 1 if tensor.numel() else 0))


def dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the strides of a tensor without gaps; those of maps with channels side by side."""
    if len(shape) == 4:
        _, channels, height, width = shape
        return (channels * height * width, 1, channels * width, channels)
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def _expected_strides(plan: Plan) -> dict[int, tuple[int, ...]]:
    """Return how values must lie in memory: as they come, where every native operation that reads them takes that."""
    operations = [action.operation for action in plan.actions if action.operation is not None]
    dense = {item for operation in operations if not operation.any_layout for item in operation.reads}
    dense |= {plan.graph.last}
    # Elements that share memory, as `expand` makes them, cannot be written to.
    dense |= {n for n, meta in plan.graph.metas.items() if 0 in meta.stride()}
    return {
        number: dense_strides(tuple(meta.shape)) if number in dense else meta.stride()
        for number, meta in plan.graph.metas.items()
    }
