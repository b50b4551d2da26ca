"""Walk the binary layers of a network, and copy it."""

import copy
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from bnn_lightning.binarizers.base import AnnealedBinarizer, Binarizer
from bnn_lightning.layers.attention import ChannelBlend
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.utils.checks import check_positive
from bnn_lightning.utils.image_size import sides


def binary_layers(model: nn.Module) -> dict[str, BinaryLayer]:
    """Return the layers with binary weights, by name, in module order; a shared layer once.

    Example:
        >>> from bnn_lightning.binarizers import WeightSign
        >>> from bnn_lightning.layers import BinaryLinear
        >>> net = nn.Sequential(nn.Linear(4, 4), BinaryLinear(4, 4, weight_binarizer=WeightSign()))
        >>> list(binary_layers(net))
        ['1']
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, BinaryLayer) and module.is_binary_layer
    }


def copy_network(model: nn.Module) -> nn.Module:
    """Copy a network, also after a call with gradients, of which its modules may keep maps: the copies have none.

    Raises:
        ValueError: A module holds what cannot be copied, such as a lock.

    Example:
        >>> net = nn.Linear(2, 2)
        >>> net.last = net(torch.ones(1, 2))
        >>> copy_network(net).last.requires_grad
        False
    """
    found = (container for module in model.modules() for container in containers(vars(module)))
    held = (item for container in found for item in items_of(container))
    # torch does not copy tensors with a history of gradients.
    memo = {id(item): item.detach().clone() for item in held if isinstance(item, Tensor) and not item.is_leaf}
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot be copied ({error}): take out of it what cannot be copied."
        ) from error


def containers(value: object, deepest: int = 4) -> Iterator[Any]:
    """Yield a dictionary, list, tuple, set or queue, and those within it, as far as `deepest` levels below."""
    if isinstance(value, dict | list | tuple | set | deque):
        yield value
        for item in items_of(value) if deepest else ():
            yield from containers(item, deepest - 1)


def items_of(container: Collection[Any]) -> Collection[Any]:
    """Return the values of a dictionary, or the items of another container."""
    return container.values() if isinstance(container, dict) else container


def latent_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the latent weights of a network's binary layers, by parameter name; a shared one once."""
    owned = {id(layer.weight) for layer in binary_layers(model).values()}
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}


def annealed(model: nn.Module) -> Iterator[AnnealedBinarizer]:
    """Yield the binarizers that follow the progress of training."""
    return (module for module in model.modules() if isinstance(module, AnnealedBinarizer))


def prefers_channels_last(model: nn.Module) -> bool:
    """Whether a network has 2-d convolutions, which are faster on CPUs and GPUs in the memory format channels_last."""
    return any(isinstance(module, nn.Conv2d) for module in model.modules())


def to_channels_last_(model: nn.Module) -> None:
    """Bring the 4-d tensors of a network into the memory format channels_last, in place.

    torch's `to(memory_format=...)` refuses networks that have 3-d convolutions besides.

    Args:
        model: Any network.
    """
    for tensor in (*model.parameters(), *model.buffers()):
        if not is_lazy(tensor):
            tensor.data = in_channels_last(tensor.data)


def in_channels_last(tensor: Tensor) -> Tensor:
    """Return a 4-d tensor in the memory format channels_last; any other, such as sequences, as it is.

    Example:
        >>> in_channels_last(torch.rand(2, 3, 4, 5)).stride()
        (60, 1, 15, 3)
        >>> in_channels_last(torch.rand(2, 3, 4)).stride()
        (12, 4, 1)
    """
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def is_binary(model: nn.Module) -> bool:
    """Whether every binarizer of the network gives exactly -1 and +1 now (no unfinished annealing)."""
    return all(module.is_binary for module in model.modules() if isinstance(module, Binarizer))


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """Put a network in evaluation mode, run it eagerly where it is compiled in place, and put every module back."""
    modes = [(module, module.training) for module in model.modules()]
    compiled = [(module, call) for module in model.modules() if (call := module._compiled_call_impl) is not None]
    try:
        model.eval()
        for module, _ in compiled:
            module._compiled_call_impl = None
        yield
    finally:
        for module, training in modes:
            module.training = training
        for module, call in compiled:
            module._compiled_call_impl = call


@contextmanager
def trial(model: nn.Module) -> Iterator[None]:
    """Evaluate a network for a trial, without gradients, and leave it as it was before its first batch.

    Afterwards parameters, buffers and plain numbers of all modules are as before, counters and flags among them, so
    that what a module takes from its first batch is not taken from a trial; torch's random numbers are as before, too.
    torch's lazy modules keep the parameters that they make.
    """
    # TorchScript's modules hold no dictionaries of Python, and nothing but tensors changes in them.
    modules = [m for m in model.modules() if not isinstance(m, LazyModuleMixin | torch.jit.ScriptModule)]
    members = [(store, dict(store)) for module in modules for store in _members(module)]
    numbers = [
        (vars(module), {key: value for key, value in vars(module).items() if isinstance(value, bool | int | float)})
        for module in modules
    ]
    tensors = [t for t in (*model.parameters(), *model.buffers()) if not is_lazy(t) and not t.is_meta]
    gpus = [device] if (device := device_of(model)).type == "cuda" else []
    try:
        with kept_values(tensors), evaluation(model), torch.no_grad(), torch.random.fork_rng(devices=gpus):
            yield
    finally:
        for store, before in members:
            store.clear()
            store.update(before)
        for attributes, own in numbers:
            attributes.update(own)


@contextmanager
def kept_values(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Give tensors their memory and their values back."""
    values = [(tensor, tensor.data, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        for tensor, data, value in values:
            tensor.data = data
            # Tensors that are expanded or of inference mode can be neither changed nor written.
            if not torch.equal(data, value) and not ((data == value) | (data != data) & (value != value)).all():
                data.copy_(value)


def _members(module: nn.Module) -> tuple[dict[str, Any], ...]:
    return module._parameters, module._buffers, module._modules


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a network's parameters; the CPU for a network without."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def trial_images(model: nn.Module, number: int = 1) -> Tensor | None:
    """Return images of zeros for a trial of a network, (number, C, H, W), on its device.

    Args:
        model: May say `in_channels` and `image_size`; where it does not, the result is None.
        number: Number of images.
    """
    channels, size = getattr(model, "in_channels", None), getattr(model, "image_size", None)
    if not isinstance(channels, int) or not isinstance(size, int | tuple):
        return None
    return torch.zeros(number, channels, *sides(size), device=device_of(model))


def replace_attribute(owner: nn.Module, name: str, value: object, stack: ExitStack) -> None:
    """Set an attribute of the instance, until `stack` is closed."""
    own = vars(owner)
    stack.callback(setattr, owner, name, own[name]) if name in own else stack.callback(delattr, owner, name)
    setattr(owner, name, value)


def freeze_(model: nn.Module, patterns: Sequence[str]) -> list[str]:
    """Exclude parameters from training, in place.

    Args:
        model: Any network.
        patterns: Names of parameters or of modules, with `*` and `?`; a module stands for all that is in it.

    Returns:
        The names of the parameters.

    Raises:
        ValueError: A pattern that no parameter has.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> freeze_(net, ["0"])
        ['0.weight', '0.bias']
    """
    names = [name for name, _ in model.named_parameters()]
    frozen: list[str] = []
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")]
        if not found:
            known = dict.fromkeys(name.partition(".")[0] for name in names)
            raise ValueError(f"`freeze`: no parameter is called {pattern!r}. The network has: {', '.join(known)}.")
        frozen += found
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    return list(dict.fromkeys(frozen))


@torch.no_grad()
def clip_latent_(model: nn.Module, limit: float = 1.0) -> None:
    """Clip the latent weights of every binary layer to [-limit, limit], in place; frozen ones stay as they are.

    Args:
        model: Any network.
        limit: Positive bound.

    Raises:
        ValueError: `limit` is not positive.
    """
    check_positive("limit", limit)
    weights: list[Tensor] = [weight for weight in latent_weights(model).values() if weight.requires_grad]
    if weights:
        torch._foreach_clamp_min_(weights, -limit)
        torch._foreach_clamp_max_(weights, limit)


@torch.no_grad()
def clip_channel_blends_(model: nn.Module) -> None:
    """Clip the weights of every `ChannelBlend` to [0, 1], in place; frozen ones stay as they are.

    Args:
        model: Any network.
    """
    scales: list[Tensor] = [m.scale for m in model.modules() if isinstance(m, ChannelBlend) and m.scale.requires_grad]
    if scales:
        torch._foreach_clamp_min_(scales, 0.0)
        torch._foreach_clamp_max_(scales, 1.0)
