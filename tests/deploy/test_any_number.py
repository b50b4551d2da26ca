"""Networks that compute otherwise for other numbers of images have no graph: packed, they compute what they did."""

import copy
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.export.torch_program import TorchProgramError, write_torch_program
from bnn_lightning.deploy.frontend.any_number import export_for_any_number
from bnn_lightning.deploy.frontend.state import kept_state
from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.layers import BinaryConv2d, BinaryLinear

BINARY: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
Rest = Callable[[nn.Module, Tensor, Tensor], Tensor]


class Network(nn.Module):
    """A binary convolution, and something that follows it.

    Args:
        rest: Computes logits from this module, the result of the convolution, and the images.
        more: Modules that it has besides.
    """

    def __init__(self, rest: Rest, **more: nn.Module) -> None:
        super().__init__()
        self.conv, self.rest = BinaryConv2d(8, 8, 3, padding=1, **BINARY), rest
        for name, module in more.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self, self.conv(x), x)


def images_of(number: int) -> Tensor:
    return torch.randn(number, 8, 4, 6, generator=torch.Generator().manual_seed(number))


BRANCHES: dict[str, Rest] = {
    "more than four": lambda _, y, x: -y if x.shape[0] > 4 else y,
    "one": lambda _, y, x: -y if x.shape[0] == 1 else y,
    "not one": lambda _, y, x: y if x.size(0) != 1 else -y,
    "odd": lambda _, y, x: -y if x.shape[0] % 2 else y,
    "elements": lambda _, y, x: -y if x.numel() > 1000 else y,
    "len": lambda _, y, x: y / len(x),
    "int": lambda _, y, x: y / int(x.shape[0]),
    "each": lambda _, y, x: torch.stack([-image for image in y]),
    "a range": lambda _, y, x: y * sum(range(x.shape[0])),
    "equal shapes": lambda _, y, x: y if y[:1].shape == y.shape else -y,
}


@torch.no_grad()
@pytest.mark.parametrize("name", BRANCHES)
def test_branches_on_the_number_of_images_are_refused(name: str, tmp_path: Path) -> None:
    network = Network(lambda *given: BRANCHES[name](*given).flatten(1)).eval()
    with pytest.raises(GraphError):
        export_for_any_number(network, images_of(2))
    packed = pack(network, images_of(2))
    assert packed.report.unplanned
    for number in (1, 2, 3, 5, 6):
        assert torch.equal(packed(images_of(number)), network(images_of(number)))
    with pytest.raises(ValueError, match="images"):
        save(packed, tmp_path / "net.bnn", PackedInfo("net", 8, (4, 6)))


PLANNED: dict[str, Rest] = {
    "height and width": lambda _, y, x: -y if x.shape[2] > 4 or x.shape[3] == 6 else y,
    "size of the batch": lambda _, y, x: y.view(x.size(0), -1),
    "own shape": lambda _, y, x: y if y.shape == x.shape else -y,
    "at least one": lambda _, y, x: y if x.shape[0] >= 1 else -y,
}


@torch.no_grad()
@pytest.mark.parametrize("name", PLANNED)
def test_networks_for_any_number_of_images_are_planned(name: str, tmp_path: Path) -> None:
    check_plan(Network(lambda *given: PLANNED[name](*given).flatten(1)), tmp_path)


def check_plan(network: nn.Module, folder: Path, *, near: float = 0.0) -> None:
    """Hold a network to its own results, packed and in its file, for several numbers of images.

    Args:
        network: Takes images of `images_of`.
        folder: A folder for its file.
        near: Largest difference of sums in another order; 0 for none.
    """
    network.eval()
    packed = pack(network, images_of(2))
    assert packed.report.unplanned == ""
    save(packed, folder / "net.bnn", PackedInfo("net", 8, (4, 6)))
    loaded = load(folder / "net.bnn")
    for number in (1, 2, 5):
        images = images_of(number)
        assert torch.equal(packed(images), loaded(images))
        wanted = network(images)
        torch.testing.assert_close(packed(images), wanted.reshape(number, -1), rtol=near, atol=near)


class Counting(nn.Module):
    """Logits whose sign turns with the number of calls.

    Args:
        state: The memory of its count.
        count: Counts in it, and returns the number.
    """

    def __init__(self, state: Any, count: Callable[["Counting"], int]) -> None:
        super().__init__()
        self.conv, self.state, self.count = BinaryConv2d(8, 8, 3, padding=1, **BINARY), state, count

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x).flatten(1)
        return -y if self.count(self) % 2 else y


def add_one(network: Counting) -> int:
    network.state += 1
    return int(network.state)


def append(network: Counting) -> int:
    network.state.append(1)
    return len(network.state)


def add_to_item(network: Counting) -> int:
    network.state["calls"] += 1
    return int(network.state["calls"])


def join(network: Counting) -> int:
    network.state = (*network.state, 1)
    return len(network.state)


def join_bytes(network: Counting) -> int:
    network.state += b"1"
    return len(network.state)


def note_first(network: Counting) -> int:
    is_first, network.state = network.state is None, True
    return int(is_first)


def append_tensor(network: Counting) -> int:
    network.state.append(torch.zeros(()))
    return len(network.state)


COUNTERS = {
    "number": (0, add_one),
    "number of numpy": (np.int64(0), add_one),
    "array": (np.zeros(()), add_one),
    "list": ([], append),
    "deque": (deque(), append),
    "items": (Counter(calls=0), add_to_item),
    "bytes": (b"", join_bytes),
    "tensors": ([], append_tensor),
    "item": ({"calls": 0}, add_to_item),
    "tuple": ((), join),
}


@torch.no_grad()
@pytest.mark.parametrize(("state", "count"), [*COUNTERS.values(), (None, note_first)], ids=[*COUNTERS, "first call"])
def test_counters_of_calls_are_refused(state: Any, count: Callable[[Counting], int]) -> None:
    network = Counting(copy.deepcopy(state), count).eval()
    packed, images = pack(network, images_of(2)), images_of(3)
    assert "state" in packed.report.unplanned
    assert packed.network.state == state
    for _ in range(3):
        assert torch.equal(packed(images), network(images))


def write_images(network: Network, y: Tensor, x: Tensor) -> Tensor:
    x.add_(1)
    return y + x


def count_in_buffer(network: Network, y: Tensor, x: Tensor) -> Tensor:
    network.norm.num_batches_tracked += 1  # type: ignore[operator, union-attr]
    return y


@torch.no_grad()
@pytest.mark.parametrize(
    ("rest", "written"), [(write_images, "images"), (count_in_buffer, "`norm.num_batches_tracked`")]
)
def test_networks_that_write_into_tensors_are_refused_by_name(rest: Rest, written: str) -> None:
    network = Network(rest, norm=nn.BatchNorm2d(8)).eval()
    packed, images = pack(network, images_of(2)), images_of(3)
    assert written in packed.report.unplanned
    assert torch.equal(packed(images.clone()), network(images.clone()))


class Remembering(nn.Module):
    """Logits to which those of the call before are added."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = BinaryConv2d(8, 8, 3, padding=1, **BINARY), {"logits": torch.zeros(())}

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x).flatten(1) + self.last["logits"]
        self.last["logits"] = y.mean()
        return y


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The tensor attribute")
def test_tensors_of_the_call_before_are_refused() -> None:
    network = Remembering().eval()
    packed, images = pack(network, images_of(2)), images_of(3)
    assert "last" in packed.report.unplanned
    for _ in range(3):
        assert torch.equal(packed(images), network(images))


def make_buffer(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    if getattr(network, "mask", None) is None:
        network.register_buffer("mask", y.new_full((1, *y.shape[1:]), 2.0), persistent=False)
    return masked(network, y)


def fill_buffer(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    network.mask = network.mask if network.mask is not None else torch.full((1, *y.shape[1:]), 2.0)
    return masked(network, y)


def make_parameter(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    if not hasattr(network, "mask"):
        network.mask = nn.Parameter(torch.full((1, *y.shape[1:]), 2.0))
    return masked(network, y)


def make_module(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    if not hasattr(network, "scale"):
        network.scale = Network(make_buffer)
    return make_buffer(network.scale, y, x)  # type: ignore[arg-type]


def masked(network: nn.Module, y: Tensor) -> Tensor:
    assert isinstance(network.mask, Tensor)
    return (y * network.mask).flatten(1)


@torch.no_grad()
@pytest.mark.parametrize("rest", [make_buffer, fill_buffer, make_parameter, make_module])
def test_tensors_of_the_first_call_are_made_by_a_call_and_not_by_a_trace(rest: Rest, tmp_path: Path) -> None:
    network = Network(rest).eval()
    if rest is fill_buffer:
        network.register_buffer("mask", None)
    torch.manual_seed(0)
    packed = pack(network, images_of(2))
    packed.network.in_channels, packed.network.image_size = 8, (4, 6)  # type: ignore[assignment]
    names = dict(packed.network.named_modules()).keys()
    assert packed.report.packed
    assert dict(packed.network.named_modules()).keys() == names
    assert not hasattr(packed.network, "mask") or packed.network.mask is None
    with suppress(TorchProgramError):
        write_torch_program(packed, tmp_path / "net.pt2")
    for number in (3, 1, 2):
        logits = packed(images_of(number))
        assert type(logits) is Tensor
        assert torch.equal(logits, 2 * packed.network.conv(images_of(number)).flatten(1))  # type: ignore[operator]
        assert torch.equal(logits, network(images_of(number)))


def add_to_tensor(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    assert isinstance(network.state, Tensor)
    network.state[1:].add_(1)
    return (y + network.state[1]).flatten(1)


def add_to_held_tensor(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    state: Any = network.state
    state["sums"][0].add_(1)
    state["calls"].append(1)
    return (y + state["sums"][0]).flatten(1)


STATES: dict[str, tuple[Any, Rest]] = {
    "tensor": (torch.tensor([torch.nan, 0.0]), add_to_tensor),
    "within": ({"sums": (torch.zeros(()),), "calls": []}, add_to_held_tensor),
}


@torch.no_grad()
@pytest.mark.parametrize("name", STATES)
def test_a_trace_does_not_write_into_tensors(name: str) -> None:
    state, rest = copy.deepcopy(STATES[name])
    network = Network(rest).eval()
    network.state = state
    packed = pack(network, images_of(2))
    assert packed.report.unplanned
    for calls in (1, 2, 3):
        logits, plain = packed(images_of(3)), packed.network.conv(images_of(3)).flatten(1)  # type: ignore[operator]
        assert type(logits) is Tensor
        assert torch.equal(logits, plain + calls)
        assert torch.equal(logits, network(images_of(3)))


@torch.no_grad()
def test_a_bound_that_is_a_size_has_no_plan() -> None:
    network = Network(lambda _, y, x: y.clamp(max=x.shape[0]).flatten(1)).eval()
    packed = pack(network, images_of(2))
    assert "clamp" in packed.report.unplanned
    assert torch.equal(packed(images_of(3)), network(images_of(3)))


def cache_width(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    network.width, network.shape, network.maps = x.shape[3], x.shape, [y]  # type: ignore[assignment]
    return y.flatten(1)


@torch.no_grad()
def test_what_every_call_notes_alike_is_no_counter(tmp_path: Path) -> None:
    network = Network(cache_width)
    network.best = float("nan")  # type: ignore[assignment]
    check_plan(network, tmp_path)


@torch.no_grad()
def test_packages_with_a_name_that_begins_like_torch_may_branch() -> None:
    code = "def rest(network, y, x):\n    return (-y if x.shape[0] == 1 else y).flatten(1)"
    defined: dict[str, Any] = {}
    exec(compile(code, f"{Path(torch.__file__).parent}vision/rest.py", "exec"), defined)
    packed = pack(Network(defined["rest"]).eval(), images_of(2))
    assert "torchvision/rest.py:2" in packed.report.unplanned or "vision/rest.py:2" in packed.report.unplanned


def attends(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    rows = tokens(y)
    result: Tensor = network.get_submodule("attention")(rows, rows, rows)[0].flatten(1)
    return result


def recurs(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    result: Tensor = network.get_submodule("recurrent")(tokens(y))[0].flatten(1)
    return result


@torch.no_grad()
@pytest.mark.parametrize("rest", [attends, recurs])
def test_operations_of_torch_may_ask_whether_it_is_one_image(rest: Rest, tmp_path: Path) -> None:
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    network = Network(rest, attention=attention, recurrent=nn.GRU(8, 4, batch_first=True)).eval()
    network.in_channels, network.image_size = 8, (4, 6)  # type: ignore[assignment]
    packed = pack(network, images_of(2))
    write_torch_program(packed, tmp_path / "net.pt2")
    program = torch.export.load(tmp_path / "net.pt2").module()
    for number in (1, 2, 5):
        images = images_of(number)
        assert torch.equal(packed(images), network(images))
        assert torch.equal(program(images), network(images))


def shuffles(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    """A unit of ShuffleNet."""
    n, c, h, w = y.shape
    kept, changed = y.chunk(2, 1)
    joined = torch.cat([kept, changed.relu()], 1)
    return joined.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, -1)


def clamps_a_view(network: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    rows = y.view(x.size(0), -1)
    rows.clamp_(-1, 1)
    return y.view(x.size(0), -1)


def tokens(y: Tensor) -> Tensor:
    return y.flatten(2).transpose(1, 2)


SIZES: dict[str, Rest] = {
    "chunk": lambda _, y, x: torch.cat(y.chunk(2, 1)[::-1], 1).view(x.size(0), -1),
    "contiguous": lambda _, y, x: y.transpose(1, 2).contiguous().view(x.size(0), -1),
    "stack": lambda _, y, x: torch.stack([y, -y], 1).sum(1).view(y.size(0), -1),
    "shuffle": shuffles,
    "clamp of a view": clamps_a_view,
    "product of sizes": lambda _, y, x: y.reshape(x.size(0) * 2, 4, 4, 6).relu().reshape(x.size(0), -1),
    "squeeze": lambda _, y, x: y.amax((2, 3), keepdim=True).squeeze(),
    "nothing to squeeze": lambda _, y, x: y.squeeze().flatten(1),
    "chunk of tokens": lambda m, y, x: torch.cat(m.get_submodule("linear")(tokens(x)).chunk(2, 2), 1).amax(1),
}


@torch.no_grad()
@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_those_of_the_results(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    check_plan(Network(SIZES[name], linear=BinaryLinear(8, 12, **BINARY)), tmp_path)


@torch.no_grad()
@pytest.mark.parametrize("name", ["layer norm", "softmax"])
def test_what_follows_layers_on_tokens_is_planned(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    after = nn.LayerNorm(12) if name == "layer norm" else nn.Softmax(-1)
    network = Network(
        lambda m, y, x: m.get_submodule("after")(m.get_submodule("linear")(tokens(x))).mean(1),
        linear=BinaryLinear(8, 12, **BINARY),
        after=after,
    )
    check_plan(network, tmp_path, near=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("kernel_size", "dilation"), [(3, 1), ((2, 3), (1, 2)), ((3, 4), 1)])
@pytest.mark.filterwarnings("ignore:Using padding")
def test_paddings_have_names(padding: str, kernel_size: Any, dilation: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    real = nn.Conv2d(8, 4, kernel_size, padding=padding, dilation=dilation)
    check_plan(Network(lambda m, y, x: m.get_submodule("real")(y).view(x.size(0), -1), real=real), tmp_path, near=1e-5)


@torch.no_grad()
def test_counters_of_python_keep_what_they_counted(tmp_path: Path) -> None:
    def multiply(network: Network, y: Tensor, x: Tensor) -> Tensor:
        network.seen["height"] = x.shape[2]  # type: ignore[operator, index]
        return y.amax((2, 3)) * network.seen["factor"]  # type: ignore[operator, index]

    network = Network(multiply).eval()
    network.seen = Counter(factor=2, height=4)  # type: ignore[assignment]
    packed = pack(network, images_of(2))
    assert packed.report.unplanned == ""
    assert packed.network.seen == Counter(factor=2, height=4)
    other = torch.rand(3, 8, 5, 7)  # computed layer by layer
    assert torch.equal(packed(other), network(other))


class CountingList(list[int]):
    def append(self, item: int) -> None:
        super().append(item + 1)


def test_containers_with_methods_of_their_own_are_left_alone() -> None:
    network = nn.Linear(2, 2)
    network.seen = CountingList([1, 2])  # type: ignore[assignment]
    with kept_state(network):
        pass
    assert network.seen == [1, 2]
