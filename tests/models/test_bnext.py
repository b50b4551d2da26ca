"""BNext: counts of the specification, options, blocks by themselves. The arithmetic is in test_bnext_reference.py."""

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import RSign, TemperatureSign
from bnn_lightning.layers import ChannelBlend, SqueezeExcite, binary_layers, is_binary
from bnn_lightning.metrics import count_ops
from bnn_lightning.models import BNextConv, create_backbone
from bnn_lightning.models.blocks import layer_factory
from tests.small_networks import small_options

SIZES = ("bnext_tiny", "bnext_small", "bnext_middle", "bnext_large")
NAMES = (*SIZES, "bnext18")
# Specification 1.4: parameters, binary weights, dead parameters (made by the published code and never used),
# binary MACs, stem + SE + FC (+ shortcut) MACs, binary convolutions.
IMAGENET = {
    "bnext_tiny": (30_862_236, 28_253_184, 8_960, 4.8169, 13.3445, 31),
    "bnext_small": (68_594_614, 63_569_664, 13_440, 10.8380, 21.1286, 31),
    "bnext_middle": (134_501_974, 126_238_464, 22_080, 20.0865, 24.2621, 47),
    "bnext_large": (326_546_640, 308_310_016, 41_728, 52.1509, 39.4189, 63),
    "bnext18": (12_064_648, 10_985_472, 1_920, 1.6763, 138.1417, 16),
}
# Parameters with 10 and with 100 classes, binary MACs.
CIFAR = {
    "bnext_tiny": (29_847_486, 29_939_736, 0.39322),
    "bnext_small": (67_072_984, 67_211_314, 0.88474),
    "bnext_middle": (132_980_344, 133_118_674, 1.63971),
    "bnext_large": (324_518_130, 324_702_540, 4.25722),
    "bnext18": (11_549_098, 11_595_268, 0.54736),
}


def meta(name, classes, size, **options):
    with torch.device("meta"):
        return create_backbone(name, num_classes=classes, image_size=size, **options)


@pytest.mark.parametrize("name", NAMES)
def test_counts_on_imagenet(name):
    parameters, binary, dead, binary_macs, float_macs, convs = IMAGENET[name]
    network = meta(name, 1000, 224)
    count = count_ops(network, (3, 224, 224))
    assert count.parameters + dead == parameters
    assert count.binary_weights == binary
    assert count.binary_macs / 1e9 == pytest.approx(binary_macs, abs=5e-5)
    assert count.float_macs / 1e6 == pytest.approx(float_macs, abs=5e-5)
    assert count.mixed_macs == 0
    assert len(binary_layers(network)) == convs


@pytest.mark.parametrize("name", NAMES)
def test_counts_on_cifar(name):
    with_10, with_100, binary_macs = CIFAR[name]
    for classes, parameters in ((10, with_10), (100, with_100)):
        count = count_ops(meta(name, classes, 32), (3, 32, 32))
        assert count.parameters + IMAGENET[name][2] == parameters
        assert count.binary_macs / 1e9 == pytest.approx(binary_macs, abs=5e-6)
    macs = {"bnext_tiny": 2.470, "bnext18": 8.460}.get(name)
    assert macs is None or count.float_macs / 1e6 == pytest.approx(macs, abs=5e-4)


@pytest.mark.parametrize("name", SIZES)
def test_closed_forms(name):
    """Specification 1.4, block by block, less the slopes of units that do not multiply."""
    network = meta(name, 10, 32)
    widths = [network.conv1.out_channels]
    for number, block in enumerate(network.blocks, start=1):
        c, m = widths[-1], len(block.pointwise)
        dead = c * (m + (number % 2 == 1 or number == 1))
        assert sum(p.numel() for p in block.parameters()) + dead == 9.25 * c**2 + 9.125 * c + m * (
            1.25 * c**2 + 9.125 * c
        )
        widths.append(m * c)
    assert widths[-1] == network.num_features
    lists = {
        "bnext_tiny": [32, 64, *[128] * 2, *[256] * 2, *[512] * 6, *[1024] * 2],
        "bnext_small": [48, 96, *[192] * 2, *[384] * 2, *[768] * 6, *[1536] * 2],
        "bnext_middle": [48, 96, *[192] * 4, *[384] * 4, *[768] * 8, *[1536] * 4],
        "bnext_large": [64, 128, *[256] * 4, *[512] * 4, *[1024] * 16, *[2048] * 4],
    }
    assert widths == lists[name]


@pytest.mark.parametrize(
    ("options", "parameters", "known_dead"),
    [
        ({}, 30_862_236, 8_960),
        ({"elm": False}, 30_862_236, 8_960 + 1_984),
        ({"recoupling": False}, 29_356_552, None),
        ({"elm": False, "recoupling": False}, 29_356_552, None),
    ],
)
def test_ablations(options, parameters, known_dead):
    network = meta("bnext_tiny", 1000, 224, **options)
    count = count_ops(network, (3, 224, 224))
    elm, recoupling = options.get("elm", True), options.get("recoupling", True)
    units = [m for m in network.modules() if hasattr(m, "mix_shortcut")]
    kinds = [(unit.act is not None, unit.conv.conv.in_channels) for unit in units]
    # PReLU1 of the units that do not multiply, the stem's, and without recoupling their second batch norm.
    dead = 32 + sum(c * (1 if recoupling else 3) for multiplies, c in kinds if not multiplies)
    assert count.parameters + dead == parameters
    assert known_dead is None or dead == known_dead
    assert sum(multiplies for multiplies, _ in kinds) == (6 if elm else 0)
    assert any(isinstance(m, SqueezeExcite) for m in network.modules()) == recoupling
    assert any(isinstance(m, ChannelBlend) for m in network.modules()) == recoupling
    assert count.binary_macs == 4_816_896_000
    if not recoupling:
        assert count.float_macs / 1e6 == pytest.approx(11.862, abs=5e-4)


@pytest.mark.parametrize("name", NAMES)
def test_least_image_sizes(name):
    for stem, least in (("cifar", 5 if name == "bnext18" else 9), ("imagenet", 17)):
        assert meta(name, 2, least, stem=stem)(torch.empty(2, 3, least, least, device="meta")).shape == (2, 2)
        with pytest.raises(ValueError, match=f"`image_size` must be at least {least} for `{name}`, got {least - 1}"):
            meta(name, 2, least - 1, stem=stem)


@pytest.mark.parametrize("name", ["bnext_tiny", "bnext18"])
def test_the_stem_is_an_option_and_not_a_question_of_the_classes(name):
    factor = 4 if name == "bnext18" else 2
    for classes in (100, 1000):
        sizes = {}
        for stem in ("imagenet", "cifar", None):
            for size in (64, 96):
                network = meta(name, classes, size, stem=stem, **small_options(name))
                sizes[stem, size] = network.forward_features(torch.empty(1, 3, size, size, device="meta")).shape[-1]
        assert sizes["cifar", 96] == factor * sizes["imagenet", 96]
        assert sizes[None, 64] == sizes["cifar", 64]
        assert sizes[None, 96] == sizes["imagenet", 96]


@pytest.mark.parametrize("name", ["bnext_tiny", "bnext18"])
def test_odd_and_other_sizes(name):
    network = create_backbone(name, num_classes=3, image_size=32, width=8).eval()
    assert network(torch.rand(1, 3, 41, 29)).shape == (1, 3)


def test_defaults_are_the_papers():
    network = create_backbone("bnext_tiny", num_classes=10, in_channels=6, image_size=32, width=8)
    for layer in binary_layers(network).values():
        assert (type(layer.input_binarizer), type(layer.weight_binarizer)) == (RSign, TemperatureSign)
        assert (layer.input_binarizer.surrogate, layer.input_binarizer.clip) == ("sign_ste", 1.5)
        assert layer.weight_binarizer.clip == float("inf")
        assert layer.in_channels == layer.out_channels
        assert layer.pad_value == 0.0
        assert layer.weight.std().item() == pytest.approx(1e-3, rel=0.5)
    slopes = [m for m in network.modules() if isinstance(m, nn.PReLU)]
    assert all((m.weight == 0.25).all() for m in slopes)
    assert all((m.scale == 0.5).all() for m in network.modules() if isinstance(m, ChannelBlend))
    assert not is_binary(network)


def test_bnext18_is_binary_from_epoch_110_of_512():
    binarizer = next(iter(binary_layers(meta("bnext18", 10, 32)).values())).weight_binarizer
    for epoch in (0, 109, 110, 511):
        binarizer.set_progress(epoch / 512)
        assert binarizer.is_binary == (0.9**epoch < 1e-5) == (epoch >= 110)


def test_latent_deviation_is_an_option():
    network = create_backbone("bnext18", num_classes=10, image_size=32, width=8, latent_std=0.5)
    weights = torch.cat([layer.weight.flatten() for layer in binary_layers(network).values()])
    assert weights.std().item() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depths": ()}, "`depths` must have a number of blocks for each stage of `bnext_tiny`, got none"),
        ({"depths": (1, 0)}, "`depths` must be at least 1 for `bnext_tiny`, got 0"),
        ({"stem": "vit"}, '`stem` must be "imagenet", "cifar" or null .*, got \'vit\''),
        ({"width": 0}, "`width` must be at least 1 for `bnext_tiny`, got 0"),
        ({"latent_std": 0.0}, r"`latent_std` must be positive, got 0\.0"),
        ({"se_bits": 0}, "`se_bits` must be a whole number between 1 and 16, got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        meta("bnext_tiny", 10, 32, **options)


@pytest.mark.parametrize("recoupling", [True, False])
def test_the_convolution_module_can_be_built_alone(recoupling):
    layers = layer_factory(True, None, None, defaults=("SignSTE", "TemperatureSign"))
    module = BNextConv(8, 16, 3, 2, layers=layers, recoupling=recoupling)
    x = torch.randn(2, 8, 9, 9)
    if not recoupling:
        assert module(x).shape == (2, 16, 5, 5)
        return
    r = torch.randn(2, 16, 5, 5)
    u = module.act(module.norm(module.conv(x)))
    blended = 0.5 * r + 0.5 * u
    torch.testing.assert_close(module(x, r), u * module.gate(blended))
    square = BNextConv(8, 8, 3, 2, layers=layers)
    for x in (torch.randn(2, 8, *size) for size in ((9, 9), (8, 6), (8, 7), (1, 1))):
        torch.testing.assert_close(square(x), square(x, torch.nn.functional.avg_pool2d(x, 2, ceil_mode=True)))
