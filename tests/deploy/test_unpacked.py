"""Without kernels, layers keep their signs as floats: the results of the operations, and nothing stale."""

import copy
import pickle
import random
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from bnn_lightning.deploy import pack
from bnn_lightning.deploy.frontend import layers as modules
from bnn_lightning.deploy.frontend import torch_library as ops
from bnn_lightning.deploy.frontend.layers import PackedConv2d
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.models import create_backbone


@pytest.fixture(autouse=True)
def without_kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (modules, ops):
        monkeypatch.setattr(module, "current_kernel", lambda: None)
    with torch.no_grad():
        yield


def signs_of(*shape: int) -> torch.Tensor:
    return torch.where(torch.rand(*shape) < 0.5, -1.0, 1.0)


@pytest.mark.parametrize("seed", range(40))
def test_layers_are_convolutions_of_signs(seed: int) -> None:
    torch.manual_seed(seed)
    r = random.Random(seed)
    groups, inputs, outputs = r.choice([1, 1, 2]), r.choice([1, 3, 33]), r.choice([1, 5, 20])
    signs = signs_of(groups * outputs, inputs, r.randint(1, 3), r.randint(1, 3))
    stride, padding, value = (
        (r.randint(1, 2), r.randint(1, 2)),
        tuple(r.randint(0, 2) for _ in range(4)),
        r.choice([0, 1, -1]),
    )
    threshold = 0.3 * torch.randn(groups * inputs)
    layer = PackedConv2d(signs, stride=stride, padding=padding, groups=groups, pad_value=value, threshold=threshold)
    epilogue = {name: torch.randn(groups * outputs) for name in EPILOGUE}
    for name in ("pull", "center"):  # they stand before sums
        epilogue[name] *= 0.1
    for name, values in epilogue.items():
        setattr(layer, name, layer.spread(values))
    layer.low, layer.high = -1.5, 2.5
    x = torch.randn(2, groups * inputs, 6, 7)
    x = x.contiguous(memory_format=torch.channels_last) if r.random() < 0.5 else x
    top, bottom, left, right = padding
    inside = torch.where(x >= threshold.view(-1, 1, 1), 1.0, -1.0).contiguous()
    around = (left, right, top, bottom)
    t = F.conv2d(F.pad(inside, around, value=value), signs, None, stride, 0, 1, groups)
    ones = F.conv2d(F.pad(inside, around, value=value), torch.ones_like(signs), None, stride, 0, 1, groups)
    taken = F.pad(torch.ones_like(inside), around, value=float(value != 0))  # what is padded with zeros is no tap
    taps, factors = (F.conv2d(taken, w, None, stride, 0, 1, groups) for w in (signs, torch.ones_like(signs)))
    added, of = torch.randn_like(t), {name: values.view(-1, 1, 1) for name, values in epilogue.items()}
    t = t * of["gain"] + of["pull"] * ones + of["center"] * (taps * of["tap_scale"] + of["tap_offset"] * factors)
    t = torch.maximum(t + of["offset"], of["floor"]) * of["scale"] + of["bias"] + added + of["lift"]
    wanted = (torch.where(t > 0, t, t * of["slope"]) + of["shift"]).clamp(-1.5, 2.5)
    for _ in range(2):
        found = layer(x, added)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        # The format of torch's own convolution.
        of_torch = F.conv2d(F.pad(x, around), signs, None, stride, 0, 1, groups)
        for layout in (torch.contiguous_format, torch.channels_last):
            assert found.is_contiguous(memory_format=layout) == of_torch.is_contiguous(memory_format=layout)
    with pytest.raises(RuntimeError, match="what is added must"):
        layer(x, torch.randn(3))
    for dtype, near in ((torch.float64, 1e-5), (torch.bfloat16, 0.2)):
        found = copy.deepcopy(layer).to(dtype)(torch.where(inside > 0, 2.0, -2.0).to(dtype), added.to(dtype))
        assert found.dtype == dtype
        torch.testing.assert_close(found.float(), wanted, rtol=near, atol=near)


def test_signs_are_kept_until_the_weights_change() -> None:
    torch.manual_seed(0)
    signs = signs_of(8, 16, 3, 3)
    layer, other, x = PackedConv2d(signs), PackedConv2d(-signs), torch.randn(1, 16, 5, 5)
    state = layer.state_dict()
    first = layer(x)
    assert layer._unpacked.num_bytes == 4 * signs.numel()
    held = [layer._unpacked.signs(layer.weight, lambda: layer.binary_weight) for _ in range(2)]
    assert held[0] is held[1]
    assert layer.state_dict().keys() == state.keys()
    layer.load_state_dict(other.state_dict())
    torch.testing.assert_close(layer(x), -first, rtol=0, atol=0)
    layer.weight = PackedConv2d(signs).weight
    torch.testing.assert_close(layer(x), first, rtol=0, atol=0)
    layer.to(torch.device("cpu"))
    assert not layer._unpacked.num_bytes
    with torch.inference_mode():
        made = PackedConv2d(signs)
        torch.testing.assert_close(made(x), first, rtol=0, atol=0)


def test_copies_begin_without() -> None:
    layer = PackedConv2d(signs_of(8, 16, 3, 3))
    layer(torch.randn(1, 16, 5, 5))
    assert not copy.deepcopy(layer)._unpacked.num_bytes
    assert not pickle.loads(pickle.dumps(layer))._unpacked.num_bytes


def test_networks_and_what_is_traced_of_them() -> None:
    network = create_backbone("resnet20", num_classes=10, image_size=32, width=16).eval()
    packed, images = pack(network), torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(packed(images), network(images), rtol=1e-4, atol=1e-4)
    traced = torch.export.export(packed, (images,))
    assert sum(node.target is torch.ops.bnn_lightning.binary_conv2d.default for node in traced.graph.nodes) == 18
