"""State of modules beside tensors: a graph computes the same in each call, so a call must not change it."""

from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from bnn_lightning.deploy.ir.graph import GraphError
from bnn_lightning.layers.module_utils import containers, copy_network, items_of, kept_values

Places = dict[tuple[str, str], Any]
_Item = TypeVar("_Item")
# Containers within containers that are looked into.
_DEEPEST = 4


class _AnySize:
    """A size that a trace does not know."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def settings_of(network: nn.Module, *, with_tensors: bool = True) -> Places:
    """Return the attributes of modules, by the names of module and attribute, to be compared.

    Args:
        network: The network.
        with_tensors: Compare tensors by identity; without, all are alike.
    """
    return {
        (name, key): _settled(value, _DEEPEST, with_tensors)
        for name, module in network.named_modules()
        for key, value in vars(module).items()
    }


def _settled(value: Any, deepest: int, with_tensors: bool) -> Any:
    match value:
        case torch.SymInt() | torch.SymFloat() | torch.SymBool():
            return _AnySize()
        case dict() if deepest:
            return {key: _settled(item, deepest - 1, with_tensors) for key, item in value.items()}
        case list() | tuple() | deque() if deepest:
            return [_settled(item, deepest - 1, with_tensors) for item in value]
        case set() | frozenset():
            return frozenset(value)
        case np.ndarray():
            return value.shape, value.tobytes()
        case Tensor():
            return id(value) if with_tensors else "a tensor"
        case None | bool() | int() | float() | complex() | str() | bytes() | np.generic():
            return repr(value)  # NaN is equal to itself
    return "another"  # functions, objects


@contextmanager
def kept_state(network: nn.Module) -> Iterator[None]:
    """Leave modules as they were: their members, other attributes, items of containers, values of tensors and arrays.

    The values of parameters and buffers are no matter of this: torch.export writes into others in their places.
    """
    modules = list(network.modules())
    found = _distinct(container for module in modules for container in containers(vars(module)))
    kept = [(container, _entries(container)) for container in found if not isinstance(container, tuple)]
    members = {id(store) for module in modules for store in (module._parameters, module._buffers)}
    held = _distinct(item for container in found if id(container) not in members for item in items_of(container))
    tensors = [t for t in held if isinstance(t, Tensor) and not t.is_meta and t.layout is torch.strided]
    arrays = [(array, array.copy()) for array in held if isinstance(array, np.ndarray)]
    try:
        with kept_values(tensors):
            yield
    finally:
        for array, values in arrays:
            if array.tobytes() != values.tobytes():
                array[...] = values
        for container, before in kept:
            if _ids(_entries(container)) != _ids(before):
                _restore(container, before)


def _entries(container: Collection[Any]) -> list[tuple[Any, ...]]:
    """Return the keys and values of a dictionary, or the items of another container."""
    return list(container.items()) if isinstance(container, dict) else [(item,) for item in container]


def _restore(container: Any, entries: Iterable[tuple[Any, ...]]) -> None:
    """Fill a container, without methods that its class may have changed: `Counter.update` counts what it is given."""
    kind: Any = next(kind for kind in (OrderedDict, dict, list, deque, set) if isinstance(container, kind))
    kind.clear(container)
    for entry in entries:
        if isinstance(container, dict):
            kind.__setitem__(container, *entry)
        elif isinstance(container, set):
            kind.add(container, *entry)
        else:
            kind.append(container, *entry)


def _ids(entries: Iterable[tuple[Any, ...]]) -> list[int]:
    return [id(part) for entry in entries for part in entry]


def _distinct(items: Iterable[_Item]) -> list[_Item]:
    return list({id(item): item for item in items}.values())


@torch.no_grad()
def refuse_counters(network: nn.Module, images: Tensor, before: Places, after: Places) -> None:
    """Refuse a network that a traced call has changed, unless a second call leaves it and its results as they are.

    Tensors that a call keeps, such as maps to look at, may be others in each: the results say whether they are read.

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
    network = copy_network(network)
    first, settled = network(images.clone()), settings_of(network, with_tensors=False)
    second = network(images.clone())
    again = _changed(settled, settings_of(network, with_tensors=False))
    of_tensors = isinstance(first, Tensor) and isinstance(second, Tensor)
    if not again and of_tensors and torch.allclose(first, second, rtol=0, atol=0, equal_nan=True):
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
