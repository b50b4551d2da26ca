"""Content of a page: plain data, gathered elsewhere."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnn_lightning.utils.curves import Curves

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """Rows under a header; numbers stand at the right.

    Attributes:
        header: Names of the columns.
        rows: As many cells each.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclass(frozen=True)
class Matrix:
    """A square of numbers, classes by classes.

    Attributes:
        values: (C, C), row by row.
        names: Names of the C classes.
    """

    values: NDArray[np.float64]
    names: Sequence[str]

    def __post_init__(self) -> None:
        if self.values.shape != (len(self.names), len(self.names)):
            raise ValueError(f"`values` must be {len(self.names)} x {len(self.names)}, got {self.values.shape}.")


@dataclass(frozen=True)
class Example:
    """An image and its prediction.

    Attributes:
        pixels: (H, W) or (H, W, 3), uint8.
        label: Its class.
        predicted: The likeliest class.
        probability: Probability of `predicted`.
    """

    pixels: NDArray[np.uint8]
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class RunContent:
    """Content of the page of a run; a part that is empty or None has no section.

    Attributes:
        title: Name of the run.
        subtitle: Network and data of the training.
        facts: Figures at the top, by what they are.
        notes: Sentences below them: what the figures leave out.
        curves: By metric, a value an epoch (`utils.curves.read_curves`).
        examples: The first test images.
        mistakes: Those that the network was surest of.
        confusion: Numbers of images by true class (row) and predicted class (column).
        profile: Sums, and what papers make of them.
        layers: Counts by layer.
        signs: Signs of the binary layers' weights.
        bank: Soft labels, a row a class.
        packed: The exported file, by what is said of it.
        latency: Latency of it and of others.
        overrides: Overrides of the command line.
        config: The whole configuration, as text.
    """

    title: str
    subtitle: str = ""
    facts: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    curves: Curves = field(default_factory=dict)
    examples: Sequence[Example] = ()
    mistakes: Sequence[Example] = ()
    confusion: Matrix | None = None
    profile: Table | None = None
    layers: Table | None = None
    signs: Table | None = None
    bank: Matrix | None = None
    packed: Table | None = None
    latency: Table | None = None
    overrides: Sequence[str] = ()
    config: str = ""
