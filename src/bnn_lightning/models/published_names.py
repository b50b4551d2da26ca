"""Names of the tensors in published checkpoints, family by family, and their conversion to ours."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, cat, nn

from bnn_lightning.models.bnext import BNext
from bnn_lightning.models.bnext18 import BNext18
from bnn_lightning.models.mlp import MLP
from bnn_lightning.models.reactnet import ReActNetA
from bnn_lightning.models.resnet import ResNet
from bnn_lightning.models.resnet_bnn import UnitResNet
from bnn_lightning.models.vgg_small import VGGSmall

Replacement = str | Callable[["re.Match[str]"], str]


@dataclass(frozen=True)
class Names:
    """Differences between a family's files and our networks.

    Attributes:
        renames: Patterns and what stands for them in ours, in order.
        dead: Patterns, after renaming, of tensors that no network uses, and why.
        joined: Pattern of names, in the file, of tensors that are parts of one of ours, along dimension 0 and in the
            order of their names; a counter is that of the first part.
        reshaped: Whether a tensor of the same number of elements may have another shape.
    """

    renames: tuple[tuple[str, Replacement], ...] = ()
    dead: tuple[tuple[str, str], ...] = ()
    joined: str | None = None
    reshaped: bool = False

    def rename(self, key: str) -> str:
        """Return our name of a tensor."""
        for pattern, replacement in self.renames:
            key = re.sub(pattern, replacement, key)
        return key

    def why_dead(self, name: str) -> str | None:
        """Return why no network uses a tensor, or None."""
        return next((why for pattern, why in (*self.dead, *_DEAD) if re.match(pattern, name)), None)

    def is_part(self, key: str) -> bool:
        """Whether a tensor of the file is a part of one of ours."""
        return self.joined is not None and re.search(self.joined, key) is not None

    def assemble(self, parts: Mapping[str, Tensor], wanted: Tensor) -> Tensor:
        """Make one of our tensors from its parts in the file, by their names there."""
        tensors = [parts[key] for key in sorted(parts)]
        tensor = tensors[0] if len(tensors) == 1 or tensors[0].dim() == 0 else cat(tensors)
        # A single number may come without a dimension, as AdaBin's alpha and beta do.
        if (self.reshaped or tensor.numel() == 1) and tensor.numel() == wanted.numel():
            return tensor.reshape(wanted.shape)
        return tensor


def names_of(backbone: nn.Module) -> Names:
    """Return the names in published files of a network's family."""
    return next((names for family, names in _FAMILIES.items() if isinstance(backbone, family)), Names())


def _before(match: "re.Match[str]") -> str:
    return f"blocks.{int(match[1]) - 1}."


def _block_of_18(match: "re.Match[str]") -> str:
    """Map `layer1.0.` to `blocks.2.`: two blocks a stage."""
    return f"blocks.{2 * int(match[1]) + int(match[2])}."


# Names in a unit of BNext. Where ours has no such module, the name is one of the dead.
_BNEXT_UNIT: tuple[tuple[str, Replacement], ...] = (
    (r"\.scale$", ".conv.mix.scale"),
    (r"\.move\.bias$", ".conv.conv.input_binarizer.bias"),
    (r"\.binary_conv\.weight$", ".conv.conv.weight"),
    (r"\.binary_conv\.temperature$", ".conv.conv.weight_binarizer.temperature"),
    (r"\.norm1\.", ".conv.norm."),
    (r"\.norm2\.", ".norm."),
    (r"\.activation1\.", ".act."),
    (r"\.activation2\.", ".conv.act."),
    (r"\.se\.se\.1\.", ".conv.gate.squeeze."),
    (r"\.se\.se\.3\.", ".conv.gate.excite."),
    (r"\.downsample\.", ".shortcut."),
    (r"^prelu\.", "act."),
    (r"^fc\.", "linear."),
)
_BNEXT_DEAD = (
    (r".+\.binary_activation\.temperature$", "a sign follows it, which it does not change"),
    (r".+\.weight_binarizer\.temperature$", "this network's weight binarizer has no temperature"),
    (r"(blocks\..+\.act|feature\.0\.prelu)\.weight$", "a PReLU that is never called"),
    (r"blocks\..+\.norm\.", "a batch norm that is never called without recoupling"),
)
_ADABIN: tuple[tuple[str, Replacement], ...] = (
    (r"\.binary_a\.(alpha|beta)_a$", r".input_binarizer.\1"),
    (r"^(.+\.)?nonlinear(\d)\.", r"\1act\2."),
    (r"\.pos_scale$", ".positive_slope"),
    (r"\.neg_scale$", ".negative_slope"),
)
_DEAD = ((r"(.+\.)?[kt]$", "EDE's scalars; they shape gradients only"),)
_FAMILIES: dict[type[nn.Module], Names] = {
    BNext: Names(
        renames=(
            (r"^feature\.0\.(conv1|bn1)\.", r"\1."),
            (r"^feature\.([1-9]\d*)\.", _before),
            (r"^(blocks\.\d+)\.Attention\.", r"\1.spatial."),
            (r"^(blocks\.\d+)\.FFN(_1)?\.", r"\1.pointwise.0."),
            (r"^(blocks\.\d+)\.FFN_2\.", r"\1.pointwise.1."),
            *_BNEXT_UNIT,
        ),
        dead=_BNEXT_DEAD,
        reshaped=True,
    ),
    BNext18: Names(
        renames=(
            (r"^layer(\d)\.(\d)\.", _block_of_18),
            (r"^(blocks\.\d+)\.Attention\.", r"\1.0."),
            (r"^(blocks\.\d+)\.FFN\.", r"\1.1."),
            *_BNEXT_UNIT,
        ),
        dead=_BNEXT_DEAD,
        reshaped=True,
    ),
    MLP: Names(),
    VGGSmall: Names(renames=((r"^(linear|classifier)\.", "fc."), *_ADABIN)),
    ResNet: Names(
        renames=(
            (r"^(fc|classifier)\.", "linear."),
            (r"\.downsample\.", ".shortcut."),
            (r"^nonlinear1\.", "act."),
            *_ADABIN,
        ),
        dead=((r"bn3\.", "batch norm of the logits, never called in IR-Net's ImageNet network"),),
    ),
    # Shifts are (1, C, 1, 1). Some files call a convolution's tensor `weights` and hold it as one column.
    UnitResNet: Names(
        renames=(
            (r"^fc\.", "linear."),
            (r"\.downsample\.", ".shortcut."),
            (r"\.binary_conv\.weights?$", ".conv.weight"),
            (r"^(layer\d+\.\d+)\.bn1\.", r"\1.bn."),
            (r"\.move0\.", ".conv.input_binarizer."),
            (r"\.move1\.", ".act.shift_in."),
            (r"\.move2\.", ".act.shift_out."),
            (r"^(layer\d+\.\d+)\.prelu\.", r"\1.act.prelu."),
        ),
        reshaped=True,
    ),
    ReActNetA: Names(
        renames=(
            (r"^fc\.", "linear."),
            (r"^feature\.0\.", ""),
            (r"^feature\.(\d+)\.", _before),
            (r"\.binary_3x3\.weights?$", ".spatial.conv.weight"),
            (r"\.binary_pw(_down[12])?\.weights?$", ".pointwise.conv.weight"),
            (r"\.bn1\.", ".spatial.bn."),
            (r"\.bn2(_[12])?\.", ".pointwise.bn."),
            (r"\.move11\.", ".spatial.conv.input_binarizer."),
            (r"\.move12\.", ".spatial.act.shift_in."),
            (r"\.prelu1\.", ".spatial.act.prelu."),
            (r"\.move13\.", ".spatial.act.shift_out."),
            (r"\.move21\.", ".pointwise.conv.input_binarizer."),
            (r"\.move22\.", ".pointwise.act.shift_in."),
            (r"\.prelu2\.", ".pointwise.act.prelu."),
            (r"\.move23\.", ".pointwise.act.shift_out."),
        ),
        joined=r"\.(binary_pw_down|bn2_)[12]\.",
        reshaped=True,
    ),
}
