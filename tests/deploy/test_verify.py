"""Jobs of kernels stay within their memory: the verifier, and programs whose operands are not what forms expect."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.format.prefix import join_sections
from bnn_lightning.deploy.ir.graph import ConstantRef, Graph, Node, Value
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.call import Address, Count, KernelCall, Region
from bnn_lightning.deploy.kernels.verify import CallError, Memory, verify
from bnn_lightning.deploy.planner.check import memory_of
from bnn_lightning.deploy.planner.plan import Plan, Size
from bnn_lightning.deploy.runtime import native
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from tests.deploy.test_plan import SIZE, Writer, check, drawn
from tools.drawn import Drawer, differs, drawn_graph

pytestmark = pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")


def averages(writer: Writer, x: Value) -> Value:
    return writer.call("mean", x, dims=[2, 3], keepdim=True)


def weight(writer: Writer, *shape: int) -> ConstantRef:
    return writer.stored(writer.draw.standard_normal(shape))


def gate(writer: Writer, x: Value, inputs: int, outputs: int) -> Value:
    hidden = writer.call("relu", writer.call("conv2d", x, weight(writer, 8, inputs, 1, 1)))
    return writer.call("sigmoid", writer.call("conv2d", hidden, weight(writer, outputs, 8, 1, 1)))


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_a_linear_layer_of_no_features(tmp_path: Path, threads: None) -> None:
    writer = Writer(0)
    rows = writer.call("slice", writer.call("mean", writer.stem(16), dims=[2, 3]), dim=1, start=0, end=0)
    bias = writer.stored(np.arange(5.0))
    empty = writer.call("linear", rows, writer.stored(np.zeros((5, 0))), bias)
    network = writer.network(16, tmp_path, last=Value(1))
    assert network.graph.nodes[empty.number - 1].operation == "linear"
    network = LoadedNetwork(Graph(network.graph.nodes[: empty.number], network.graph.constants), network.info)
    images = torch.rand(2, 3, SIZE, SIZE)
    assert torch.equal(network(images), torch.arange(5.0).expand(2, 5))


@pytest.mark.parametrize("narrow", ["own", "other"])
def test_a_gate_of_a_blend_with_one_channel(tmp_path: Path, narrow: str) -> None:
    writer = Writer(1)
    x = writer.stem(24)
    wide, one = averages(writer, x), averages(writer, writer.call("conv2d", x, weight(writer, 1, 24, 1, 1)))
    own, other = (one, wide) if narrow == "own" else (wide, one)
    difference = writer.call("sub", other, own)
    mix = writer.stored(writer.draw.standard_normal((24, 1, 1)))
    blend = writer.call("add", own, writer.call("mul", difference, mix))
    gated = writer.call("mul", x, gate(writer, blend, 24, 24))
    check(writer.network(24, tmp_path, last=gated))


def test_a_gate_of_averages_over_channels(tmp_path: Path) -> None:
    writer = Writer(2)
    x = writer.stem(24)
    mean = writer.call("mean", averages(writer, x), dims=[1], keepdim=True)
    gated = writer.call("mul", x, gate(writer, mean, 1, 24))
    check(writer.network(24, tmp_path, last=gated))


@pytest.mark.parametrize("operations", [("sub", "div"), ("sub",)])
def test_a_constant_along_columns_is_none_of_channels(tmp_path: Path, operations: tuple[str, ...]) -> None:
    writer = Writer(3)
    x = writer.stem(SIZE)  # as many channels as columns
    for operation in operations:
        x = writer.call(operation, x, writer.stored(2 + writer.draw.random(SIZE)))
    y = writer.call("conv2d", x, weight(writer, 16, SIZE, 3, 3))
    check(writer.network(16, tmp_path, last=y))


def test_one_channel_that_becomes_many(tmp_path: Path) -> None:
    writer = Writer(4)
    one = writer.call("conv2d", Value(0), weight(writer, 1, 3, 3, 3))
    many = writer.call("affine", one, weight(writer, 40), weight(writer, 40))
    normal = writer.call("sub", one, weight(writer, 40, 1, 1))
    normal = writer.call("div", normal, writer.stored(np.full((40, 1, 1), 2.0)))
    both = writer.call("add", many, writer.call("conv2d", normal, weight(writer, 40, 40, 1, 1)))
    check(writer.network(40, tmp_path, last=writer.call("relu", both)))


@pytest.mark.parametrize("pool", ["", "max_pool2d", "avg_pool2d"])
@pytest.mark.parametrize("source", ["channel", "averages", "column"])
def test_a_map_that_was_expanded_and_pooled(tmp_path: Path, source: str, pool: str) -> None:
    writer = Writer(5)
    x = writer.stem(1 if source == "channel" else 32)
    x = averages(writer, x) if source == "averages" else x
    x = writer.call("max_pool2d", x, kernel_size=[1, SIZE], stride=[1, 1]) if source == "column" else x
    x = writer.call("expand", x, shape=[-1, 32, SIZE, SIZE])
    if pool:  # torch pools with a padding
        padding = [0, 0] if pool == "max_pool2d" else [1, 1]
        x = writer.call(pool, x, kernel_size=[2, 2], stride=[1, 1], padding=padding)
    y = writer.conv(x, 32, 32, threshold=writer.thresholds(32))
    network = writer.network(32, tmp_path, last=y)
    check(network)
    check(network, torch.rand(1, 3, SIZE, SIZE))


def test_a_residual_that_does_not_fit_groups(tmp_path: Path) -> None:
    writer = Writer(6)
    x = writer.stem(16)
    more = writer.call("cat", x, x, x, dim=1)
    y = writer.conv(x, 16, 48, more, groups=2, threshold=writer.thresholds(16))
    check(writer.network(48, tmp_path, last=y))


@pytest.mark.parametrize(("low", "high"), [(-math.inf, 0.5), (0.25, math.inf), (math.inf, None), (None, -math.inf)])
def test_bounds_that_are_infinite(low: float | None, high: float | None) -> None:
    drawer = Drawer(0)
    x = drawer.call("conv2d", Value(0), drawer.stored(16, 3, 1, 1))
    assert x is not None
    bounds = {name: bound for name, bound in (("low", low), ("high", high)) if bound is not None}
    drawer.nodes += [Node("clamp", (x,), bounds), Node("mean", (Value(2),), {"dims": [2, 3]})]
    network = drawer.network()
    assert torch.equal(network(drawer.images).isinf(), network.run_nodes(drawer.images).isinf())


@pytest.mark.parametrize("seeds", [range(20), range(20, 40)])
def test_drawn_graphs_are_those_of_the_steps(seeds: range) -> None:
    assert [found for seed in seeds if (found := differs(seed))] == []


USUAL = {"pack", "convolve", "real_convolve", "linear", "pool", "sum", "average", "pad", "gate", "combine"}


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[KernelCall, Memory]]:
    """Calls of drawn networks and their memory, for three images; of enough that all usual kernels are there."""
    plans: list[Plan] = []
    seen: set[str] = set()
    networks = (drawn_graph(seed)[0] for seed in range(300))
    while len(plans) < 10 or not seen >= USUAL:
        if (network := next(networks)).is_planned:
            kernels = {call.kernel for call in network.plan().calls if isinstance(call, KernelCall)}
            if len(plans) < 10 or kernels & USUAL - seen:
                plans.append(network.plan())
                seen |= kernels
    plans.append(drawn(0, tmp_path_factory.mktemp("net")).plan())
    return [(call, memory_of(plan, 3)) for plan in plans for call in plan.calls if isinstance(call, KernelCall)]


def changed(call: KernelCall, **fields: Any) -> KernelCall:
    return KernelCall(call.kernel, {**call.fields, **fields}, call.node)


def test_what_leaves_its_memory_is_refused(calls: list[tuple[KernelCall, Memory]]) -> None:
    seen = set()
    for call, memory in calls:
        verify(call, memory)
        for name, value in call.fields.items():
            if not isinstance(value, Address):
                continue
            for other in (memory.sizes[value.region], -64):
                with pytest.raises(CallError, match=f"`{call.kernel}` of value {call.node}: "):
                    verify(changed(call, **{name: Address(value.region, other)}), memory)
            seen.add(call.kernel)
    assert seen >= USUAL


WRITTEN = {"out", "after.out", "bits", "after.bits", "sums", "half", "mean", "work", "gate"}


def test_what_is_written_lies_in_no_constants(calls: list[tuple[KernelCall, Memory]]) -> None:
    for call, memory in calls:
        for name in WRITTEN & set(call.fields):
            reads = {("combine", "gate"), ("average", "sums"), ("real_convolve", "mean"), ("copy", "mean")}
            if (call.kernel, name) in reads:
                continue
            for region in (Region.CONSTANTS, Region.INPUT, Region.DERIVED):
                everywhere = Memory(dict.fromkeys(Region, 1 << 40), memory.images, memory.tables)
                with pytest.raises(CallError, match=f"`{name.rpartition('.')[2]}` is written"):
                    verify(changed(call, **{name: Address(region)}), everywhere)


def test_fields_of_another_kind_are_refused(calls: list[tuple[KernelCall, Memory]]) -> None:
    call, memory = calls[0]
    for fields in ({"images": Address(Region.ARENA)}, {"x": 3}, {"nothing": 1}):
        with pytest.raises(CallError):
            verify(changed(call, **fields), memory)
    with pytest.raises(CallError, match="`other` is no kernel"):
        verify(KernelCall("other", {}), memory)


@pytest.mark.parametrize(
    ("operation", "name"),
    [
        *(("convolve", name) for name in ("images", "out_height", "out_width", "channels", "words", "stride_y")),
        *(("real_convolve", name) for name in ("images", "factors")),
        *(("linear", name) for name in ("rows", "factors")),
        *(("gate", name) for name in ("images", "channels", "hidden", "out_channels")),
        *(("combine", name) for name in ("images", "x_channels")),
        *(("pack", name) for name in ("images", "width", "height", "channels", "top", "stride_y")),
        *(("pad", "pixels"), ("pool", "images"), ("sum", "pixels"), ("sum", "channels"), ("average", "parts")),
    ],
)
def test_larger_numbers_are_refused(calls: list[tuple[KernelCall, Memory]], operation: str, name: str) -> None:
    call, memory = next(item for item in calls if item[0].kernel == operation)
    before = call.fields.get(name, 0)
    more = Count(1000, before.per_image) if isinstance(before, Count) else 1000 + before  # type: ignore[operator]
    with pytest.raises(CallError):
        verify(changed(call, **{name: more}), memory)


@pytest.mark.parametrize("groups, outputs, whole", [(2, 24, False), (2, 32, True), (1, 24, True), (24, 1, True)])
def test_signs_of_groups_without_whole_blocks_are_refused(groups: int, outputs: int, whole: bool) -> None:
    channels = groups * outputs
    after = {"after.height": 1, "after.width": 1, "after.channels": channels, "after.out_channels": channels}
    after |= {"after.bits_height": 1, "after.bits_width": 1, "after.bits_words": -(-channels // 16)}
    numbers = dict.fromkeys(("images", "height", "width", "channels", "kernel_height", "kernel_width"), 1)
    numbers |= dict.fromkeys(("stride_y", "stride_x", "dilation_y", "dilation_x"), 1)
    places = {name: Address(Region.CONSTANTS) for name in ("x", "weight", "after.threshold")}
    call = KernelCall(
        "group_convolve", {**numbers, "groups": groups, **after, **places, "after.bits": Address(Region.SIGNS)}
    )
    memory = Memory(dict.fromkeys(Region, 1 << 20), 1)
    section = PlanSection((Plan((call,), bytes(1 << 14), (), 0, Size(), Size(1 << 14), (), (1, 1, 1), False, 1),))
    data = join_sections(b"{}", section.to_bytes(), bytes(1 << 14))
    if whole:
        verify(call, memory)
        native.load(data)
        return
    with pytest.raises(CallError, match="whole blocks"):
        verify(call, memory)
    with pytest.raises(native.RuntimeFileError, match="whole blocks"):
        native.load(data)


@pytest.mark.parametrize("name", ["pad_y", "pad_x", "real_height", "real_width"])
def test_negative_paddings_are_refused(calls: list[tuple[KernelCall, Memory]], name: str) -> None:
    call, memory = next(item for item in calls if item[0].kernel == "convolve")
    with pytest.raises(CallError):
        verify(changed(call, **{name: -3}), memory)
