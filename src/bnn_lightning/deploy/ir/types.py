"""Types of values: shapes for any number of images, and dtypes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


class ShapeError(ValueError):
    """A node's inputs and attributes do not fit."""


@dataclass(frozen=True)
class Images:
    """The size of a dimension that grows with the number of images.

    Attributes:
        each: Size for one image.
    """

    each: int


Size: TypeAlias = int | Images


@dataclass(frozen=True)
class Type:
    """The type of a value.

    Attributes:
        shape: A size for each dimension; at most one grows with the number of images.
        dtype: "f32", "i8", "i32" or "i64".

    Example:
        >>> images = Type((Images(1), 3, 4, 4), "f32")
        >>> images.for_images(2), images.elements
        ((2, 3, 4, 4), 48)
    """

    shape: tuple[Size, ...]
    dtype: str = "f32"

    def for_images(self, number: int) -> tuple[int, ...]:
        """Return the shape for a number of images."""
        return tuple(number * size.each if isinstance(size, Images) else size for size in self.shape)

    @property
    def grows(self) -> bool:
        """Whether a dimension grows with the number of images."""
        return any(isinstance(size, Images) for size in self.shape)

    @property
    def elements(self) -> int:
        """Elements for one image."""
        return math.prod(self.for_images(1))


def need(holds: bool, rule: str) -> None:
    """Refuse what breaks a rule.

    Raises:
        ShapeError: It does.
    """
    if not holds:
        raise ShapeError(rule)


def need_floats(*items: Type) -> None:
    """Refuse whole numbers."""
    need(all(item.dtype == "f32" for item in items), "its inputs must be floats")


def fixed(size: Size, what: str) -> int:
    """Return a size that must not grow with the number of images."""
    if isinstance(size, Images):
        raise ShapeError(f"{what} must not grow with the number of images")
    return size


def place_of(dim: int, rank: int) -> int:
    """Return a dimension counted from 0."""
    need(-rank <= dim < rank, f"there is no dimension {dim}")
    return dim % rank


def places_of(dims: Sequence[int], rank: int) -> list[int]:
    """Return different dimensions counted from 0."""
    places = [place_of(dim, rank) for dim in dims]
    need(len(set(places)) == len(places), "a dimension is named twice")
    return places


def text_of(item: Type) -> str:
    """Return a type for messages."""
    sizes = [f"{size.each}N" if isinstance(size, Images) else str(size) for size in item.shape[:9]]
    return f"{item.dtype}({', '.join(sizes)})"
