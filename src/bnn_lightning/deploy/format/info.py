"""Facts about the network of a packed file. Without torch, and with this package's own files alone."""

import math
from dataclasses import dataclass, field
from typing import Any

from .image_size import plain_size, sides
from .preparation import Preparation


@dataclass(frozen=True)
class PackedInfo:
    """The name, images, classes and provenance of the network in a packed file.

    Attributes:
        name: Name of the architecture.
        in_channels: Channels of the images.
        image_size: Height and width of the images, one number for both where they are equal.
        class_names: One a class; empty if they are not known.
        provenance: Origin of the network: configuration, commit, accuracy, checksum of the checkpoint ...
        preparation: Preparation of pictures; None where it is not known, as in files of older versions.
    """

    name: str
    in_channels: int
    image_size: int | tuple[int, int]
    class_names: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)
    preparation: Preparation | None = None

    def __post_init__(self) -> None:
        if self.preparation is not None and self.shape != (self.preparation.channels, *self.preparation.size):
            made = "x".join(map(str, (self.preparation.channels, *self.preparation.size)))
            raise ValueError(
                f"`preparation` makes images of {made}, the network takes {'x'.join(map(str, self.shape))}."
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of an image: channels, height, width."""
        return (self.in_channels, *sides(self.image_size))

    @classmethod
    def from_plain(cls, plain: Any) -> "PackedInfo":
        """Read what `plain` returned.

        Raises:
            ValueError: Something is missing, or of another type.
        """
        match plain:
            case {
                "name": str(name),
                "in_channels": int(channels),
                "image_size": int() | [_, _] as size,
                "class_names": [*names],
                "provenance": dict(provenance),
            } if type(channels) is int and channels > 0 and all(isinstance(n, str) for n in names):
                preparation = plain.get("preparation")
                preparation = None if preparation is None else Preparation.from_plain(preparation)
                return cls(name, channels, plain_size(size), tuple(names), from_json(provenance), preparation)
        raise ValueError("It does not say which network it holds, and for which images.")

    def plain(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        size = self.image_size if isinstance(self.image_size, int) else list(self.image_size)
        plain = {**vars(self), "image_size": size, "class_names": list(self.class_names)}
        plain["provenance"] = to_json(self.provenance, "provenance")
        del plain["preparation"]
        return plain if self.preparation is None else {**plain, "preparation": self.preparation.plain()}


def to_json(tree: Any, name: str = "") -> Any:
    """Return plain values with floats that JSON does not have, such as a configuration's `.inf`, as objects.

    Raises:
        ValueError: A value, or the key of one, is not plain; `name` is the place of the tree.

    Example:
        >>> to_json({"clip": float("inf")}), from_json({"clip": {"float": "inf"}})
        ({'clip': {'float': 'inf'}}, {'clip': inf})
    """
    match tree:
        case dict():
            if other := [key for key in tree if not isinstance(key, str)]:
                raise ValueError(f"Keys of `{name}` must be text, got {other[0]!r}: write str(...) of it.")
            return {key: to_json(value, f"{name}.{key}".lstrip(".")) for key, value in tree.items()}
        case list() | tuple():
            return [to_json(value, f"{name}[{i}]") for i, value in enumerate(tree)]
        case float() if not math.isfinite(tree):
            return {"float": repr(float(tree))}
        case str() | int() | float() | None:
            return tree
    kinds = "text, a number, true or false, None, or a list or dictionary of these"
    raise ValueError(f"`{name}` must be {kinds}, got {tree!r}: convert it, as by int(...) or float(...).")


def from_json(tree: Any) -> Any:
    """Undo `to_json`."""
    match tree:
        case {"float": "inf" | "-inf" | "nan" as number} if len(tree) == 1:
            return float(number)
        case dict():
            return {key: from_json(value) for key, value in tree.items()}
        case list():
            return [from_json(value) for value in tree]
    return tree
