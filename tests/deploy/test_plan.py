"""Plans compute what the graph computes node by node, to the last bit where torch's own operations do."""

import random
import threading
from typing import Any

import numpy as np
import pytest
import torch

from bnn_lightning.deploy import PackedInfo
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.packed_file import constants_of, write_container
from bnn_lightning.deploy.ir.graph import Array, AttributeValue, Constant, ConstantRef, Graph, Input, Node, Value
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.abi import WORKERS
from bnn_lightning.deploy.planner.plan import Address, KernelCall, Plan, Region
from bnn_lightning.deploy.runtime import network as runtime
from bnn_lightning.deploy.runtime.contexts import PATIENCE
from bnn_lightning.deploy.runtime.network import LoadedNetwork

SIZE = 9
KERNELS = kernels.supported_kernels()
needs_kernel = pytest.mark.skipif(not KERNELS, reason="needs a compiled kernel")


class Writer:
    """Writes a graph, with drawn tensors."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.nodes: list[Node] = []
        self.constants: list[Constant] = []

    def stored(self, values: Array, dtype: str = "f32") -> ConstantRef:
        self.constants.append(Constant.of(str(len(self.constants)), dtype, values.astype(np.float32)))
        return ConstantRef(len(self.constants) - 1)

    def call(self, operation: str, *inputs: Input, **attributes: AttributeValue | None) -> Value:
        given = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(Node(operation, inputs, given))
        return Value(len(self.nodes))

    def conv(self, x: Value, inputs: int, outputs: int, added: Value | None = None, **options: Any) -> Value:
        """A binary convolution that keeps height and width."""
        groups, kernel = options.get("groups", 1), options.get("kernel", 3)
        signs = self.draw.choice([-1.0, 1.0], (outputs, inputs // groups, kernel, kernel))
        given: dict[str, AttributeValue | None] = {"signs": self.stored(signs, "bits")}
        for name in EPILOGUE:
            if name in options.get("parts", ("scale", "bias")):
                given[name] = self.stored(0.2 * self.draw.standard_normal(outputs))
        threshold = options.get("threshold")
        given["threshold"] = None if threshold is None else self.stored(threshold)
        given |= {"padding": [kernel // 2] * 4, "groups": groups, "pad_value": options.get("pad_value", 0)}
        given |= {"low": options.get("low"), "high": options.get("high")}
        return self.call("binary_conv2d", *([x] if added is None else [x, added]), **given)

    def thresholds(self, channels: int) -> Array:
        return 0.3 * self.draw.standard_normal(channels)

    def network(self, channels: int, folder: Any, *rows: tuple[Value, int], last: Value | None = None) -> LoadedNetwork:
        """Return it as loaded from a file: logits from the map `last` (None: the last value), and from `rows`."""
        mean = self.call("mean", Value(len(self.nodes)) if last is None else last, dims=[2, 3])
        logits = self.linear(mean, channels)
        for values, inputs in rows:
            logits = self.call("add", self.linear(values, inputs), logits)
        graph = Graph(tuple(self.nodes), tuple(self.constants))
        header = {"graph": graph.plain(), "info": PackedInfo("net", 3, SIZE).plain()}
        write_container(folder / "net.bnn", header, graph.constants)
        container = read_container(folder / "net.bnn")
        return LoadedNetwork(Graph(graph.nodes, constants_of(container)), PackedInfo("net", 3, SIZE)).eval()

    def linear(self, x: Value, inputs: int) -> Value:
        weight = self.draw.standard_normal((5, inputs)) / inputs**0.5
        return self.call("linear", x, self.stored(weight), self.stored(np.zeros(5)))

    def stem(self, channels: int) -> Value:
        weight = self.draw.standard_normal((channels, 3, 3, 3)) / 3
        return self.call("conv2d", Value(0), self.stored(weight), padding=[1, 1])


def images(number: int = 2) -> torch.Tensor:
    return torch.rand(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def plan_of(network: LoadedNetwork) -> Plan:
    return network.plan()


def calls_of(network: LoadedNetwork) -> list[KernelCall]:
    return [call for call in plan_of(network).calls if isinstance(call, KernelCall)]


def check(network: LoadedNetwork, batch: torch.Tensor | None = None) -> None:
    batch = images() if batch is None else batch
    with torch.no_grad():
        wanted = network.run_nodes(batch)
        for _ in range(2):  # the second call finds memory that was used
            torch.testing.assert_close(network(batch), wanted, rtol=1e-5, atol=1e-5)


def drawn(seed: int, folder: Any) -> LoadedNetwork:
    """A network of binary layers and torch's operations, each reading any map before it."""
    r, writer = random.Random(seed), Writer(seed)
    maps = [(writer.stem(width := r.choice([16, 33, 64, 70])), width)]
    rows: list[tuple[Value, int]] = []
    for _ in range(r.randint(2, 9)):
        (x, inputs), (other, others) = r.choice(maps[-3:]), r.choice(maps)
        kind = r.choice(["conv", "conv", "conv", "conv", "relu", "view", "rows", "cat", "clamp"])
        if kind == "conv":
            outputs = r.choice([16, 32, 48, 64, 100, others, others])
            groups = r.choice([1, 1, 1, *[g for g in (2, 4) if inputs % g == outputs % g == 0]])
            value = writer.conv(
                *(x, inputs, outputs, other if others == outputs and r.random() < 0.7 else None),
                groups=groups,
                kernel=r.choice([1, 3]),
                pad_value=r.choice([0, 0, 1, -1]),
                threshold=r.choice([None, writer.thresholds(inputs), writer.thresholds(inputs)]),
                parts=r.sample(EPILOGUE, r.randint(0, len(EPILOGUE))),
                low=r.choice([None, -1.0]),
                high=r.choice([None, 1.0]),
            )
            maps.append((value, outputs))
        elif kind == "view":  # a view of a map, and back: shares memory with it
            turned = writer.call("permute", x, dims=[0, 1, 3, 2])
            maps.append((turned, inputs))
        elif kind == "rows" and not rows:  # channels last, read when all else is done
            last = writer.call("permute", x, dims=[0, 2, 3, 1])
            rows.append((writer.call("reshape", last, shape=[-1, SIZE * SIZE * inputs]), SIZE * SIZE * inputs))
        elif kind == "cat" and inputs <= 70:
            maps.append((writer.call("cat", x, x, dim=1), 2 * inputs))
        else:
            clamped = kind == "clamp"
            y = writer.call("clamp", x, low=-0.5, high=0.5) if clamped else writer.call("relu", x)
            maps.append((y, inputs))
    return writer.network(maps[-1][1], folder, *rows, last=maps[-1][0])


@needs_kernel
@pytest.mark.parametrize("kernel", KERNELS)
def test_drawn_networks_are_those_of_the_nodes(kernel: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = kernels.Kernel(kernel)
    monkeypatch.setattr(runtime, "current_kernel", lambda: loaded)
    for seed in range(20):
        check(drawn(seed, tmp_path))


@needs_kernel
def test_signs_pass_without_floats(tmp_path: Any) -> None:
    writer = Writer(0)
    x = writer.stem(64)
    for _ in range(3):
        x = writer.conv(x, 64, 64)
    network = writer.network(64, tmp_path)
    calls = calls_of(network)
    binary = [call.fields for call in calls if call.kernel == "convolve"]
    # Two that give signs alone, the last one sums alone; no packing, for the stem gives signs, too.
    assert [("bits" in fields, "sums" in fields, "out" in fields) for fields in binary] == [
        (True, False, False),
        (True, False, False),
        (False, True, False),
    ]
    assert [call.kernel for call in calls] == ["real_convolve", *["convolve"] * 3, "average", "linear"]
    assert "after.out" not in calls[0].fields
    check(network)


@needs_kernel
def test_floats_and_signs_in_one_pass_and_other_thresholds_apart(tmp_path: Any) -> None:
    writer = Writer(1)
    x = writer.conv(writer.stem(64), 64, 64)
    shared = writer.thresholds(64)
    branches = [writer.conv(x, 64, 64, x, threshold=t) for t in (shared, shared, writer.thresholds(64))]
    total = writer.call("add", writer.call("add", branches[0], branches[1]), branches[2])
    assert total.number == 7
    network = writer.network(64, tmp_path)
    producer, *packed = [call for call in calls_of(network) if call.node == 2]
    assert {"out", "bits"} <= set(producer.fields)
    assert [call.kernel for call in packed] == ["pack"]  # two layers share what the producer writes, one has its own
    check(network)


@needs_kernel
def test_a_residual_of_twice_the_same_is_not_copied(tmp_path: Any) -> None:
    writer = Writer(2)
    x = writer.conv(writer.stem(32), 32, 32)
    writer.conv(x, 32, 64, writer.call("cat", x, x, dim=1))
    network = writer.network(64, tmp_path)
    assert all(call.node != 3 for call in calls_of(network))
    assert not plan_of(network).torch_nodes
    check(network)


@needs_kernel
def test_memory_is_shared_by_what_lives_apart(tmp_path: Any) -> None:
    writer = Writer(3)
    x = writer.stem(64)
    for _ in range(8):
        x = writer.conv(x, 64, 64, x)
    plan = plan_of(writer.network(64, tmp_path))
    # A map is written over the one that is added to it; what is averaged at the end are sums of two parts an image.
    assert plan.arena.per_image == 64 * (-(-4 * SIZE**2 * 64 // 64)) + 4 * 2 * 64
    assert plan.arena.fixed == max(call.fields.get("work_size", 0) for call in plan.calls) * WORKERS  # type: ignore[union-attr]
    signs = {call.fields.get("bits", call.fields.get("after.bits")) for call in plan.calls}  # type: ignore[union-attr]
    places = {item for item in signs if isinstance(item, Address)}
    assert len(places) == 2
    assert {place.region for place in places} == {Region.SIGNS}


@needs_kernel
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_may_lie_anyhow(tmp_path: Any, layout: torch.memory_format) -> None:
    network = drawn(5, tmp_path)
    check(network, images(3).contiguous(memory_format=layout))
    check(network, images(6)[::2])
    check(network, images(1))
    pixels = (255 * images()).to(torch.uint8)
    torch.testing.assert_close(network(pixels), network(pixels / 255), rtol=1e-5, atol=1e-5)


@needs_kernel
def test_averages_of_images_in_bytes(tmp_path: Any) -> None:
    write = Writer(0)
    averages = write.call("avg_pool2d", Value(0), kernel_size=[2, 2], stride=[2, 2], ceil_mode=True)
    write.call("conv2d", averages, write.stored(write.draw.standard_normal((16, 3, 1, 1))))
    network = write.network(16, tmp_path)
    pixels = (255 * images()).byte()
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), network.run_nodes(pixels / 255), rtol=1e-5, atol=1e-5)


@needs_kernel
def test_one_plan_serves_every_number_of_images(tmp_path: Any) -> None:
    network = drawn(6, tmp_path)
    plan, wanted = network.plan(), network(images(5))
    for number in (5, 1, 3, 2, 8, 1):
        check(network, images(number))
        assert network.plan() is plan
    for number in range(5):  # in memory that has room for more
        assert torch.equal(network(images(5)[number : number + 1]), wanted[number : number + 1])
    check(network.double().float())


@needs_kernel
@pytest.mark.parametrize("pad_value", [1, -1, 0])
def test_padding_of_signs_is_right_for_fewer_images_too(tmp_path: Any, pad_value: int) -> None:
    writer = Writer(5)
    x = writer.stem(40)
    for _ in range(3):
        x = writer.conv(x, 40, 40, pad_value=pad_value)
    network = writer.network(40, tmp_path)
    for number in (3, 1, 2, 7, 3):
        check(network, images(number))


@needs_kernel
def test_the_memory_of_a_large_call_is_released(tmp_path: Any) -> None:
    network = drawn(6, tmp_path)
    idle = network._executor._contexts
    wanted = network(images(64))
    for number in (16, 3, 65, 2, 64):  # in one context, and in one with more room
        assert torch.equal(network(images(64)[:number]), wanted[:number])
        assert len(idle.idle) == 1
    for _ in range(PATIENCE + 1):
        assert torch.equal(network(images(64)[:5]), wanted[:5])
    assert [context.most for context in idle.idle] == [5]


@needs_kernel
def test_the_plan_is_the_same_for_any_number_of_threads(tmp_path: Any) -> None:
    before, plans = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            plans.append(drawn(6, tmp_path).plan())
    finally:
        torch.set_num_threads(before)
    assert plans[0] == plans[1]


@needs_kernel
def test_threads_have_their_own_memory(tmp_path: Any) -> None:
    network = drawn(7, tmp_path)
    batches = [images(2) * (number + 1) / 8 for number in range(8)]
    wanted = [network.run_nodes(batch) for batch in batches]
    found: dict[tuple[int, int], torch.Tensor] = {}

    def work(number: int) -> None:
        for turn in range(20):
            found[number, turn] = network(batches[number])

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 160
    for (number, _), logits in found.items():
        torch.testing.assert_close(logits, wanted[number], rtol=1e-5, atol=1e-5)


@needs_kernel
def test_the_output_is_the_callers_own(tmp_path: Any) -> None:
    network = drawn(8, tmp_path)
    first = network(images())
    kept = first.clone()
    network(1 - images())
    assert torch.equal(first, kept)
