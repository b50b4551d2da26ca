"""Trial of a network before training starts: its input and its output."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from bnn_lightning.layers.module_utils import trial, trial_images
from bnn_lightning.workflows.building import REFUSALS
from bnn_lightning.workflows.errors import UserError


def check_network(network: nn.Module, num_classes: int) -> None:
    """Refuse a network that makes no logits of a batch of images.

    It is called once, in evaluation, with images of zeros, and left as it was. It is not tried where nobody says how
    large images are, and only as far as the CPU has its operators.

    Args:
        network: May say `in_channels` and `image_size`.
        num_classes: Width of the logits.

    Raises:
        UserError: It does not take such a batch, as its one argument; or it returns no tensor (N, num_classes).
    """
    images = trial_images(network, 2)
    if images is None:
        return
    name = type(network).__name__
    try:
        with calling(name, images.shape), trial(network):
            logits: Any = network(images)
    except UserError as error:
        if images.device.type == "cpu" and _lacks_operator(error.__cause__):
            return
        raise
    if not isinstance(logits, Tensor) or logits.shape != (2, num_classes):
        found = f"the shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise UserError(
            f"`model`: {name} must return logits, a tensor of the shape (N, {num_classes}) for the {num_classes} "
            f"classes of the data. For two images it returns {found}."
        )


def _lacks_operator(error: BaseException | None) -> bool:
    """Whether an operator is not implemented for a device; a module without `forward` is another matter."""
    if isinstance(error, NotImplementedError):
        return 'missing the required "forward"' not in str(error)
    return isinstance(error, RuntimeError) and "not implemented for 'CPU'" in str(error)


@contextmanager
def calling(name: str, shape: Sequence[int]) -> Iterator[None]:
    """Turn errors of a network on a batch of images into errors that the user can mend.

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
    except REFUSALS as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"`model`: {name} must take one argument, a batch of images, such as one of the shape {tuple(shape)}: "
            f"{reason}"
        ) from error
