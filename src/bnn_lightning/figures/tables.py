"""Protocols of the tables that figures are drawn from; the results of `analysis` have these attributes."""

from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class LossTable(Protocol):
    """Losses around a network; see `analysis.Landscape`."""

    @property
    def name(self) -> str: ...
    @property
    def steps(self) -> Array: ...
    @property
    def losses(self) -> Array: ...
    @property
    def accuracies(self) -> Array: ...
    @property
    def flipped(self) -> Array: ...


class SignTable(Protocol):
    """Signs of a binary layer; see `analysis.LayerSigns`."""

    @property
    def layer(self) -> str: ...
    @property
    def weight_share(self) -> float: ...
    @property
    def weight_entropy(self) -> float: ...
    @property
    def near_zero(self) -> float: ...
    @property
    def input_share(self) -> float | None: ...
    @property
    def input_entropy(self) -> float | None: ...
    @property
    def dead_inputs(self) -> float | None: ...
    @property
    def histogram(self) -> ArrayLike: ...


class SurrogateTable(Protocol):
    """Value and gradient of a binarizer over its input; see `analysis.Surrogate`."""

    @property
    def binarizer(self) -> str: ...
    @property
    def of(self) -> str: ...
    @property
    def progress(self) -> float | None: ...
    @property
    def x(self) -> ArrayLike: ...
    @property
    def value(self) -> ArrayLike: ...
    @property
    def gradient(self) -> ArrayLike: ...


class MapTable(Protocol):
    """Input of a binary layer before and after its sign, (C, H, W) each; see `analysis.LayerMaps`."""

    @property
    def real(self) -> ArrayLike: ...
    @property
    def signs(self) -> ArrayLike: ...
