"""Feature maps of a student and a teacher, recorded and paired by size."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from bnn_lightning.distill.hooks import compiled_modules, run_eagerly


@contextmanager
def record_maps(network: nn.Module, names: Sequence[str] | None, maps: dict[Any, Tensor]) -> Iterator[None]:
    """Record feature maps (N, C, H, W) of one call of `network` into `maps`, in the order of execution.

    Meanwhile a compiled network runs as it was written.

    Args:
        network: Any network.
        names: Modules whose outputs are recorded; None takes, of those that the network's `feature_taps()` names, the
            last map of each size: the end of each stage.
        maps: Filled during the call.

    Raises:
        ValueError: A module that does not exist, or no names and a network without `feature_taps`.
    """

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim == 4:
                maps[tuple(output.shape[2:]) if names is None else name] = output

        return hook

    with ExitStack() as stack:
        run_eagerly(compiled_modules(network.modules()), stack)
        for name, module in tapped_modules(network, names):
            stack.callback(module.register_forward_hook(note(name)).remove)
        yield


def tapped_modules(network: nn.Module, names: Sequence[str] | None) -> list[tuple[str, nn.Module]]:
    """Return the modules that `record_maps` listens to.

    Raises:
        ValueError: See `record_maps`.
    """
    if names is None and not hasattr(network, "feature_taps"):
        raise ValueError(
            f"{type(network).__name__} does not declare `feature_taps`: name the modules to compare (`student_taps`, "
            "`teacher_taps`)."
        )
    wanted: Iterable[str] = network.feature_taps() if names is None else names  # type: ignore[operator]
    known = dict(network.named_modules())
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"{type(network).__name__} has no module `{unknown[0]}`. It has: {', '.join(known)}.")
    return [(name, known[name]) for name in wanted]


def pairs(student: dict[Any, Tensor], teacher: dict[Any, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Return which maps belong together, counted from the last one: a teacher's early stages may have no partner.

    Raises:
        ValueError: One of the two has no feature map.

    Example:
        >>> import torch
        >>> maps = lambda *sizes: {size: torch.zeros(1, 1, size, size) for size in sizes}
        >>> [(a.shape[-1], b.shape[-1]) for a, b in pairs(maps(8, 4), maps(16, 8, 4))]
        [(8, 8), (4, 4)]
    """
    for whose, maps in (("student", student), ("teacher", teacher)):
        if not maps:
            raise ValueError(
                f"The {whose} gives no feature maps (N, C, H, W) to compare: name modules that do (`{whose}_taps`), or "
                "set `attention=0` and `feature=0`."
            )
    number = min(len(student), len(teacher))
    return list(zip(list(student.values())[-number:], list(teacher.values())[-number:], strict=True))
