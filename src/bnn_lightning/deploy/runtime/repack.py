"""A packed network that follows the tensors of the one that it was made from."""

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.frontend.conv_transpose import PackedConvTranspose2d
from bnn_lightning.deploy.frontend.layers import PackedConv2d, signs_and_scale
from bnn_lightning.deploy.frontend.pack import is_settled, why_left
from bnn_lightning.deploy.runtime.packed_network import PackedNetwork, pack
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.module_utils import binary_layers


class Repacker:
    """Pack a network once, and write its parameters and buffers into the packed one whenever they have changed.

    The network is traced once; where only values move, as around a network whose loss landscape is measured, its plan
    is made anew, which takes a fraction of the time of `pack`.

    Args:
        model: A network that `pack` takes; its tensors may be changed in place afterwards.
        example: See `pack`.

    Raises:
        ValueError: As of `pack`.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> network = create_backbone("mlp", num_classes=10, image_size=8, width=32).eval()
        >>> repack = Repacker(network)
        >>> images = torch.rand(2, 3, 8, 8)
        >>> with torch.no_grad():
        ...     _ = network.fc2.weight.neg_()
        >>> torch.equal(repack()(images), pack(network)(images))
        True
    """

    def __init__(self, model: nn.Module, example: Tensor | None = None) -> None:
        self.packed = pack(model, example)
        modules = dict(self.packed.network.named_modules())
        self._layers = [
            (name, layer, modules[name])
            for name, layer in binary_layers(model).items()
            if isinstance(modules[name], PackedConv2d | PackedConvTranspose2d) or is_settled(modules[name])
        ]
        own = {id(tensor) for _, _, packed in self._layers for tensor in (*packed.parameters(), *packed.buffers())}
        source = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        # Layers that were left as they are have their tensors copied, as all others have.
        self._copied = [
            (source[name], tensor)
            for name, tensor in (*self.packed.network.named_parameters(), *self.packed.network.named_buffers())
            if name in source and id(tensor) not in own
        ]

    @torch.no_grad()
    def __call__(self) -> PackedNetwork:
        """Return the packed network, with the values that the model's tensors have now.

        Raises:
            ValueError: A weight is neither -1 nor +1, or an input is no longer +1 from its threshold on.
        """
        for name, layer, packed in self._layers:
            if isinstance(packed, PackedConv2d | PackedConvTranspose2d):
                _check(name, layer)
                packed.copy_(layer)
            else:
                _settle(layer, packed)
        for before, after in self._copied:
            after.copy_(before)
        return self.packed


def _check(name: str, layer: BinaryLayer) -> None:
    """Refuse a layer whose input binarizer has parameters with which `pack` would leave it as it is."""
    learned = layer.input_binarizer is not None and any(True for _ in layer.input_binarizer.parameters())
    if learned and (reason := why_left(layer)):
        raise ValueError(f"`{name}` cannot be packed with the values that it has now: {reason}.")


def _settle(layer: BinaryLayer, settled: nn.Module) -> None:
    """Write signs, scale and bias of a layer with real inputs."""
    signs, scale = signs_and_scale(layer)
    settled.weight.copy_(layer.from_filters(signs))  # type: ignore[operator]
    if scale is not None:
        settled.weight_binarizer.fixed.copy_(scale)  # type: ignore[union-attr,operator]
    if layer.bias is not None:
        settled.bias.copy_(layer.bias)  # type: ignore[operator]
