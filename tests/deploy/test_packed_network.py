"""Packed networks run by a plan, with the bits of its file, and follows its tensors."""

import copy
import os
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.deploy import LoadedNetwork, PackedInfo, PackedNetwork, load, pack, save
from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.deploy.kernels.library import supported_kernels
from tests.deploy.test_convert import conv, settled

pytestmark = pytest.mark.skipif(not supported_kernels(), reason="needs a compiled kernel")
COPIES: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": lambda n: pickle.loads(pickle.dumps(n))}
IMAGES = torch.rand(3, 3, 8, 8)


class Small(nn.Module):
    """One binary layer between real ones; its batch norm, sum and activation are folded."""

    in_channels, image_size = 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), conv(4, 4), nn.BatchNorm2d(4)
        self.act, self.out = nn.PReLU(4), nn.Linear(4, 7)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(self.act(self.norm(self.conv(x)) + x).mean((2, 3)))  # type: ignore[no-any-return]


def small() -> nn.Module:
    torch.manual_seed(0)
    return settled(Small(), torch.rand(4, 3, 8, 8))


@pytest.fixture(scope="module")
def captured() -> PackedNetwork:
    """A network that was captured; copy it before its tensors are changed."""
    packed = pack(small())
    assert packed.program() is not None
    return packed


def file_of(packed: PackedNetwork, folder: Path) -> LoadedNetwork:
    save(packed, folder / "net.bnn", PackedInfo("net", 3, 8))
    return load(folder / "net.bnn")


@torch.no_grad()
def test_has_the_bits_of_its_file(captured: PackedNetwork, tmp_path: Path) -> None:
    loaded, pixels = file_of(captured, tmp_path), (IMAGES * 255).to(torch.uint8)
    for images in (IMAGES, IMAGES[:1], pixels, pixels[:2]):
        assert torch.equal(captured(images), loaded(images))
    with torch.inference_mode():
        assert torch.equal(captured(IMAGES), loaded(IMAGES))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(captured(IMAGES), loaded(IMAGES))


@torch.no_grad()
def test_other_sizes_and_training_run_in_torch() -> None:
    captured = pack(small())
    captured(IMAGES)
    larger = torch.rand(2, 3, 10, 10)
    assert torch.equal(captured(larger), captured.run_layers(larger))
    captured.train()
    assert torch.equal(captured(IMAGES), captured.run_layers(IMAGES))
    assert not captured.eval().network.training
    torch.testing.assert_close(captured(IMAGES), captured.run_layers(IMAGES))  # with the statistics that it has now
    assert captured(IMAGES[:0]).shape == (0, 7)


def change_in_place(packed: PackedNetwork) -> None:
    packed.network.get_parameter("out.bias").add_(1)


def change_batch_norm(packed: PackedNetwork) -> None:
    packed.network.get_buffer("norm.running_mean").add_(1)


def change_memory(packed: PackedNetwork) -> None:
    bias = packed.network.get_parameter("out.bias")
    bias.data = bias + 1


def replace_parameter(packed: PackedNetwork) -> None:
    head = packed.network.get_submodule("out")
    head.bias = nn.Parameter(head.bias + 1)


def replace_module(packed: PackedNetwork) -> None:
    packed.network.out = nn.Linear(4, 7)


def load_state(packed: PackedNetwork) -> None:
    state = packed.state_dict()
    packed.load_state_dict({**state, "network.out.weight": 2 * state["network.out.weight"]})


def change_in_inference_mode(packed: PackedNetwork) -> None:
    with torch.inference_mode():
        packed.network.get_parameter("out.bias").add_(1)


CHANGES = [
    change_in_place,
    change_batch_norm,
    change_memory,
    replace_parameter,
    replace_module,
    load_state,
    change_in_inference_mode,
]


@torch.no_grad()
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change: Callable[[PackedNetwork], None]) -> None:
    packed = pack(small())
    before = packed(IMAGES)
    change(packed)
    after = packed(IMAGES)
    torch.testing.assert_close(after, packed.run_layers(IMAGES), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(after, before)


@torch.no_grad()
def test_what_changes_nothing_plans_nothing(captured: PackedNetwork) -> None:
    packed = copy.deepcopy(captured)
    packed(IMAGES)
    program = packed.program()
    packed.to("cpu").eval().float()
    packed(IMAGES)
    assert packed.program() is program


@torch.no_grad()
@pytest.mark.parametrize("name", COPIES)
def test_copies_have_tensors_of_their_own(name: str, captured: PackedNetwork) -> None:
    wanted = captured(IMAGES)
    other = COPIES[name](captured)
    assert torch.equal(other(IMAGES), wanted)
    change_in_place(other)
    torch.testing.assert_close(other(IMAGES), wanted + 1)
    assert torch.equal(captured(IMAGES), wanted)


@torch.no_grad()
def test_other_precisions_run_in_torch_and_come_back(captured: PackedNetwork) -> None:
    packed = copy.deepcopy(captured).double()
    assert packed(IMAGES.double()).dtype == torch.float64
    assert "float32" in packed.report.unplanned
    assert torch.equal(packed.float()(IMAGES), captured(IMAGES))


@torch.no_grad()
def test_hooks_within_are_called(captured: PackedNetwork) -> None:
    packed, seen = copy.deepcopy(captured), list[int]()
    handle = packed.network.get_submodule("conv").register_forward_hook(lambda *_: seen.append(1))
    packed(IMAGES)
    assert seen == [1]
    assert "hooks" in packed.report.unplanned
    handle.remove()
    seen.clear()
    assert torch.equal(packed(IMAGES), captured(IMAGES))
    assert not seen


@torch.no_grad()
def test_files_hold_the_hooks_of_their_time(captured: PackedNetwork, tmp_path: Path) -> None:
    packed = copy.deepcopy(captured)
    assert torch.equal(packed(IMAGES), captured(IMAGES))
    handle = packed.network.get_submodule("conv").register_forward_hook(lambda module, inputs, output: output * 3)
    assert not torch.equal(packed(IMAGES), captured(IMAGES))
    torch.testing.assert_close(file_of(packed, tmp_path)(IMAGES), packed(IMAGES))
    handle.remove()
    assert torch.equal(packed(IMAGES), captured(IMAGES))
    assert torch.equal(file_of(packed, tmp_path)(IMAGES), captured(IMAGES))
    packed.register_forward_hook(lambda module, inputs, output: output * 2)
    with pytest.raises(GraphError, match="hooks"):
        packed.graph((3, 8, 8))


@torch.no_grad()
def test_modules_within_may_train(captured: PackedNetwork) -> None:
    packed = pack(nn.Sequential(small(), nn.Dropout(0.5)).eval(), IMAGES)
    info, wanted = PackedInfo("small", 3, IMAGES.shape[-2:]), packed(IMAGES)
    dropout = packed.get_submodule("network.1").train()
    assert not torch.equal(packed(IMAGES), packed(IMAGES))
    assert "training mode" in packed.report.unplanned
    with pytest.raises(GraphError, match="training mode"):
        packed.graph(info.shape)
    dropout.eval()
    assert not packed.report.unplanned
    assert torch.equal(packed(IMAGES), wanted)


@torch.no_grad()
def test_threads_that_call_first(captured: PackedNetwork) -> None:
    packed, found = pack(small()), list[Tensor]()

    def run() -> None:
        with torch.no_grad():
            found.append(packed(IMAGES))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for one in (*found, packed(IMAGES)):
        assert torch.equal(one, captured(IMAGES))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Nothing forks here.")
@torch.no_grad()
def test_a_child_that_is_forked(captured: PackedNetwork) -> None:
    wanted, threads = captured(IMAGES), torch.get_num_threads()
    torch.set_num_threads(1)  # the pool of OpenMP does not live on in a child
    try:
        child = os.fork()
        if not child:
            os._exit(0 if torch.equal(captured(IMAGES), wanted) else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        torch.set_num_threads(threads)


def test_compilers_see_the_layers(captured: PackedNetwork) -> None:
    packed = pack(small())
    with torch.no_grad():
        packed(IMAGES)  # by a plan
        compiled = torch.compile(packed, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(IMAGES), captured(IMAGES), rtol=1e-4, atol=1e-4)
        program = torch.export.export(captured, (IMAGES,))
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert "bnn_lightning.binary_conv2d.default" in called


class Unknown(nn.Module):
    """A cumulative sum and a sorting, which no graph has."""

    in_channels, image_size = 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.sort = conv(3, 4), Sort()

    def forward(self, x: Tensor) -> Tensor:
        return self.sort(self.conv(x).cumsum(1)).mean((2, 3))


class Sort(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(1).values


class Rolled(nn.Module):
    """A product with the images, of which a part is repeated: an operation of graphs without a kernel."""

    in_channels, image_size = 3, 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pad = conv(3, 4), nn.ReflectionPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pad(self.conv(x)).mean((2, 3))


def test_the_report_says_what_stays_in_torch() -> None:
    packed, images = pack(Unknown().eval()), torch.rand(2, 3, 8, 8)
    unplanned = packed.report.unplanned
    assert "cumsum" in unplanned
    assert "sort" in unplanned
    assert f"NO PLAN, torch runs it layer by layer, which is slower: {unplanned}" in str(packed.report)
    with torch.no_grad():
        assert torch.equal(packed(images), packed.run_layers(images))
        rolled = pack(Rolled().eval())
        assert list(rolled.report.in_torch) == ["pad"]
        assert rolled.report.unplanned == ""
        torch.testing.assert_close(rolled(images), rolled.run_layers(images))
