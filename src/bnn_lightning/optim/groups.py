"""Parameter groups: weight decay by kind of parameter."""

from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from bnn_lightning.binarizers.learned import RSign
from bnn_lightning.layers.activation import LearnableBias
from bnn_lightning.layers.attention import ChannelBlend
from bnn_lightning.layers.module_utils import latent_weights

# One value a channel, which BNext and ReActNet hold as (1, C, 1, 1).
SHIFTS = (LearnableBias, ChannelBlend, RSign)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)


def default_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    latent_weight_decay: float | None = None,
    norm_weight_decay: float | None = None,
    filter_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Split the trainable parameters into latent binary weights, norms and biases, and the rest.

    BNext splits in another way: all that its code holds as four-dimensional tensors on one side, which are filters,
    latent weights, shifts and blends (decay 1e-8), and on the other norms, slopes, biases and the classifier (1e-3).
    `weight_decay=1e-3, filter_weight_decay=1e-8` is that.

    Args:
        model: Network, or task.
        weight_decay: Weight decay of the rest: real-valued weight matrices and filters.
        latent_weight_decay: Weight decay of the latent weights of binary layers; None means `weight_decay`.
        norm_weight_decay: Weight decay of normalization layers and of all parameters with at most one dimension
            (biases, slopes, thresholds); None means `weight_decay`.
        filter_weight_decay: Weight decay of filters with four dimensions, and of the shifts of RSign and LearnableBias
            and the weights of ChannelBlend; of latent weights, too, unless these have their own. None leaves these
            where they are.

    Returns:
        Parameter groups for an optimizer, named "latent", "filter", "norm" and "rest". Every parameter that requires a
        gradient is in exactly one of them, a shared one once; empty groups are left out.

    Raises:
        ValueError: A negative decay, or nothing to train.

    Example:
        >>> from bnn_lightning.binarizers import WeightSign
        >>> from bnn_lightning.layers import BinaryLinear
        >>> net = nn.Sequential(BinaryLinear(4, 8, weight_binarizer=WeightSign()), nn.BatchNorm1d(8), nn.Linear(8, 2))
        >>> groups = default_groups(net, weight_decay=1e-4, norm_weight_decay=0.0)
        >>> [(group["name"], len(group["params"]), group["weight_decay"]) for group in groups]
        [('latent', 1, 0.0001), ('norm', 4, 0.0), ('rest', 1, 0.0001)]
    """
    latent_weight_decay = filter_weight_decay if latent_weight_decay is None else latent_weight_decay
    decays = {
        "latent": latent_weight_decay,
        "filter": filter_weight_decay,
        "norm": norm_weight_decay,
        "rest": weight_decay,
    }
    for name, decay in decays.items():
        if decay is not None and decay < 0:
            raise ValueError(f"The weight decay of the group {name!r} must not be negative, got {decay}.")
    latent = {id(weight) for weight in latent_weights(model).values()}
    norms = _owned_by(model, NORMS)
    shifts = _owned_by(model, SHIFTS)
    members: dict[str, list[nn.Parameter]] = {name: [] for name in decays}
    for parameter in model.parameters():  # each object once, shared or not
        if not parameter.requires_grad:
            continue
        if id(parameter) in latent:
            members["latent"].append(parameter)
        elif filter_weight_decay is not None and (parameter.ndim == 4 or id(parameter) in shifts):
            members["filter"].append(parameter)
        elif id(parameter) in norms or parameter.ndim <= 1:
            members["norm"].append(parameter)
        else:
            members["rest"].append(parameter)
    if not any(members.values()):
        raise ValueError("The model has no parameter that requires a gradient: there is nothing to train.")
    return [
        {"params": params, "name": name, "weight_decay": weight_decay if (own := decays[name]) is None else own}
        for name, params in members.items()
        if params
    ]


def _owned_by(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> set[int]:
    return {id(p) for module in model.modules() if isinstance(module, kinds) for p in module.parameters(recurse=False)}
