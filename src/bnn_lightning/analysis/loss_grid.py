"""Loss and accuracy of a network at points around its weights."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from bnn_lightning.analysis.directions import Direction, shifted
from bnn_lightning.layers.module_utils import binary_layers
from bnn_lightning.layers.norm import cumulative

Classify = Callable[[Tensor], Tensor]
Evaluator = Callable[[nn.Module], Callable[[], Classify]]


class Measured(NamedTuple):
    """Measurements at a point.

    Attributes:
        loss: Mean cross-entropy of the images.
        accuracy: Share of the images whose label has the largest logit.
        flipped: Share of the binary weights with another sign than at the center; NaN where there are none.
    """

    loss: float
    accuracy: float
    flipped: float


def eager(model: nn.Module) -> Callable[[], Classify]:
    """Evaluate with the network itself, as it stands.

    This is the form of an evaluator: it is given the network once, and what it returns is called at each point, with
    the weights of that point in the network, and gives back what computes logits.
    """
    return lambda: model


@dataclass(frozen=True)
class Problem:
    """Arguments that all points share.

    Attributes:
        model: The network, at the center; its weights are moved, and put back.
        directions: One or more.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        batch_size: Images at a time.
        evaluator: See `eager`.
        bn_images: At each point the statistics of batch norm are estimated anew from these; None keeps those of the
            network.
    """

    model: nn.Module
    directions: Sequence[Direction]
    images: Tensor
    labels: Tensor
    batch_size: int = 250
    evaluator: Evaluator = eager
    bn_images: Tensor | None = None

    def to(self, device: str) -> "Problem":
        """Return the problem on a device; the network itself moves there."""
        return replace(
            self,
            model=self.model.to(device),
            directions=[{name: tensor.to(device) for name, tensor in one.items()} for one in self.directions],
            images=self.images.to(device),
            labels=self.labels.to(device),
            bn_images=None if self.bn_images is None else self.bn_images.to(device),
        )


class Surroundings:
    """Measurement of points around a network, one at a time, in this process.

    Args:
        problem: Problem that all of them share.

    Raises:
        ValueError: No images, labels of another number, or what the evaluator refuses.

    Example:
        >>> from bnn_lightning.analysis import random_direction
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> directions = [random_direction(network, seed=1)]
        >>> around = Surroundings(Problem(network, directions, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])))
        >>> around.at((0.0,)).loss == around.at((0.0,)).loss
        True
    """

    def __init__(self, problem: Problem) -> None:
        if not len(problem.labels) or len(problem.labels) != len(problem.images):
            raise ValueError(
                f"`images` and `labels` must be as many, got {len(problem.images)} and {len(problem.labels)}."
            )
        self.problem = problem
        self.model = problem.model.eval()
        self.classify = problem.evaluator(self.model)
        self.signs = self._signs()

    @torch.no_grad()
    def at(self, steps: Sequence[float]) -> Measured:
        """Measure the network at `center + sum of step * direction`."""
        with ExitStack() as stack:
            stack.enter_context(shifted(self.model, self.problem.directions, steps))
            if self.problem.bn_images is not None:
                batches = torch.split(self.problem.bn_images, self.problem.batch_size)
                stack.enter_context(reestimated(self.model, batches))
            loss, accuracy = self._score(self.classify())
            return Measured(loss, accuracy, self._flipped())

    def _score(self, classify: Classify) -> tuple[float, float]:
        problem, loss, right = self.problem, 0.0, 0
        size = problem.batch_size
        pairs = zip(torch.split(problem.images, size), torch.split(problem.labels, size), strict=True)
        for images, labels in pairs:
            logits = classify(images).double()
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
        return loss / len(problem.labels), right / len(problem.labels)

    def _signs(self) -> list[Tensor]:
        with torch.no_grad():
            return [layer.binary_weight > 0 for layer in binary_layers(self.model).values()]

    def _flipped(self) -> float:
        total = sum(signs.numel() for signs in self.signs)
        differ = [(now != before).sum() for now, before in zip(self._signs(), self.signs, strict=True)]
        return int(torch.stack(differ).sum()) / total if total else float("nan")


@contextmanager
def reestimated(model: nn.Module, batches: Sequence[Tensor]) -> Iterator[None]:
    """Let batch norms have the statistics of these images within the context, and put theirs back to the bit.

    Args:
        model: In evaluation mode.
        batches: Images, (N, C, H, W) each; a batch norm's statistics are the plain means over batches.
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    kept = [(norm, {name: buffer.clone() for name, buffer in norm.named_buffers()}) for norm in norms]
    try:
        with cumulative(model, norms), torch.no_grad():
            for images in batches:
                model(images)
        yield
    finally:
        for norm, buffers in kept:
            for name, buffer in norm.named_buffers():
                buffer.copy_(buffers[name])
