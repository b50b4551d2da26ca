"""Weights of larq-zoo: HDF5 files that Keras 2 writes (`save_weights("x.h5")`, or a whole model), for our networks.

Keras numbers its layers class by class in the order in which they were made, from a count of the whole process:
`quant_conv2d_5` may be a network's first convolution. So the layers of a class are taken by their numbers, and ours of
the same class in the order of the modules. MeliusNet's layers have names of their own.

Layouts differ: kernels are (height, width, in, out), those of depthwise convolutions (height, width, channels, 1), of
linear layers (in, out); convolutions in groups lie apart; BinaryAlexNet's first linear layer reads a map by pixels and
then channels.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.pool import BlurPool2d
from bnn_lightning.models.binary_alexnet import BinaryAlexNet
from bnn_lightning.models.binary_densenet import BinaryDenseNet
from bnn_lightning.models.meliusnet import MeliusBlock, MeliusNet
from bnn_lightning.models.published_file import PublishedFile
from bnn_lightning.models.quicknet import QuickNet
from bnn_lightning.models.resnet_e import ResNetE
from bnn_lightning.utils.optional import require

_MAGIC = b"\x89HDF\r\n\x1a\n"
_FAMILIES = (BinaryAlexNet, BinaryDenseNet, MeliusNet, QuickNet, ResNetE)
# Names of a batch norm's tensors, in Keras and in torch.
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
Layers = Mapping[str, Mapping[str, Tensor]]  # tensors by the names of layer and weight


def is_keras_file(path: Path) -> bool:
    """Whether a file begins as HDF5 files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


def read_keras(path: Path, network: nn.Module) -> PublishedFile:
    """Read the weights of one of larq-zoo's networks by the names that they have in ours.

    Args:
        path: The file.
        network: One of ours.

    Raises:
        ModuleNotFoundError: h5py is not installed; the message names the extra.
        ValueError: The file is no such file, or has other layers than the network, of which the message says how many.
    """
    if not isinstance(network, _FAMILIES):
        raise ValueError(
            f"`{path}` is an HDF5 file, as larq-zoo has them, and {type(network).__name__} is none of its networks: "
            "those are QuickNet, BinaryDenseNet, MeliusNet, BinaryAlexNet and BinaryResNet-E."
        )
    layers = _read(path)
    tensors: dict[str, Tensor] = {}
    for name, module, parts in _pairs(path, network, layers):
        tensors |= _tensors(network, name, module, parts)
    return PublishedFile(path, tensors, epoch=None, accuracy=None, ignored=())


def _read(path: Path) -> dict[str, dict[str, Tensor]]:
    """Return the layers of a file that have weights, in its order."""
    h5py = require("h5py", extra="keras")
    try:
        with h5py.File(path) as file:
            root = file.get("model_weights", file)
            names = [_text(name) for name in root.attrs.get("layer_names", ())]
            layers = {name: _weights(root[name]) for name in names}
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"`{path}` ({path.stat().st_size:,} bytes) is truncated or damaged ({type(error).__name__} in reading it)."
        ) from error
    if not any(layers.values()):
        raise ValueError(
            f"`{path}` has no weights as Keras 2 writes them (no `layer_names`): with TF_USE_LEGACY_KERAS=1, as larq "
            'needs it, `model.save_weights("weights.h5")` writes them.'
        )
    return {name: weights for name, weights in layers.items() if weights}


def _weights(group: Any) -> dict[str, Tensor]:
    names = [_text(name) for name in group.attrs["weight_names"]]
    return {name.split("/")[-1].removesuffix(":0"): torch.from_numpy(group[name][()]) for name in names}


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _pairs(
    path: Path, network: nn.Module, layers: Layers
) -> Iterator[tuple[str, nn.Module, list[Mapping[str, Tensor]]]]:
    """Yield our modules with weights, by name, each with its layers in a file (those of all its groups)."""
    kinds = {name: _keras_class(network, module) for name, module in _in_order(network)}
    given = {"layers": _melius_names(network, layers)} if isinstance(network, MeliusNet) else _by_class(layers)
    wanted: dict[str, list[str]] = defaultdict(list)
    for name, kind in kinds.items():
        if kind is not None:
            wanted["layers" if isinstance(network, MeliusNet) else kind].append(name)
    counts = {kind: (len(given.get(kind, ())), len(wanted.get(kind, ()))) for kind in {**wanted, **given}}
    others = [f"{theirs} `{kind}` for {ours}" for kind, (theirs, ours) in counts.items() if theirs != ours]
    if others:
        raise ValueError(
            f"`{path}` does not fit this {type(network).__name__}: it has {', '.join(others)}. Its layers are those of "
            "the network that larq-zoo wrote: take the same name, depths and stem."
        )
    for kind, names in wanted.items():
        for name, own in zip(names, given[kind], strict=True):
            yield name, network.get_submodule(name), [layers[layer] for layer in own]


def _in_order(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the modules in the order in which larq-zoo makes its layers."""
    modules = list(network.named_modules())
    if isinstance(network, ResNetE):  # there the shortcut of a unit is made before its convolution
        places = {name: place for place, (name, _) in enumerate(modules)}
        modules.sort(key=lambda item: (places[".".join(item[0].split(".")[:2])], ".shortcut." not in item[0]))
    return modules


def _by_class(layers: Layers) -> dict[str, list[list[str]]]:
    """Return the layers of each class in the order of their numbers."""
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name in layers:
        match = re.fullmatch(r"(.+?)(?:_v[12])?(?:_(\d+))?", name)  # TensorFlow 1 had `batch_normalization_v1_3`
        assert match is not None
        found[match[1]].append((int(match[2] or 0), name))
    return {kind: [[name] for _, name in sorted(numbered)] for kind, numbered in found.items()}


def _keras_class(network: nn.Module, module: nn.Module) -> str | None:
    """Return the class of a module in larq-zoo, as its layers are called; None for one without weights."""
    # QuickNet's real layers, but for its blur, are larq's without quantizers.
    larq = "quant_" if isinstance(module, BinaryLayer) or isinstance(network, QuickNet) else ""
    if isinstance(module, nn.Linear):
        return "quant_conv2d" if isinstance(network, BinaryAlexNet) else f"{larq}dense"
    if isinstance(module, nn.Conv2d):
        depthwise = isinstance(network, QuickNet) and any(
            module is part for part in network.get_submodule("stem.3").modules()
        )
        return f"{larq}depthwise_conv2d" if depthwise else f"{larq}conv2d"
    if isinstance(module, BlurPool2d):
        return "depthwise_conv2d"
    return "batch_normalization" if isinstance(module, _BatchNorm) else None


def _melius_names(network: MeliusNet, layers: Layers) -> list[list[str]]:
    """Return larq-zoo's names of the layers of MeliusNet, in the order of our modules."""
    names = [["stem_s0_conv"], ["stem_s0_bn"]]
    for part in (1, 2):
        groups = [name for name in layers if name.startswith(f"stem_s{part}_groupconv_conv")]
        names += [sorted(groups, key=lambda name: int(name.rpartition("conv")[2])), [f"stem_s{part}_bn"]]
    section = block = 0
    for module in network.blocks.children():
        if isinstance(module, MeliusBlock):
            layer = f"section_{section}_block_{block}"
            # In our units the convolution is made before the batch norm.
            names += [[f"{layer}_{part}_{kind}"] for part in ("dense", "improve") for kind in ("binconv", "bn")]
            block += 1
        else:
            names += [[f"section_{section}_transition_{kind}"] for kind in ("bn", "pw")]
            section, block = section + 1, 0
    names += [["head_bn"], ["head_dense"]]
    known = {name for own in names for name in own}
    return [[name for name in own if name in layers] for own in names] + [
        [name] for name in layers if name not in known
    ]


def _tensors(
    network: nn.Module, name: str, module: nn.Module, parts: Sequence[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Return the tensors of a module by their names in the network, in torch's layouts."""
    first = parts[0]
    if isinstance(module, _BatchNorm):
        names = {key: f"{name}.{ours}" for key, ours in _NORM.items()}
        if not module.affine:  # the offset of one without a scale is added by the module behind it
            names["beta"] = f"{name.removesuffix('0')}1.bias"
        return {names[key]: value for key, value in first.items() if key in names}
    depthwise = "depthwise_kernel" in first
    kernel = torch.cat([part["depthwise_kernel" if depthwise else "kernel"] for part in parts], -1)
    if isinstance(module, nn.Linear):
        kernel = kernel.flatten(0, -2)
        if isinstance(network, BinaryAlexNet) and name == "fc1":
            channels, height, width = network.last_map
            kernel = kernel.view(height, width, channels, -1).permute(2, 0, 1, 3).flatten(0, 2)
        kernel = kernel.T
    else:
        kernel = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
    bias = {f"{name}.bias": first["bias"]} if "bias" in first else {}
    return {f"{name}.weight": kernel.contiguous(), **bias}
