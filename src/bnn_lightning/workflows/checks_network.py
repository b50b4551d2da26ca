"""Try a network before training starts: what it takes, and what it returns."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bnn_lightning.layers.module_utils import evaluation
from bnn_lightning.utils.image_size import sides
from bnn_lightning.workflows.errors import UserError


def check_network(network: nn.Module, num_classes: int) -> None:
    """Refuse a network that makes no logits of a batch of images.

    It is called once, in evaluation, with images of zeros. Where nobody says how large images are, it is not tried.

    Args:
        network: May say `in_channels` and `image_size`.
        num_classes: Width of the logits.

    Raises:
        UserError: It does not take such a batch, as its one argument; or it returns no tensor (N, num_classes).
    """
    channels, size = getattr(network, "in_channels", None), getattr(network, "image_size", None)
    if not isinstance(channels, int) or not isinstance(size, int | tuple):
        return
    name, shape = type(network).__name__, (2, channels, *sides(size))
    with calling(name, shape), evaluation(network), torch.no_grad(), torch.random.fork_rng(devices=[]):
        logits: Any = network(torch.zeros(shape))
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = f"the shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(
            f"`model`: {name} must return logits, a tensor of the shape (N, {num_classes}) for the {num_classes} "
            f"classes of the data. For two images it returns {found}."
        )


@contextmanager
def calling(name: str, shape: Sequence[int]) -> Iterator[None]:
    """Turn what a network says of a batch of images into an error that the user can mend.

    Args:
        name: Name of the network.
        shape: Shape of the batch.

    Raises:
        UserError: It does not take such a batch, as its one argument.
    """
    try:
        yield
    except UserError:
        raise
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"`model`: {name} must take one argument, a batch of images, such as one of the shape {tuple(shape)}: "
            f"{reason}"
        ) from error
