"""Trial of a binary network with one input: layers that are never called, inputs of one sign."""

from collections.abc import Collection
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.layers.binarize_kinds import keeping_real
from bnn_lightning.layers.binary import BinaryLayer, input_of


@torch.no_grad()
def try_binary(model: nn.Module, example: Tensor) -> tuple[str, ...]:
    """Call a network once in evaluation, and return the binary layers whose inputs have one sign.

    Args:
        model: Is set to evaluation mode.
        example: An input of it.

    Returns:
        Names of layers that see no negative value, or no other; none for an `example` without values (device meta).

    Raises:
        ValueError: The network reads the weight of a binary layer without calling the layer, so that it would compute
            with the real weight; or it does not take such an input.
    """
    layers = {
        name: m for name, m in model.named_modules() if isinstance(m, BinaryLayer) and m.input_binarizer is not None
    }
    seen: dict[str, list[tuple[bool, bool]]] = {name: [] for name in layers}

    def record(name: str, x: Tensor) -> None:
        signs = (True, True) if x.is_meta else (bool((x < 0).any()), bool((x >= 0).any()))
        seen[name].append(signs)

    hooks = [layer.register_forward_pre_hook(_hook(name, record), with_kwargs=True) for name, layer in layers.items()]
    try:
        model.eval()(example)
    except (RuntimeError, IndexError, AssertionError) as error:
        message = str(error).strip().splitlines()
        raise ValueError(
            f"{type(model).__name__} does not take an input of shape {tuple(example.shape)}: "
            f"{message[0].rstrip('.') if message else type(error).__name__}. Take images of another size, or another "
            "network."
        ) from error
    finally:
        for hook in hooks:
            hook.remove()
    never = [name for name, calls in seen.items() if not calls]
    if never:
        raise ValueError(
            f"The network never calls `{never[0]}`, and so would compute with its real weight; keep it real: "
            f"{keeping_real(_patterns(never, layers))}."
        )
    return tuple(name for name, calls in seen.items() if not all(any(sign) for sign in zip(*calls, strict=True)))


def _patterns(names: Collection[str], layers: Collection[str]) -> list[str]:
    """Return patterns that match these of the layers and no others: by the last two parts of a name, or the name.

    Example:
        >>> _patterns(["a.attn.qkv", "b.attn.qkv", "a.mlp.fc"], ["a.attn.qkv", "b.attn.qkv", "a.mlp.fc", "b.mlp.fc"])
        ['*.attn.qkv', 'a.mlp.fc']
    """
    ends = {name: f"*.{'.'.join(name.split('.')[-2:])}" for name in names}
    alone = {end for end in ends.values() if all(name in names for name in layers if fnmatchcase(name, end))}
    return list(dict.fromkeys(end if end in alone and name.count(".") > 1 else name for name, end in ends.items()))


def _hook(name: str, record: Any) -> Any:
    return lambda _, args, kwargs: record(name, input_of(args, kwargs))
