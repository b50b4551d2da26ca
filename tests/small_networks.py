"""Options that make every registered network small, for tests that are parametrized over them."""

from typing import Any

import pytest
import torch
from torch import nn

from bnn_lightning.models import Backbone, list_backbones

# Those of 34 layers are the blocks of those of 18, and the sizes of BNext, QuickNet and BinaryDenseNet one builder.
SIZES = (
    "bnext_small",
    "bnext_middle",
    "bnext_large",
    "quicknet",
    "quicknet_large",
    *("binarydensenet37", "binarydensenet45"),
)
BACKBONES = [name for name in list_backbones() if not name.endswith("34") and name not in SIZES]
# `make test` leaves out networks whose blocks another one has.
ONE_OF_EACH = [name if name in BACKBONES else pytest.param(name, marks=pytest.mark.slow) for name in list_backbones()]
# One of each kind of unit and of transition; the sizes of BNext are one builder.
_SMALL: dict[str, dict[str, Any]] = {
    "bnext_tiny": {"depths": (2, 1)},
    "bnext_small": {"depths": (1,)},
    "bnext_middle": {"depths": (1,)},
    "bnext_large": {"depths": (1,)},
    "quicknet": {"depths": (1, 1, 1, 2)},
    "quicknet_small": {"depths": (1, 1, 1, 2)},
    "quicknet_large": {"depths": (1, 1, 1, 2)},
    "binarydensenet28": {"depths": (2, 1, 1, 1)},
    "binarydensenet37": {"depths": (2, 1, 1, 1)},
    "binarydensenet45": {"depths": (2, 1, 1, 1)},
    "meliusnet22": {"depths": (2, 1, 1, 1)},
    "binary_resnet_e18": {"depths": (1, 1, 1, 1)},
    "binary_alexnet": {"stem": "cifar"},
}


# Widths are multiples of these: MeliusNet has groups, and a quarter of QuickNet's channels is to be more than one.
_MULTIPLES = {"meliusnet22": 16, "quicknet": 8, "quicknet_small": 8, "quicknet_large": 8}


def small_options(name: str, **options: Any) -> dict[str, Any]:
    """Return `options` and, where a network takes it, a small depth."""
    given = {**_SMALL.get(name, {}), **options}
    if "width" in given:
        multiple = _MULTIPLES.get(name, 1)
        given["width"] = -(-given["width"] // multiple) * multiple
    return given


def without_repeats(network: Backbone) -> Backbone:
    """Take out blocks that keep the shape of their input where one with the same parameters' names comes before them.

    What holds for every operation of a network holds for it with each kind of block once.
    """
    names = [name for name in getattr(network, "stage_names", ["blocks"]) if hasattr(network, name)]
    keep_the_shape: dict[nn.Module, bool] = {}

    def note(block: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        keep_the_shape[block] = inputs[0].shape == output.shape

    hooks = [block.register_forward_hook(note) for name in names for block in network.get_submodule(name).children()]
    training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, network.in_channels, network.image_size, network.image_size))
    network.train(training)
    for hook in hooks:
        hook.remove()
    kinds = set()
    for name in names:
        kept = []
        for block in network.get_submodule(name).children():
            kind = (type(block), *(key for key, _ in block.named_parameters()))
            if kind not in kinds or not keep_the_shape[block]:
                kept.append(block)
            kinds.add(kind)
        network.set_submodule(name, nn.Sequential(*kept))
    return network
