"""Import of published checkpoints: the files of SKD-BNN, IR-Net, AdaBin, ReActNet, BNext and larq-zoo.

A file is a dict with `state_dict`, `epoch` and `best_prec1` (or a bare state dict), written by `torch.save` from a
network in `DataParallel`, on CUDA. The format of SKD-BNN's ResNet-20 files, which are public, is followed tensor by
tensor; the names in files of the other networks are inferred from IR-Net, which SKD-BNN started from. No published file
was at hand when this was written: the tests write files in exactly that format from an independent network.

The networks are SKD-BNN's. IR-Net's own CIFAR ResNet-18 has no Hardtanh after its stem: its files fit, but that network
gives other logits.

ReActNet's files (`state_dict`, names prefixed `module.`) hold convolutions of ReActNet-A as one column, shifts as
(1, C, 1, 1) and the two halves of a widening unit apart; here they become tensors of our shapes. Its code signs with
torch.sign, for which sign(0) = 0; ours is +1, so that an activation or a weight that is exactly 0 counts otherwise.

AdaBin's files (`resnet20_adabin`, `resnet18_adabin`) have `binary_a.{alpha_a,beta_a}` in each binary convolution and
`nonlinear{1,2}.{pos_scale,neg_scale}`. Its code signs with torch.sign, too.

BNext's released files have `module.` before each name and may nest the state dict; temperatures come with the weights.
Of these, too, none was at hand: the tests write files of their names and shapes.

larq-zoo's files are HDF5, which Keras writes; `keras_file` reads them.

Every tensor is loaded or stands on the list of dead ones:

| family | dead tensors | why |
|---|---|---|
| all | `k` and `t` of a layer | EDE's scalars, which forks register as buffers; they shape gradients only |
| ResNet | `bn3.*` | batch norm of the logits that IR-Net's ImageNet network makes and never calls |
| BNext | `binary_activation.temperature` | a sign follows it, which it does not change |
| BNext | `binary_conv.temperature` | only where the network's weight binarizer is none with a temperature |
| BNext | `activation1` of FFN units, the stem's `prelu` | PReLUs that are made and never called |
| BNext | `norm2` of FFN units without recoupling | batch norms that are never called |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn

from bnn_lightning.binarizers.base import Binarizer
from bnn_lightning.models.backbone import Backbone
from bnn_lightning.models.keras_file import is_keras_file, read_keras
from bnn_lightning.models.published_file import OTHER_SHAPE, differences, read_published
from bnn_lightning.models.published_names import names_of
from bnn_lightning.models.registry import backbone_signature, create_backbone, list_backbones
from bnn_lightning.utils.text import some


@dataclass(frozen=True)
class ImportReport:
    """Result of an import.

    Attributes:
        path: The file.
        epoch: Index of the last epoch that was finished, from 0, or None.
        accuracy: The file's `best_prec1` or `best_top1_acc`, in percent, or None. SKD-BNN measured it on 9,984 of
            CIFAR's 10,000 images.
        loaded: Tensors of the network that came from the file.
        kept: Tensors of the network that such files do not have: normalization, the state of annealing, counters.
        dead: Tensors of the file that no network uses, and why.
        ignored: Other entries of the file (an optimizer's state ...).
        head: Tensors of a head for other classes, which keeps its own values; see `new_head`.
    """

    path: Path
    epoch: int | None
    accuracy: float | None
    loaded: tuple[str, ...]
    kept: tuple[str, ...]
    dead: dict[str, str]
    ignored: tuple[str, ...]
    head: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Match:
    tensors: dict[str, Tensor]
    kept: tuple[str, ...]
    dead: dict[str, str]
    differences: tuple[str, ...]
    head: tuple[str, ...] = ()


def load_published(backbone: Backbone, path: str | Path, *, new_head: bool = False) -> ImportReport:
    """Load a published checkpoint into a backbone, which stays as it is if the file does not fit.

    The normalization is the network's own: build it with the constants of the paper. SKD-BNN on CIFAR-10 has
    mean (0.4914, 0.4822, 0.4465) and std (0.2470, 0.2435, 0.2616); IR-Net has ImageNet's constants.

    Args:
        backbone: Built with the options of the file (`num_classes`, `width` ...).
        path: The file, read with `weights_only=True`.
        new_head: Leave out a head for another number of classes, as `head_of` finds it.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint, or one of another network: the message says which tensors differ, and which
            registered network fits.
    """
    path = Path(path)
    keras = is_keras_file(path)
    published = read_keras(path, backbone) if keras else read_published(path, backbone.state_dict())
    match = _match(backbone, published.tensors, new_head=new_head)
    if match.differences:
        raise ValueError(
            f"`{published.path}` does not fit this {type(backbone).__name__}. {' '.join(match.differences)} "
            f"{_fitting_network(published.tensors)}"
        )
    damaged = [name for name, tensor in match.tensors.items() if not torch.isfinite(tensor).all()]
    if damaged:
        raise ValueError(f"`{published.path}` is damaged: {some(damaged)} hold values that are not finite.")
    backbone.load_state_dict(match.tensors, strict=False)
    return ImportReport(
        path=published.path,
        epoch=published.epoch,
        accuracy=published.accuracy,
        loaded=tuple(match.tensors),
        kept=match.kept,
        dead=match.dead,
        ignored=published.ignored,
        head=match.head,
    )


def head_of(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return the tensors of a head for another number of classes: those that differ, and in their first side only.

    Args:
        wanted: The state dict of a network.
        given: Tensors of a file, by their names in the network.

    Returns:
        Their names; none where other tensors differ, too, or where they are not all for one number of classes.

    Example:
        >>> ten, three = (nn.Linear(4, number).state_dict() for number in (10, 3))
        >>> head_of(three, ten)
        ('weight', 'bias')
    """
    pairs = {n: (wanted[n].shape, given[n].shape) for n in wanted if n in given and wanted[n].shape != given[n].shape}
    if not all(own and other and own[1:] == other[1:] for own, other in pairs.values()):
        return ()
    return tuple(pairs) if len({(own[0], other[0]) for own, other in pairs.values()}) == 1 else ()


def _match(backbone: nn.Module, tensors: Mapping[str, Tensor], *, new_head: bool = False) -> _Match:
    names = names_of(backbone)
    wanted = backbone.state_dict()
    parts: dict[str, dict[str, Tensor]] = {}
    dead: dict[str, str] = {}
    unexpected: list[str] = []
    for key, tensor in tensors.items():
        name = names.rename(key)
        reason = names.why_dead(name)
        if name in wanted and (name not in parts or names.is_part(key)):
            parts.setdefault(name, {})[key] = tensor
        elif reason is not None and name not in wanted:
            dead[key] = reason
        else:
            unexpected.append(key)
    found = {name: names.assemble(own, wanted[name]) for name, own in parts.items()}
    head = head_of(wanted, found) if new_head else ()
    found = {name: tensor for name, tensor in found.items() if name not in head}
    kept = tuple(name for name in _optional(backbone) if name not in found)
    missing = [name for name in wanted if name not in found and name not in (*kept, *head)]
    lines = differences(wanted, found, missing=missing, unknown=unexpected)
    return _Match(found, kept, dead, lines, head)


def _optional(backbone: nn.Module) -> list[str]:
    modules = backbone.named_modules()
    ours = [f"{name}." for name, module in modules if isinstance(module, Binarizer) or name == "normalize"]
    learned = {name for name, _ in backbone.named_parameters()}  # thresholds of a binarizer are in the files
    return [
        name
        for name in backbone.state_dict()
        if name not in learned and (name.startswith(tuple(ours)) or name.endswith(".num_batches_tracked"))
    ]


def _fitting_network(tensors: Mapping[str, Tensor]) -> str:
    matrices = [tensor for tensor in tensors.values() if tensor.dim() in (2, 4)]
    if not matrices:
        return "No registered network fits."
    first, last = matrices[0], matrices[-1]
    for name in sorted(list_backbones(), key=lambda name: _default_width(name) != first.shape[0]):
        parameters = backbone_signature(name).parameters
        channels = {first.shape[1], 1, 3} if first.dim() == 2 else {first.shape[1]}
        for image_size, in_channels in product((32, 28, 224, 8, 64), channels):
            options = {
                "num_classes": last.shape[0],
                "image_size": image_size,
                "in_channels": in_channels,
                "width": first.shape[0],
            }
            options = {option: value for option, value in options.items() if option in parameters}
            lines = _differences(name, options, tensors)
            if not lines:
                given = ", ".join(f"{option}={value}" for option, value in options.items())
                return f"The file fits `{name}` with {given}."
            if not all(text.startswith(OTHER_SHAPE) for text in lines):
                break  # the names do not depend on sizes
    return "No registered network fits."


def _default_width(name: str) -> int | None:
    width = backbone_signature(name).parameters.get("width")
    return None if width is None else width.default


def _differences(name: str, options: Mapping[str, int], tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    try:
        with torch.device("meta"):
            candidate = create_backbone(name, **options)
    except (ValueError, TypeError):  # a size that this network refuses
        return (OTHER_SHAPE,)
    return _match(candidate, tensors).differences
