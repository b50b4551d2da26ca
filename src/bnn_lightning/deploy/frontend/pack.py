"""From a trained network to packed layers."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.base import Binarizer, InputBinarizer, WeightBinarizer
from bnn_lightning.deploy.frontend.finite import check_images, refuse_nan
from bnn_lightning.deploy.frontend.fold_epilogue import fuse, is_plain
from bnn_lightning.deploy.frontend.fresh import floats, pixels
from bnn_lightning.deploy.frontend.inputs import check_range, check_tensor, refuse_jit
from bnn_lightning.deploy.frontend.layers import PackedConv2d, PackedLinear
from bnn_lightning.deploy.frontend.torch_fallback import for_torch
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.conv import BinaryConv2d
from bnn_lightning.layers.linear import BinaryLinear
from bnn_lightning.layers.module_utils import binary_layers
from bnn_lightning.models.backbone import Backbone
from bnn_lightning.utils.image_size import sides


@dataclass(frozen=True, repr=False)
class PackReport:
    """The result of `pack`, layer by layer; its text names what is slower than it could be.

    Attributes:
        packed: Names of the layers that run on bits.
        folded: Names of the operations that these layers compute besides.
        left: Names of binary layers that stay in torch, and why.
        unfused: Why nothing was folded, or empty.
        unfolded: Names of the operations behind packed layers that could be folded and are not, and why.

    Example:
        >>> PackReport(("conv",), (), {}, "", {"act": "it is in training mode"})
        1 binary layer packed, 0 operations folded into it
          NOT FOLDED: act: it is in training mode
    """

    packed: tuple[str, ...]
    folded: tuple[str, ...]
    left: dict[str, str]
    unfused: str
    unfolded: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        many = len(self.packed) != 1
        operations = f"{len(self.folded)} operation{'s' * (len(self.folded) != 1)}"
        lines = [
            f"{len(self.packed)} binary layer{'s' * many} packed, {operations} folded into {'them' if many else 'it'}",
            *(f"  {name} stays in torch: {reason}" for name, reason in self.left.items()),
            *(f"  NOT FOLDED: {name}: {reason}" for name, reason in self.unfolded.items()),
        ]
        if self.unfused:
            lines.append(f"  NOTHING WAS FOLDED, the network is slower than it could be: {self.unfused}")
        return "\n".join(lines)


class PackedNetwork(nn.Module):
    """A network whose binary layers run on bits.

    Args:
        network: With packed layers in it.
        report: Layers that were packed and operations that were folded.
        takes_images: Whether its input is images in [0, 1], as that of every `Backbone`: others are refused at the
            first call. The input of a module of one's own may be anything.
    """

    def __init__(self, network: nn.Module, report: PackReport, *, takes_images: bool = False) -> None:
        super().__init__()
        self.network, self.report, self.takes_images = network, report, takes_images
        self._range_is_known = not takes_images

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, num_classes).

        Args:
            images: Shape (N, C, H, W): floating, in [0, 1], or uint8, which count as their 255th part.

        Raises:
            TypeError: No tensor.
            ValueError: Images hold NaN or infinite values, or the first ones values beyond [0, 1].
        """
        refuse_jit()
        check_tensor(images)
        check_images(images)
        self._range_is_known = self._range_is_known or check_range(images)
        if images.dtype == torch.uint8:
            known = (tensor.dtype for tensor in (*self.parameters(), *self.buffers()) if tensor.is_floating_point())
            images = pixels(images).to(next(known, torch.float32))
        return self.network(for_torch(images))  # type: ignore[no-any-return]


@torch.no_grad()
def pack(model: nn.Module, example: Tensor | None = None) -> PackedNetwork:
    """Pack a trained network: its binary layers compute on bits, and what follows them in the same pass.

    The outputs are those of `model` in evaluation, to the bit where `PackedConv2d` says so; what is not known to be
    foldable stays in torch, and so does a layer that computes otherwise than `BinaryConv2d` and `BinaryLinear` do (a
    `forward` or hooks of its own, a binarizer that is no `threshold()`): `report.left` says why.

    Args:
        model: A backbone, or any network built from our layers. It is not changed.
        example: Images that it takes; None makes one of the network's own `in_channels` and `image_size`. Shapes are
            learnt from it; other sizes and batches may follow.

    Raises:
        ValueError: It is not binary (an unfinished annealing, or weights that are neither -1 nor +1), it has no binary
            layers or other weights than float32, a tensor holds NaN, or there is no example.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> packed = pack(network)
        >>> len(packed.report.packed), packed.report.left
        (18, {})
        >>> torch.allclose(packed(images), network(images), atol=1e-3)
        True
    """
    check_binary(model)
    refuse_nan(model)
    example = example_images(model) if example is None else example
    network = copy.deepcopy(model).eval()
    packed: list[str] = []
    left: dict[str, str] = {}
    made: dict[int, nn.Module] = {}
    for name, layer in binary_layers(network).items():
        reason = why_left(layer)
        if reason or layer.input_binarizer is None:
            left[name] = reason or "its input is real"
            if not reason:
                _settle(layer)
            continue
        made[id(layer)] = _packed(layer, name)
        packed.append(name)
    replace_layers(network, made)
    fused = fuse(network, example)
    report = PackReport(tuple(packed), fused.folded, left, fused.unfused, fused.unfolded)
    refuse_nan(fused.network)
    return PackedNetwork(fused.network, report, takes_images=isinstance(model, Backbone)).eval()


def check_binary(model: nn.Module) -> None:
    """Refuse a network that is not binary yet.

    Raises:
        ValueError: Names the binarizers that still give other values than -1 and +1, or says that there are none.
    """
    unfinished = [
        name for name, module in model.named_modules() if isinstance(module, Binarizer) and not module.is_binary
    ]
    if unfinished:
        raise ValueError(
            f"The network is not binary: the annealing of {unfinished[0]} and {len(unfinished) - 1} more has not "
            "ended. Train to the end of the schedule, or take a later checkpoint."
        )
    layers = binary_layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no binary layer: pack one that was built with binary=True, or from "
            "BinaryConv2d and BinaryLinear."
        )
    for name, layer in layers.items():
        if layer.weight.dtype != torch.float32:
            raise ValueError(
                f"The weights of `{name}` are {layer.weight.dtype}: pack the network in float32, as `model.float()`."
            )
        _refuse_other_values(name, layer)


def _refuse_other_values(name: str, layer: BinaryLayer) -> None:
    """Refuse a layer whose binarizers stand for other values than -1 and +1 times a scale of each output channel.

    Raises:
        ValueError: Names the layer and its binarizer.
    """
    inputs, weights = layer.input_binarizer, layer.weight_binarizer
    for binarizer in (inputs, weights):
        if binarizer is not None and not binarizer.gives_signs:
            raise ValueError(
                f"`{name}` can be neither packed nor written as ONNX: {type(binarizer).__name__} has "
                f"{binarizer.bits}-bit values, and these multiply -1 and +1 only. Evaluate the network in torch."
            )
    affine: Binarizer | None = None
    if inputs is not None and (inputs.scale() is not None or inputs.offset() is not None):
        affine = inputs
    elif weights is not None and weights.offset(layer.filters(layer.weight)) is not None:
        affine = weights
    if affine is not None:
        raise ValueError(
            f"`{name}` can be neither packed nor written as ONNX: the values of {type(affine).__name__} lie around a "
            "center, which these do not add yet. Evaluate the network in torch."
        )


def why_left(layer: BinaryLayer) -> str:
    """Say why a layer does not compute what a packed one would, or nothing."""
    if not isinstance(layer, BinaryConv2d | BinaryLinear):
        return f"{type(layer).__name__} has no packed form, unlike BinaryConv2d and BinaryLinear"
    if not is_plain(layer, BinaryConv2d, BinaryLinear):
        return "it has a `forward` or hooks of its own"
    kind = BinaryConv2d if isinstance(layer, BinaryConv2d) else BinaryLinear
    if any(getattr(type(layer), name) is not getattr(kind, name) for name in ("binary_forward", "scaled_dot", "dot")):
        return "it multiplies in a way of its own"
    if layer.input_binarizer is not None and not _is_threshold(layer.input_binarizer, layer):
        return "its input binarizer is not +1 from its `threshold()` on and -1 below, for each value by itself"
    return ""


def _is_threshold(binarizer: InputBinarizer, layer: BinaryLayer) -> bool:
    """Whether a binarizer compares each value with its threshold; tried on values far from it, at it and just below."""
    channels = layer.in_channels if isinstance(layer, BinaryConv2d) else layer.weight.shape[1]
    threshold = binarizer.threshold()
    level = layer.weight.new_zeros(channels) if threshold is None else threshold.detach()
    below = torch.nextafter(level, torch.full_like(level, -torch.inf))
    spread = torch.linspace(-8, 8, 61, dtype=level.dtype, device=level.device)[:, None].expand(-1, channels)
    tried = torch.cat([spread + level, spread, torch.stack([level, below])])
    values = tried[:, :, None, None] if isinstance(layer, BinaryConv2d) else tried
    signs = (2 * (tried >= level).to(tried.dtype) - 1).view_as(values)
    try:
        # In two companies: none depends on what else is there.
        return torch.equal(binarizer(values), signs) and torch.equal(binarizer(values[-7:]), signs[-7:])
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False


def _packed(layer: BinaryLayer, name: str) -> nn.Module:
    try:
        if isinstance(layer, BinaryConv2d):
            return PackedConv2d.from_layer(layer)
        if isinstance(layer, BinaryLinear):
            return PackedLinear.from_linear(layer)
    except ValueError as error:
        raise ValueError(f"`{name}`: {error}") from error
    raise ValueError(f"`{name}` is a {type(layer).__name__}; only BinaryConv2d and BinaryLinear can be packed.")


def replace_layers(network: nn.Module, made: Mapping[int, nn.Module]) -> None:
    """Put layers in the places of others, in place; a shared one in all of them.

    Args:
        network: Any network.
        made: New layers by `id` of the old ones.
    """
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in made:
                parent._modules[name] = made[id(child)]


def _settle(layer: BinaryLayer) -> None:
    """Let a binary layer with real inputs multiply with its signs times its scale, without binarizing in each call."""
    assert layer.weight_binarizer is not None
    signs, scale = layer.weight_binarizer.binarize(layer.weight)
    layer.weight = nn.Parameter(signs.clone(), requires_grad=False)
    layer.weight_binarizer = None if scale is None else Settled(scale)


class Settled(WeightBinarizer):
    """Weights that are signs already, and the scale that follows them."""

    fixed: Tensor

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("fixed", scale.clone())

    def scale(self, weight: Tensor) -> Tensor:
        return self.fixed

    def forward(self, weight: Tensor) -> Tensor:
        return weight


def example_images(model: nn.Module, number: int = 1) -> Tensor:
    """Return images of the size that a backbone takes, (number, C, H, W).

    Raises:
        ValueError: The network does not say what it takes.
    """
    channels, size = getattr(model, "in_channels", None), getattr(model, "image_size", None)
    if not isinstance(channels, int) or not isinstance(size, int | tuple):
        raise ValueError(
            f"`example` must be given for {type(model).__name__}, which does not say what images it takes."
        )
    parameter = next(model.parameters(), floats(0))
    return torch.rand(number, channels, *sides(size), device=parameter.device, dtype=parameter.dtype)
