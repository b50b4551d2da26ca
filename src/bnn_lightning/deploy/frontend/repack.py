"""A packed network that follows the weights of the one that it was made from."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.base import WeightBinarizer
from bnn_lightning.binarizers.weight import WeightSign
from bnn_lightning.deploy.frontend.layers import PackedConv2d, check_signs
from bnn_lightning.deploy.frontend.pack import PackedNetwork, Settled, pack, why_left
from bnn_lightning.functional.pack import pack_weight, tap_sums
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.module_utils import binary_layers


class Repacker:
    """Pack a network once, and afterwards only those of its weights that were changed.

    Packing looks at the whole network, to fold what follows its layers; where only weights of convolutions and linear
    layers move, as around a network whose loss landscape is measured, all of that stays as it is, and signs and scales
    are written into it. What else is changed, batch norms or biases, is not noticed: `pack` anew.

    Args:
        model: A network that `pack` takes; its weights may be changed in place afterwards.
        example: See `pack`.

    Raises:
        ValueError: As of `pack`.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> network = create_backbone("resnet20", num_classes=10, image_size=32, width=4).eval()
        >>> repack = Repacker(network)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> with torch.no_grad():
        ...     _ = network.layer1[0].conv1.weight.neg_()
        >>> torch.equal(repack()(images), pack(network)(images))
        True
    """

    def __init__(self, model: nn.Module, example: Tensor | None = None) -> None:
        self.model = model
        neutral = copy.deepcopy(model)
        for layer in binary_layers(neutral).values():
            _with_any_scale(layer)
        self.packed = pack(neutral, example)
        modules = dict(self.packed.network.named_modules())
        # A layer that the network never calls is not in the packed one.
        own = {name: layer for name, layer in binary_layers(model).items() if name in modules}
        self._on_bits = [(own[name], modules[name]) for name in own if isinstance(modules[name], PackedConv2d)]
        # One that was left as it is has its parameters copied, as all others have.
        self._real = [(own[name], modules[name]) for name in own if _is_settled(modules[name])]
        settled = {id(parameter) for _, layer in self._real for parameter in layer.parameters()}
        source = dict(model.named_parameters())
        self._copied = [
            (source[name], parameter)
            for name, parameter in self.packed.network.named_parameters()
            if name in source and id(parameter) not in settled
        ]

    @torch.no_grad()
    def __call__(self) -> PackedNetwork:
        """Return the packed network, with the weights that the model has now.

        Raises:
            ValueError: A weight is neither -1 nor +1.
        """
        for layer, packed in self._on_bits:
            _write(layer, cast(PackedConv2d, packed))
        for layer, real in self._real:
            assert layer.weight_binarizer is not None
            signs, scale = layer.weight_binarizer.binarize(layer.weight)
            real.weight.copy_(signs)
            if scale is not None:
                real.weight_binarizer.fixed.copy_(scale)
        for before, after in self._copied:
            after.copy_(before)
        return self.packed


def _with_any_scale(layer: BinaryLayer) -> None:
    """Let a layer that will run on bits have a scale that is no power of two, which packing folds as it does most."""
    if layer.input_binarizer is None or layer.weight_binarizer is None or why_left(layer):
        return
    signs, scale = layer.weight_binarizer.binarize(layer.weight.detach())
    layer.weight = nn.Parameter(signs.clone(), requires_grad=False)
    layer.weight_binarizer = WeightSign() if scale is None else Settled(torch.full_like(scale, 1.5))


def _is_settled(layer: nn.Module) -> bool:
    real = isinstance(layer, BinaryLayer)
    return real and (not layer.is_binary_layer or isinstance(layer.weight_binarizer, Settled))


def _write(layer: BinaryLayer, packed: PackedConv2d) -> None:
    assert isinstance(layer.weight_binarizer, WeightBinarizer)
    signs, scale = layer.weight_binarizer.binarize(layer.weight)
    check_signs(signs)
    signs = signs if signs.dim() == 4 else signs[:, :, None, None]
    packed.weight.copy_(pack_weight(signs, groups=packed.groups))
    packed.tap_sums.copy_(tap_sums(signs, groups=packed.groups))
    if scale is not None:
        # The scale has the place of an affine map where nothing has to be rounded behind it.
        setattr(packed, "scale" if packed.gain is None else "gain", packed.spread(scale))
