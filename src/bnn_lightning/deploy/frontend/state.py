"""State of modules beside tensors: a graph computes the same in each call, so a call must not change it."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.ir.graph import GraphError

Places = dict[tuple[str, str], Any]


class _AnySize:
    """A size that a trace does not know."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def settings_of(network: nn.Module) -> Places:
    """Return the plain attributes of modules, by the names of module and attribute, to be compared."""
    return {
        (name, key): _settled(value) for name, module in network.named_modules() for key, value in vars(module).items()
    }


def _settled(value: Any) -> Any:
    match value:
        case torch.SymInt() | torch.SymFloat() | torch.SymBool():
            return _AnySize()
        case dict():
            return {key: _settled(item) for key, item in value.items()}
        case list() | tuple():
            return [_settled(item) for item in value]
        case set() | frozenset():
            return frozenset(value)
        case None | bool() | int() | float() | str():
            return repr(value)  # NaN is equal to itself
    return "another"  # tensors, functions, objects


@contextmanager
def kept_attributes(network: nn.Module) -> Iterator[None]:
    """Give modules their attributes back, and lists, dictionaries and sets among them their items."""
    own = set(vars(nn.Module()))  # parameters, buffers, modules and hooks
    kept = [
        (module, {key: value for key, value in vars(module).items() if key not in own}) for module in network.modules()
    ]
    containers = [value for _, held in kept for value in held.values() if isinstance(value, list | dict | set)]
    items = [copy.copy(value) for value in containers]
    try:
        yield
    finally:
        for module, held in kept:
            for key in set(vars(module)) - own - set(held):
                delattr(module, key)
            for key, value in held.items():
                if vars(module).get(key) is not value:
                    setattr(module, key, value)
        for value, before in zip(containers, items, strict=True):
            value.clear()
            value.extend(before) if isinstance(value, list) else value.update(before)


@torch.no_grad()
def refuse_counters(network: nn.Module, images: Tensor, before: Places, after: Places) -> None:
    """Refuse a network that a traced call has changed, unless a second call leaves it and its results as they are.

    Args:
        network: The network, as it was before the call; copies of it are called.
        images: Images that it takes.
        before: Its `settings_of` before the call.
        after: The same behind the call.

    Raises:
        GraphError: Names an attribute that a call changes.
    """
    changed = _changed(before, after)
    if not changed:
        return
    network = copy.deepcopy(network)
    first, settled = network(images.clone()), settings_of(network)
    second = network(images.clone())
    again = _changed(settled, settings_of(network))
    if not again and torch.equal(first, second):
        return
    name, key = sorted(again or changed)[0]
    place = f"{name}.{key}".removeprefix("network.").removeprefix(".")
    raise GraphError(
        f"`forward` changes the attribute `{place}`, and a graph computes the same in each call: keep such state "
        "outside of it, or call the network once before it is packed, where only the first call changes it."
    )


def _changed(before: Places, after: Places) -> set[tuple[str, str]]:
    missing = object()
    return {place for place in {**before, **after} if before.get(place, missing) != after.get(place, missing)}
