"""Calls of the binary kernels and what is derived of packed weights, held to torch's own packing and convolution."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.binary_conv import SignConv2d, pack_signs, signs_of_words, weight_words
from bnn_lightning.deploy.kernels.call import Region
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.derive import compute
from bnn_lightning.deploy.kernels.layout import Map, spread
from bnn_lightning.deploy.planner.lowering import Signs
from bnn_lightning.functional import pack
from tests.deploy import called

# Groups, output and input channels of a group: with words and blocks that are filled, and that are not.
CHANNELS = [(1, 16, 32), (1, 64, 64), (1, 20, 40), (2, 16, 32), (2, 24, 20), (3, 5, 33)]


def drawn(groups: int, outputs: int, inputs: int, kernel: int = 3) -> torch.Tensor:
    torch.manual_seed(groups + outputs + inputs)
    return torch.randint(0, 2, (groups * outputs, inputs, kernel, kernel)).float() * 2 - 1


@pytest.mark.parametrize(("groups", "outputs", "inputs"), CHANNELS)
def test_weights_and_tap_sums_are_those_of_torch(groups: int, outputs: int, inputs: int) -> None:
    signs = drawn(groups, outputs, inputs)
    words = pack.pack_weight(signs, groups=groups).numpy().view(np.uint32)
    assert np.array_equal(weight_words(signs.numpy(), groups), words)
    assert np.array_equal(signs_of_words(words, outputs, inputs), signs.numpy().reshape(-1, inputs, 9))
    section, layer = ConstantSection(), SignConv2d(signs.numpy(), padding=(1, 1, 1, 1), groups=groups, constant=7)
    map_shape = (groups * inputs, 5, 5)
    call = layer.call(section, called.place(torch.zeros(1)), map_shape, None)
    memory = np.zeros(section.derived_size, np.uint8)
    compute(tuple(section.derived), np.frombuffer(bytes(section.data), np.uint8), memory)
    filled = outputs % 16 == 0 and inputs % 32 == 0
    assert section.placements[7].layout == ("words" if filled else "bits")
    weight, sums = call.fields["weight"], call.fields["tap_sums"]
    assert weight.region == (Region.CONSTANTS if filled else Region.DERIVED)  # type: ignore[union-attr]
    if not filled:
        begin = weight.offset  # type: ignore[union-attr]
        assert np.array_equal(memory[begin : begin + words.nbytes].view(np.uint32), words.ravel())
    wanted = pack.tap_sums(signs, groups=groups).numpy()
    begin = sums.offset  # type: ignore[union-attr]
    assert np.array_equal(memory[begin : begin + wanted.nbytes].view(np.int32), wanted.ravel())


@pytest.mark.parametrize("name", kernels.supported_kernels())
@pytest.mark.parametrize(("groups", "outputs", "inputs"), CHANNELS)
@pytest.mark.parametrize("pad_value", [0, -1, 1])
def test_convolutions_of_packed_maps(name: str, groups: int, outputs: int, inputs: int, pad_value: int) -> None:
    signs, kernel, images = drawn(groups, outputs, inputs), kernels.Kernel(name), 2
    x = called.last(torch.randn(images, groups * inputs, 7, 6))
    threshold = 0.3 * torch.randn(groups * inputs)
    padding, section = (1, 2, 0, 1), ConstantSection()
    scale, bias = torch.rand(groups * outputs), torch.randn(groups * outputs)
    parameters = {"scale": scale.numpy(), "bias": bias.numpy()}
    layer = SignConv2d(signs.numpy(), (2, 1), padding, (1, 2), groups, pad_value, parameters)
    shape = (groups * inputs, 7, 6)
    packed = Signs(0, shape, threshold.numpy().tobytes(), groups, padding, ones=pad_value == 1)
    words = torch.full((images * packed.size // 4,), -1 if pad_value == 1 else 0, dtype=torch.int32)
    if inputs % 32 and pad_value == 1:  # bits that are left over are 0
        pixel = pack.pack_activations(torch.ones(1, groups * inputs, 1, 1), groups=groups).flatten()
        words = pixel.repeat(len(words) // len(pixel))
    place = packed.at(called.place(words))
    out = called.new(images, layer.out_shape(shape))
    called.run(
        pack_signs(section, Map(called.place(x), shape), threshold.numpy(), groups, place), section, images, kernel
    )
    target = Map(called.place(out), layer.out_shape(shape))
    called.run(layer.call(section, place.address, shape, target), section, images, kernel)
    top, bottom, left, right = padding
    binary = torch.where(x >= threshold.view(-1, 1, 1), 1.0, -1.0)
    binary = F.pad(binary, (left, right, top, bottom), value=float(pad_value))
    wanted = F.conv2d(binary, signs, None, (2, 1), 0, (1, 2), groups)
    wanted = torch.addcmul(bias.view(-1, 1, 1), wanted, scale.view(-1, 1, 1))
    torch.testing.assert_close(out, wanted, rtol=1e-6, atol=1e-5)


def test_equal_constants_are_there_once() -> None:
    section = ConstantSection()
    first = section.add(np.arange(5.0), of=1, layout="dense")
    assert section.add(np.arange(5.0), of=2, layout="dense") == first
    assert section.add(np.arange(6.0)) != first
    assert section.placements[1] == section.placements[2]
    assert section.add(np.arange(6.0)).offset % 64 == 0


def test_values_are_spread_as_torch_spreads_them() -> None:
    values = torch.randn(3, 40)
    wanted = pack.spread(values, groups=2, fill=3.0)
    assert np.array_equal(spread(values.numpy(), groups=2, fill=3.0), wanted.numpy())
