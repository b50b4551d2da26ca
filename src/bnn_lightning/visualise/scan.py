"""Measure a network at many points around itself."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.layers.tree import binary_layers
from bnn_lightning.visualise.directions import Direction, shifted

Classify = Callable[[Tensor], Tensor]


class Measured(NamedTuple):
    """What was found at a point.

    Attributes:
        loss: Mean cross-entropy of the images.
        accuracy: Share of the images whose label has the largest logit.
        flipped: Share of the binary weights with another sign than at the centre; NaN where there are none.
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
    """What is the same for all points.

    Attributes:
        model: The network, at the centre; its weights are moved, and put back.
        directions: One or more.
        images: (N, C, H, W) in [0, 1].
        labels: (N,).
        batch_size: Images at a time.
        evaluator: See `eager`.
    """

    model: nn.Module
    directions: Sequence[Direction]
    images: Tensor
    labels: Tensor
    batch_size: int = 250
    evaluator: Callable[[nn.Module], Callable[[], Classify]] = eager


class Surroundings:
    """The points around a network, measured one at a time, in this process.

    Args:
        problem: What is the same for all of them.

    Example:
        >>> from bnn_lightning.visualise import random_direction
        >>> network = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        >>> directions = [random_direction(network, seed=1)]
        >>> around = Surroundings(Problem(network, directions, torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])))
        >>> around.at((0.0,)).loss == around.at((0.0,)).loss
        True
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.model = problem.model.eval()
        self.classify = problem.evaluator(self.model)
        self.signs = self._signs()

    @torch.no_grad()
    def at(self, steps: Sequence[float]) -> Measured:
        """Measure the network at `centre + sum of step * direction`."""
        with shifted(self.model, self.problem.directions, steps):
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

    @torch.no_grad()
    def _signs(self) -> list[Tensor]:
        return [layer.binary_weight.detach() > 0 for layer in binary_layers(self.model).values()]

    def _flipped(self) -> float:
        pairs = list(zip(self._signs(), self.signs, strict=True))
        total = sum(signs.numel() for signs in self.signs)
        return sum(int((now != before).sum()) for now, before in pairs) / total if total else float("nan")


def scan(problem: Problem, points: Iterable[tuple[int, Sequence[float]]]) -> Iterator[tuple[int, Measured]]:
    """Measure points, and yield each as it is done.

    Args:
        problem: What is the same for all of them.
        points: Number and steps of each.
    """
    around = Surroundings(problem)
    for index, steps in points:
        yield index, around.at(steps)
