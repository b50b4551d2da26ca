"""The self-teacher: a second activation stream through the student's own layers, by value swapping."""

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.distill.hooks import Record, Taps, run_eagerly
from bnn_lightning.layers.binary import BinaryLayer
from bnn_lightning.layers.module_utils import replace_attribute

Dot = Callable[[BinaryLayer, Tensor], Tensor]


class _StreamEnded(Exception):
    """Raised behind the last tapped module: what follows it (the head) is not computed."""


def run_self_teacher(taps: Taps, take: Callable[[Tensor, Tensor], None], *, dot: Dot | None = None) -> None:
    r"""Run the self-teacher of a watched forward, and hand over its features as they come.

    The backbone's own forward runs a second time without gradient, on the same input. In it every binary layer gives

    .. math:: \tilde y = |y| \cdot \mathrm{sign}(\mathrm{dot}(\tilde x, \hat w))

    before its bias: the magnitude of what the student's layer gave, y, with the sign of the product of the teacher's
    real-valued input and the latent weights (sign(0) = +1). Batch norms in training normalize with the teacher's own
    batch statistics and leave their running statistics alone, dropout draws a mask of its own. What ran before the
    first binary layer is not computed again (a dropout there keeps its mask), nor is what follows the last feature.

    Modules of the user's own that change their state in forward (torch's normalization layers are looked after) do so
    a second time, and forward hooks of others on the layers that run again are called again.

    Args:
        taps: Recordings of `watch(..., stream=True)`; used up.
        take: Called with each pair of features, the student's with its graph and the teacher's, with gradients enabled.
        dot: Product of a layer's teacher input with its latent weights; `latent_dot` by default.

    Raises:
        RuntimeError: Nothing was recorded, or the second run took another way through the network.

    References:
        Zeng et al., SKD-BNN, Applied Intelligence 54, 2024.
    """
    backbone, parts = taps.backbone, taps.parts
    if backbone is None or parts is None or not taps.products:
        raise RuntimeError("Nothing was recorded for the self-teacher: call the backbone within `distiller.watch`.")
    if not taps.tapped:
        raise RuntimeError(f"`{type(backbone).__name__}.feature_taps()` names no module that follows a binary layer.")

    def tap(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if len(taps.products) == total:
            return
        student = _next(taps.tapped, module, "feature")
        with torch.enable_grad():
            take(_channels_second(module, student), _channels_second(module, output))
        if not taps.tapped:
            raise _StreamEnded

    total = len(taps.products)
    with ExitStack() as stack, torch.no_grad():
        _no_autocast_cache(stack)
        run_eagerly(parts.compiled, stack)
        leave_statistics_alone(parts.norms, stack)
        for module in parts.tapped:
            stack.callback(module.register_forward_hook(tap).remove)
        for layer in parts.layers:
            replace_attribute(layer, "scaled_dot", _swapping(layer, taps.products, dot or latent_dot), stack)
        _replay_stem(taps.stem, stack)
        args, kwargs = taps.call
        try:
            backbone.forward(*args, **kwargs)
        except _StreamEnded:
            return
    raise RuntimeError(f"The second run of {type(backbone).__name__} ended with {len(taps.tapped)} features missing.")


def leave_statistics_alone(norms: list[nn.Module], stack: ExitStack) -> None:
    """Let normalization layers in training take the batch's statistics without noting them, until `stack` is closed."""
    for module in norms:
        replace_attribute(module, "track_running_stats", False, stack)


def latent_dot(layer: BinaryLayer, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Multiply a real-valued input with the latent weights of a binary layer.

    Args:
        layer: A binary layer.
        x: Its input, not binarized.
        dtype: Compute in this precision, whatever autocast says; None leaves the choice to the network and autocast.

    Returns:
        Shape of the layer's output.
    """
    weight = layer.latent_weight
    with _plain(x) if dtype is not None else nullcontext():
        x, weight = (x, weight) if dtype is None else (x.to(dtype), weight.to(dtype))
        return layer.dot(x, weight)


def _plain(x: Tensor) -> AbstractContextManager[object]:
    enabled = torch.is_autocast_enabled(x.device.type)
    return torch.autocast(x.device.type, enabled=False) if enabled else nullcontext()


def _swapping(layer: BinaryLayer, products: deque[Record], dot: Dot) -> Callable[[Tensor], Tensor]:
    def swapping(x: Tensor) -> Tensor:
        magnitude = _next(products, layer, "binary product")
        # A sum that begins with +0.0 never ends as -0.0, so that `copysign` is our `sign`, in one pass.
        direction = dot(layer, x).to(magnitude.dtype)
        return torch.copysign(magnitude, direction, out=direction)

    return swapping


def _channels_second(module: nn.Module, features: Tensor) -> Tensor:
    """Return features with their channels in dimension 1: linear layers have them in the last one."""
    return features.movedim(-1, 1) if isinstance(module, nn.Linear) else features


def _next(records: deque[Record], module: object, what: str) -> Tensor:
    if not records or records[0].module is not module:
        raise RuntimeError(
            f"The self-teacher met a {what} of {type(module).__name__} where the student had another one: "
            "`forward` must take the same way through the network when it is called again."
        )
    item = records.popleft()
    if item.value is None or not item.intact:
        raise RuntimeError(
            f"The {what} of {type(module).__name__}({getattr(module, 'extra_repr', str)()}) was changed in place after "
            "it was recorded: use an operation that is not in place behind it."
        )
    return item.value


def _replay_stem(stem: deque[Record], stack: ExitStack) -> None:
    """Let modules of the stem return what they returned to the student.

    An output that was changed in place afterwards is computed again, its module's inputs being replayed.
    """
    inside = False

    def replaying(module: nn.Module) -> Callable[..., Any]:
        forward = module.forward

        def replay(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside or not stem or stem[0].module is not module:
                return forward(*args, **kwargs)
            item = stem.popleft()
            if item.intact:
                return item.value
            inside = True
            try:
                return forward(*args, **kwargs)
            finally:
                inside = False

        return replay

    for module in {id(item.module): item.module for item in stem}.values():
        replace_attribute(module, "forward", replaying(module), stack)


def _no_autocast_cache(stack: ExitStack) -> None:
    # Weights cast to half precision without gradient must not be found by a later forward with gradient (torch 2.10;
    # mended by https://github.com/pytorch/pytorch/pull/165068).
    stack.callback(torch.set_autocast_cache_enabled, torch.is_autocast_cache_enabled())
    torch.set_autocast_cache_enabled(False)
