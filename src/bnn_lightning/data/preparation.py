"""Preparation of images: from a file to the array that a network takes, as plain values. Without torch."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

Interpolation = Literal["bilinear", "bicubic"]

# Pixels a side: beyond any network's, and no danger to memory. A packed file from elsewhere names the sizes.
_MOST = 4096
# A picture that would still be longer than this many times the box is cut to that length before it is scaled.
_LONGEST = 16


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """Preparation of a picture as an array of bytes: scale it to cover a box, cut out the middle, add a black border.

    Training (evaluation images), `bnn evaluate`, `bnn predict` and the report prepare pictures with the same values,
    which every packed file holds. `data.image_io.prepare_picture` carries them out.

    Args:
        size: Height and width of the result, border included.
        channels: 1 (gray) or 3 (RGB).
        resize: Height and width of the box that the scaled picture just covers, with its aspect ratio kept; at least
            `size` without the border. Equal to it, nothing of the shorter side is cut off.
        interpolation: Pillow's filter, "bilinear" or "bicubic", both with antialiasing, on bytes.
        border: Black pixels on each side of the middle, as around MNIST's digits at 32 pixels.

    Example:
        >>> imagenet = Preparation(size=(224, 224), channels=3, resize=(256, 256))
        >>> imagenet.scaled(500, 375)
        (341, 256)
        >>> Preparation.from_plain(imagenet.plain()) == imagenet
        True
    """

    size: tuple[int, int]
    channels: int
    resize: tuple[int, int]
    interpolation: Interpolation = "bilinear"
    border: int = 0

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            sides = getattr(self, name)
            if len(sides) != 2 or not all(type(side) is int and 0 < side <= _MOST for side in sides):
                raise ValueError(f"`{name}` must be a height and a width from 1 to {_MOST}, got {sides!r:.60}.")
        if self.channels not in (1, 3) or type(self.channels) is not int:
            raise ValueError(f"`channels` of pictures must be 1 or 3, got {self.channels!r:.60}.")
        if self.interpolation not in get_args(Interpolation):
            known = ", ".join(get_args(Interpolation))
            raise ValueError(f"`interpolation` must be one of {known}, got {self.interpolation!r:.60}.")
        if type(self.border) is not int or not 0 <= 2 * self.border < min(self.size):
            raise ValueError(f"`border` must leave pixels of {self.size}, got {self.border!r:.60}.")
        if self.resize[0] < self.inner[0] or self.resize[1] < self.inner[1]:
            raise ValueError(f"`resize` must be at least {self.inner}, got {self.resize}.")

    @property
    def inner(self) -> tuple[int, int]:
        """Height and width without the border."""
        return self.size[0] - 2 * self.border, self.size[1] - 2 * self.border

    def cut(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of the middle of a picture that is scaled: all of it, but for extreme shapes.

        Without this, a picture of 1 x 100,000 pixels would be scaled to billions before its middle is cut out.
        """
        rows, columns = self.resize
        return (
            min(width, max(1, _LONGEST * columns * height // rows)),
            min(height, max(1, _LONGEST * rows * width // columns)),
        )

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """Return width and height of a scaled picture: one side is that of the box, the other at least that."""
        rows, columns = self.resize
        if columns * height >= rows * width:
            return columns, max(rows, columns * height // width)
        return max(columns, rows * width // height), rows

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**vars(self), "size": list(self.size), "resize": list(self.resize)}

    @classmethod
    def from_plain(cls, plain: Any) -> "Preparation":
        """Read the values that `plain` returned.

        Raises:
            ValueError: Something is missing, unknown, or out of its range.
        """
        match plain:
            case {"size": [*size], "resize": [*resize], **others} if others.keys() == {
                "channels",
                "interpolation",
                "border",
            }:
                return cls(size=tuple(size), resize=tuple(resize), **others)  # type: ignore[arg-type]
        raise ValueError(f"It does not say how pictures are prepared: {plain!r:.60}.")

    def __str__(self) -> str:
        kind = "gray" if self.channels == 1 else "RGB"
        border = f", a black border of {self.border}" if self.border else ""
        box, inner = ("x".join(map(str, sides)) for sides in (self.resize, self.inner))
        middle = "" if self.resize == self.inner else f" {inner} of it"
        return f"{kind}, scaled to cover {box} ({self.interpolation}), the middle{middle} cut out{border}"
