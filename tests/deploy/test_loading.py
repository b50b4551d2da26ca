"""Loaded networks run the plans of their file: nothing is planned, and no layer is made until it is asked for."""

import copy
import pickle
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.deploy import LoadedNetwork, PackedFileError, PackedInfo, load, pack, save
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.prefix import Prefix, join_sections
from bnn_lightning.deploy.frontend.layers import PackedConv2d
from bnn_lightning.deploy.kernels.library import supported_kernels
from bnn_lightning.deploy.runtime import native
from bnn_lightning.deploy.validate.integrity import verify_file
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import settled

pytestmark = pytest.mark.skipif(not supported_kernels(), reason="needs a compiled kernel")
COPIES: dict[str, Callable[[Any], Any]] = {"deepcopy": copy.deepcopy, "pickle": lambda n: pickle.loads(pickle.dumps(n))}


def save_network(path: Path, size: int = 16, classes: int = 7) -> bytes:
    torch.manual_seed(0)
    network = settled(create_backbone("resnet20", num_classes=classes, image_size=size), torch.rand(4, 3, size, size))
    save(pack(network), path, PackedInfo("net", 3, size))
    return path.read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return save_network(tmp_path_factory.mktemp("loading") / "net.bnn")


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(3, 3, 16, 16)


def with_plan(data: bytes, plan: bytes) -> bytes:
    """Return the file with another plan section."""
    header = Prefix.from_bytes(data).header
    return join_sections(data[header.offset : header.offset + header.size], plan, read_container(data).data)


def is_untouched(network: LoadedNetwork) -> bool:
    """Whether it has planned nothing, and made no tensors."""
    return not network._executor._planned and "_modules" not in vars(network)


@torch.no_grad()
def test_the_plans_of_the_file_run_as_they_are(whole: bytes, images: Tensor) -> None:
    network, planned = load(whole), load(with_plan(whole, b""))
    pixels = (images * 255).to(torch.uint8)
    for batch in (images, pixels, images[:1], pixels[:2], images.double()):
        assert torch.equal(network(batch), planned(batch))
    assert is_untouched(network.eval())
    assert len(planned._executor._planned) == 2
    interpreted = network.run_nodes(images)
    torch.testing.assert_close(network(images), interpreted, rtol=1e-4, atol=1e-4)
    assert not is_untouched(network)


@torch.no_grad()
@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("made", [False, True])
def test_copies_run_the_plans_of_the_file(copied: str, made: bool, whole: bytes, images: Tensor) -> None:
    network = load(whole)
    wanted = network(images)
    if made:
        assert len(network.state_dict()) > 20
    other = COPIES[copied](network)
    assert torch.equal(other(images), wanted)
    assert not other._executor._planned
    assert other.state_dict().keys() == network.state_dict().keys()
    for tensor in other.state_dict().values():
        tensor.zero_()
    assert torch.equal(network.run_nodes(images), load(whole).run_nodes(images))  # tensors are the copy's own


@torch.no_grad()
def test_other_tensors_are_planned_again(whole: bytes, images: Tensor) -> None:
    network = load(whole)
    before, state = network(images), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    changed = {name: 2 * tensor if name.endswith(".scale") else tensor for name, tensor in state.items()}
    network.load_state_dict(changed)
    assert not torch.equal(network(images), before)
    assert torch.equal(copy.deepcopy(network)(images), network(images))
    network.load_state_dict(state)
    assert torch.equal(network(images), before)
    assert torch.equal(load(whole).to("cpu")(images), before)
    assert torch.equal(load(whole).double().float()(images), before)


@torch.no_grad()
def test_threads_that_ask_at_once(whole: bytes, images: Tensor) -> None:
    network, found = load(whole), list[Tensor]()
    wanted = load(whole).run_nodes(images)

    def run() -> None:
        with torch.no_grad():
            found.extend((network.run_nodes(images), network(images)))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(torch.equal(one, wanted) for one in found) >= 4
    assert len(found) == 8


def test_what_is_added_stands_among_the_layers(whole: bytes) -> None:
    names = set(load(whole).state_dict())
    for add in (
        lambda network: setattr(network, "head", nn.Linear(1, 1, bias=False)),
        lambda network: network.register_buffer("head", torch.ones(1)),
        lambda network: network.add_module("head", nn.PReLU()),
    ):
        network = load(whole)
        add(network)
        assert {name.split(".")[0] for name in set(network.state_dict()) - names} == {"head"}
    assert not [module for module in load(whole).eval().modules() if module.training]
    assert not [module for module in load(whole).train().modules() if not module.training]
    with pytest.raises(AttributeError, match="missing"):
        load(whole).missing  # noqa: B018


@torch.no_grad()
def test_plans_of_another_version_are_made_again(whole: bytes, images: Tensor, tmp_path: Path) -> None:
    plan = bytes(read_container(whole).plan)
    data = with_plan(whole, plan[:8] + struct.pack("<I", 1) + plan[12:])
    older = load(data)
    assert torch.equal(older(images), load(whole)(images))
    assert not is_untouched(older)
    file = tmp_path / "net.bnn"
    file.write_bytes(data)
    assert verify_file(file).plans == 0
    file.write_bytes(whole)
    assert verify_file(file).plans == 2


@torch.no_grad()
def test_hooks_of_layers_are_called(whole: bytes, images: Tensor) -> None:
    network, seen = load(whole), list[int]()
    layer = next(layer for layer in network.modules() if isinstance(layer, PackedConv2d))
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    network(images)
    assert seen
    handle.remove()
    assert torch.equal(network(images), load(whole)(images))
    assert len(seen) == 1


@torch.no_grad()
def test_images_whose_sign_torch_has_not_turned_yet(whole: bytes, images: Tensor) -> None:
    assert torch.equal(load(whole)(torch._neg_view(-images)), load(whole)(images))


@pytest.mark.parametrize("what", ["no section", "truncated", "other size", "other classes"])
def test_plans_that_do_not_belong_to_the_graph_are_refused(what: str, whole: bytes, tmp_path: Path) -> None:
    plan = bytes(read_container(whole).plan)
    match what:
        case "no section":
            plan = b"BNNPLAN0" + plan[8:]
        case "truncated":
            plan = plan[:-1]
        case "other size":  # one pixel more than images have would be read
            plan = plan[:16] + struct.pack("<I", 17) + plan[20:]
        case _:
            plan = bytes(read_container(save_network(tmp_path / "other.bnn", classes=5)).plan)
    with pytest.raises(PackedFileError):
        load(with_plan(whole, plan))


NAMES = [
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\xe2\x82",
    b"\xf4\x90\x80\x80",
    b"\x80",
    "\u00e4\u20ac\U0001f600".encode(),
    b"~",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_are_utf8(name: bytes, whole: bytes) -> None:
    plan = bytes(read_container(whole).plan)
    data = with_plan(whole, plan[:28] + struct.pack("<H", len(name)) + name + plan[33:])
    try:
        text = name.decode()
    except UnicodeDecodeError:
        with pytest.raises(PackedFileError):
            load(data)
        with pytest.raises(native.RuntimeFileError):
            native.load(data)
    else:
        load(data)
        assert native.load(data).facts.name == text


@torch.no_grad()
@pytest.mark.slow
def test_compiled_and_exported_before_anything_was_made(whole: bytes, images: Tensor) -> None:
    wanted = load(whole).run_nodes(images)
    exported = torch.export.export(load(whole), (images,)).module()
    torch.testing.assert_close(exported(images), wanted, rtol=1e-4, atol=1e-4)
    network = load(whole)
    compiled = torch.compile(lambda x: network(x), backend="eager")
    torch.testing.assert_close(compiled(images), wanted, rtol=1e-4, atol=1e-4)
