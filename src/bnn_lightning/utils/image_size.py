"""Sizes of images: one number for square ones, or height and width."""

from collections.abc import Sequence

ImageSize = int | Sequence[int]


def sides(size: ImageSize) -> tuple[int, int]:
    """Return height and width of an image size.

    Raises:
        ValueError: It is neither a positive whole number nor two of them.

    Example:
        >>> sides(32), sides([24, 32])
        ((32, 32), (24, 32))
    """
    both = (size, size) if isinstance(size, int | float | str) else tuple(size)
    if len(both) != 2 or not all(type(side) is int and side > 0 for side in both):
        raise ValueError(f"`image_size` must be an integer, 1 or more, or a height and a width, got {size!r}.")
    return int(both[0]), int(both[1])


def plain_size(size: ImageSize) -> int | tuple[int, int]:
    """Return an image size as one number where height and width are equal.

    Example:
        >>> plain_size([32, 32]), plain_size([24, 32])
        (32, (24, 32))
    """
    height, width = sides(size)
    return height if height == width else (height, width)
