"""Properties of every registered network; counts are those of the specification."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import Libra, SignEDE, SignIdentity, SignSTE, WeightSign, binarizer_factory
from bnn_lightning.layers import BinaryConv2d, LearnableBias, SqueezeExcite, binary_layers
from bnn_lightning.models import create_backbone
from bnn_lightning.models.blocks import pad_shortcut

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import ONE_OF_EACH, small_options

# (channels, size) of digits as they are and enlarged, of MNIST and of CIFAR.
SHAPES = [(1, 8), (1, 28), (1, 32), (3, 32)]
# Below these a stage would halve a single pixel.
MINIMUM = {
    "binary_alexnet": 15,
    "binary_resnet_e18": 29,
    "binarydensenet28": 29,
    "binarydensenet37": 29,
    "binarydensenet45": 29,
    "birealnet18": 17,
    "birealnet34": 17,
    "bnext18": 5,
    "meliusnet22": 17,
    "mlp": 1,
    "quicknet": 29,
    "quicknet_large": 29,
    "quicknet_small": 29,
    "reactnet18": 17,
    "reactnet34": 17,
    "reactnet_a": 17,
    "real2binary18": 17,
    "resnet18": 5,
    "resnet18_adabin": 5,
    "resnet18_double_skip": 17,
    "resnet20": 3,
    "resnet20_adabin": 3,
    "vgg_small": 8,
    "vgg_small_adabin": 8,
    "xnornet18": 17,
}
NUM_BINARY = {"bnext18": 16, "mlp": 3, "resnet18": 16, "resnet18_double_skip": 16, "resnet20": 18, "vgg_small": 5}


def build(name, *, channels=3, size=32, **options):
    torch.manual_seed(0)
    return create_backbone(name, num_classes=10, in_channels=channels, image_size=size, **options)


def small(name, **options):
    return build(name, **small_options(name, width=8, **options))


def two_signed(network):
    """ReActNet begins with weights of one sign; on a tiny map its activations then hardly depend on the image."""
    for layer in network.modules():
        if isinstance(layer, BinaryConv2d) and (layer.weight >= 0).all():
            nn.init.normal_(layer.weight, std=1e-3)
    return network


@pytest.mark.parametrize("name", ONE_OF_EACH)
@pytest.mark.parametrize(("channels", "size"), SHAPES)
@pytest.mark.parametrize("binary", [True, False])
def test_steps_on_digits_mnist_and_cifar(name, channels, size, binary):
    if size < MINIMUM.get(name, 1):
        pytest.skip(f"{name} needs {MINIMUM[name]} pixels; its refusal is tested below.")
    network = two_signed(small(name, channels=channels, size=size, binary=binary))
    for module in network.modules():
        if isinstance(module, SqueezeExcite) and module.squeeze.bias is not None:
            nn.init.ones_(module.squeeze.bias)  # with few units its ReLU may be off for a batch
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    logits = network(torch.rand(3, channels, size, size))
    assert logits.shape == (3, 10)
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    idle = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    # A bias before batch norm has no gradient but rounding.
    assert {key for key in idle if not (name == "mlp" and key.endswith("bias"))} == set()
    assert all(value.isfinite().all() for value in network.parameters())


@pytest.mark.parametrize("name", sorted(MINIMUM))
def test_least_image_size_works_and_a_smaller_one_is_refused_by_name(name):
    least = MINIMUM[name]
    network = small(name, size=least)
    assert network(torch.rand(3, 3, least, least)).isfinite().all()
    with pytest.raises(ValueError, match=f"`image_size` must be at least {least} for `{name}`, got {least - 1}"):
        small(name, size=least - 1)


@pytest.mark.parametrize("name", ["binary_alexnet", "bnext18", "quicknet", "reactnet18", "reactnet_a"])
def test_images_that_another_stem_takes_are_refused_by_its_name(name):
    with pytest.raises(ValueError, match=r"`stem=cifar` takes \d+ and more"):
        create_backbone(name, num_classes=10, image_size=16, stem="imagenet")


@pytest.mark.parametrize("name", sorted(set(MINIMUM) - {"binary_alexnet", "mlp", "vgg_small", "vgg_small_adabin"}))
def test_resnets_take_other_sizes_than_the_one_they_were_built_for(name):
    assert small(name, size=32).eval()(torch.rand(1, 3, 40, 33)).shape == (1, 10)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_float_twin_has_the_same_tensors_and_torchs_layers(name):
    binary, twin = small(name), small(name, binary=False)
    assert not binary_layers(twin)
    # Save for what binarizers learn themselves: the twin has none.
    shapes = {k: v.shape for k, v in binary.named_parameters() if "_binarizer." not in k}
    assert shapes == {k: v.shape for k, v in twin.named_parameters()}
    for key, value in twin.named_parameters():  # and the same initial values
        assert torch.equal(value, binary.get_parameter(key))
    # Torch's own layers in their place give the same logits to the bit.
    plain = copy.deepcopy(twin).eval()
    for layer_name, layer in twin.named_modules():
        if isinstance(layer, BinaryConv2d):
            conv = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, bias=False)
            conv.weight = layer.weight
            plain.set_submodule(layer_name, nn.Sequential(nn.ZeroPad2d(layer._reversed_padding_repeated_twice), conv))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(plain(images), twin.eval()(images))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_first_of_two_steps_has_binary_activations_real_weights_and_the_same_tensors(name):
    binary, first = small(name), small(name, binary="activations")
    assert not binary_layers(first)
    assert {k: v.shape for k, v in binary.named_parameters()} == {k: v.shape for k, v in first.named_parameters()}
    pairs = [(binary.get_submodule(key), first.get_submodule(key)) for key in binary_layers(binary)]
    assert all(type(a.input_binarizer) is type(b.input_binarizer) for a, b in pairs)
    assert any(b.input_binarizer is not None for _, b in pairs)
    assert first(torch.rand(2, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_taps_follow_the_binary_layers_one_each_in_order(name):
    network = small(name)
    taps, layers = network.feature_taps(), binary_layers(network)
    assert len(taps) == len(set(taps)) == len(layers) == NUM_BINARY.get(name, len(layers))
    calls = []
    for key, module in network.named_modules():
        if key in taps or key in layers:
            module.register_forward_hook(lambda *_, key=key: calls.append(key))
    network.eval()(torch.rand(1, 3, 32, 32))
    assert calls == [key for pair in zip(layers, taps, strict=True) for key in pair]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_taps_of_the_twin_are_those_of_the_binary_network(name):
    assert small(name, binary=False).feature_taps() == small(name).feature_taps()


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_head_and_classifier_agree(name):
    network = small(name).eval()
    classifier = network.get_submodule(network.classifier_name)
    assert isinstance(classifier, nn.Linear)
    images, seen = torch.rand(2, 3, 32, 32), []
    handle = classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    logits = network(images)
    handle.remove()
    features = network.forward_features(images)
    penultimate = network.forward_head(features, pre_logits=True)
    assert len(seen) == 1
    assert torch.equal(seen[0], penultimate)
    assert penultimate.shape == (2, network.num_features)
    last = network.norm8 if name == "binary_alexnet" else nn.Identity()  # there batch norm gives the logits
    assert torch.equal(last(classifier(penultimate)), logits)
    assert torch.equal(network.forward_head(features), logits)


def test_binarizers_default_to_the_papers():
    for layer in binary_layers(small("resnet20")).values():
        assert (type(layer.input_binarizer), type(layer.weight_binarizer)) == (SignEDE, Libra)
    first, *others = binary_layers(small("mlp")).values()
    assert first.input_binarizer is None  # the image stays real
    assert all(isinstance(layer.input_binarizer, SignIdentity) for layer in others)
    assert all(
        type(layer.weight_binarizer) is WeightSign and layer.weight_binarizer.clip == float("inf") for layer in others
    )


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_binarizers_and_padding_are_options(name):
    padding = {} if name == "mlp" else {"pad_value": -1.0}
    network = small(
        name,
        input_binarizer=binarizer_factory("SignSTE", clip=1.5),
        weight_binarizer=binarizer_factory("XNORScale"),
        **padding,
    )
    layers = list(binary_layers(network).values())
    assert all(isinstance(layer.input_binarizer, SignSTE) for layer in layers[1:])
    assert len({id(layer.weight_binarizer) for layer in layers}) == len(layers)
    if padding:
        padded = [layer for layer in layers if isinstance(layer, BinaryConv2d) and layer.input_binarizer is not None]
        assert {layer.pad_value for layer in padded} == {-1.0}
    assert network(torch.rand(2, 3, 32, 32)).isfinite().all()


def test_binarizers_in_each_others_place_are_refused():
    with pytest.raises(ValueError, match="`input_binarizer` must make an InputBinarizer, got Libra"):
        small("resnet20", input_binarizer=binarizer_factory("Libra"))
    with pytest.raises(ValueError, match="`weight_binarizer` must make a WeightBinarizer, got SignSTE"):
        small("resnet20", weight_binarizer=binarizer_factory("SignSTE"))


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"`dropout` must be at least 0 and below 1, got 1\.0"):
        small("mlp", dropout=1.0)
    with pytest.raises(ValueError, match="`width` must be even for `resnet20`"):
        build("resnet20", width=5)
    with pytest.raises(ValueError, match="`width` must be at least 1 for `vgg_small`, got 0"):
        build("vgg_small", width=0)
    with pytest.raises(ValueError, match=r"`pad_value` must be 0, -1 or \+1"):
        build("resnet20", pad_value=0.5)
    with pytest.raises(ValueError, match="`binary` must be true, false or \"activations\", got 'weights'"):
        build("resnet20", binary="weights")


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_channels_last_is_kept_and_changes_nothing(name):
    dropout = {"dropout": 0.0} if name == "mlp" else {}
    network, images = small(name, **dropout).double(), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    for module in network.modules():  # a sign right behind a batch norm must not hang on how a mean is rounded
        if isinstance(module, LearnableBias) or (isinstance(module, nn.BatchNorm2d) and module.affine):
            nn.init.normal_(module.bias)
    expected = network(images)
    network.to(memory_format=torch.channels_last)
    strides = []
    for tap in network.feature_taps():
        network.get_submodule(tap).register_forward_hook(lambda _, __, y: strides.append(y))
    torch.testing.assert_close(network(images.to(memory_format=torch.channels_last)), expected, rtol=0, atol=1e-9)
    assert all(y.is_contiguous(memory_format=torch.channels_last) for y in strides if y.dim() == 4)


def test_padded_shortcut_keeps_the_format_of_its_gradient():
    images = torch.rand(2, 4, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    pad_shortcut(4, 8, 2)(images).square().sum().backward()
    assert images.grad.is_contiguous(memory_format=torch.channels_last)
    expected = torch.zeros_like(images)
    expected[:, :, ::2, ::2] = 2 * images[:, :, ::2, ::2]
    assert torch.equal(images.grad, expected)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_forward_needs_no_host_synchronisation(name):
    # A meta tensor has no values: whatever asks for one fails.
    with torch.device("meta"):
        network = small(name)
        logits = network(torch.rand(4, 3, 32, 32))
    logits.sum().backward()
    assert logits.is_meta


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_forward_has_no_side_effect_in_evaluation(name):
    network, images = small(name).eval(), torch.rand(2, 3, 32, 32)
    state, given = copy.deepcopy(network.state_dict()), images.clone()
    assert torch.equal(network(images), network(images))
    assert torch.equal(images, given)
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_steps_in_mixed_precision(name):
    network = small(name)
    with torch.autocast("cpu", torch.bfloat16):
        loss = nn.functional.cross_entropy(network(torch.rand(4, 3, 32, 32)), torch.arange(4))
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def deviation(tensor):
    return tensor.detach().std().item()


def test_initial_weights_are_the_papers():
    wide = build("resnet20")
    assert deviation(wide.layer3[2].conv2.weight) == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.03)
    assert deviation(wide.linear.weight) == pytest.approx((2 / 64) ** 0.5, rel=0.1)
    assert wide.linear.bias.abs().max() <= 64**-0.5
    cifar = build("resnet18")
    assert deviation(cifar.layer2[0].shortcut[0].weight) == pytest.approx((2 / 64) ** 0.5, rel=0.03)
    imagenet = build("resnet18_double_skip")
    assert deviation(imagenet.layer2[0].conv1.weight) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.03)
    assert deviation(imagenet.layer2[0].shortcut[0].weight) == pytest.approx((2 / 128) ** 0.5, rel=0.03)
    vgg = build("vgg_small")
    assert deviation(vgg.conv1.weight) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.03)
    assert deviation(vgg.fc.weight) == pytest.approx(0.01, rel=0.03)
    assert not vgg.fc.bias.any()
