"""Modules that show their tensors when these are asked for, and notice it when they are changed afterwards."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Any, Self

import torch
from torch import Tensor, nn

_VERSION: Callable[[Tensor], int] = attrgetter("_version")


class Watch:
    """Notice changes of the tensors of a module: in place, of their memory, or by others in their places.

    Torch does not count what is written by way of `tensor.data` or by numpy.

    Args:
        module: Any module.
        more: Tensors that are neither parameters nor buffers of it.

    Example:
        >>> norm = nn.BatchNorm2d(2)
        >>> watch = Watch(norm)
        >>> _ = norm.to("cpu")
        >>> watch.has_changed()
        False
        >>> _ = nn.init.normal_(norm.weight)
        >>> watch.has_changed(), watch.has_replaced()
        (True, False)
    """

    def __init__(self, module: nn.Module, more: Iterable[Tensor] = ()) -> None:
        modules = list(module.modules())
        self._places: list[Mapping[str, object]] = [
            places for m in modules for places in (m._parameters, m._buffers, m._modules)
        ]
        self._modules = modules
        self._hooks = [hooks for m in modules[1:] for hooks in (m._forward_hooks, m._forward_pre_hooks)]
        self._was_hooked = self.has_hooks()
        self._tensors = [*module.parameters(), *module.buffers(), *more]
        # Nobody counts the changes of tensors that were made in inference mode.
        self.counts = not any(tensor.is_inference() for tensor in self._tensors)
        self._ids = self._held()
        self._state = self._states()

    def _held(self) -> list[int]:
        return [id(item) for places in self._places for item in places.values()]

    def _states(self) -> list[int]:
        if not self.counts:
            return []
        return [*map(_VERSION, self._tensors), *map(Tensor.data_ptr, self._tensors)]

    def has_replaced(self) -> bool:
        """Whether a place has another tensor or module, or hooks may be others."""
        return self._held() != self._ids or self._was_hooked or self.has_hooks()

    def has_changed(self) -> bool:
        """Whether a tensor has other values, other memory, or another one in its place."""
        return self.has_replaced() or self._states() != self._state

    def has_hooks(self) -> bool:
        """Whether a module within has hooks on its forward."""
        return any(self._hooks)

    def is_training(self) -> bool:
        """Whether the module or one within is in training mode."""
        return any(module.training for module in self._modules)


class OnDemand(nn.Module, ABC):
    """A module that shows its buffers and modules when they are first asked for: until then nobody can change them."""

    _watch: Watch | None

    def _hide(self) -> None:
        """Begin without buffers and modules: `__getattr__` makes them."""
        del self.__dict__["_buffers"], self.__dict__["_modules"]
        self._watch = None

    @abstractmethod
    def _made(self) -> tuple[dict[str, Tensor | None], dict[str, nn.Module | None]]:
        """Return buffers and modules by name."""

    def _watched(self) -> Iterable[Tensor]:
        """Return the tensors that are neither parameters nor buffers."""
        return ()

    @abstractmethod
    def _update(self) -> None:
        """Forget everything that was made of tensors which have changed."""

    @property
    def is_shown(self) -> bool:
        """Whether buffers and modules are there."""
        return "_modules" in self.__dict__

    def _show(self) -> None:
        """Make buffers and modules, unless they are there, and watch them from now on."""
        if self.is_shown:
            return
        with torch.inference_mode(False):
            buffers, modules = self._made()
        if not self.is_shown:  # both at once: another thread may look
            self.__dict__.update(_buffers=buffers, _modules=modules)
            self._watch = Watch(self, self._watched())

    def __getattr__(self, name: str) -> Any:
        if self.is_shown or "_watch" not in self.__dict__ or name.startswith("__"):
            return super().__getattr__(name)
        self._show()
        return getattr(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor | nn.Module) and "_watch" in self.__dict__:  # among the others
            self._show()
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        self._update()
        return {**self.__dict__, "_watch": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._watch = Watch(self, self._watched()) if self.is_shown else None

    def register_buffer(self, *args: Any, **kwargs: Any) -> None:
        """As of `nn.Module`."""
        self._show()
        super().register_buffer(*args, **kwargs)

    def train(self, mode: bool = True) -> Self:
        """As of `nn.Module`; makes nothing."""
        if self.is_shown or not isinstance(mode, bool):
            return super().train(mode)
        self.training = mode
        return self
