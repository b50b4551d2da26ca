"""Plain text of messages and tables."""

import difflib
from collections.abc import Iterable, Sequence


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean `...`?" for the nearest known name, or nothing.

    Example:
        >>> did_you_mean("resnt20", ["resnet20", "mlp"])
        ' Did you mean `resnet20`?'
        >>> did_you_mean("transformer", ["resnet20", "mlp"])
        ''
    """
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""


def some(names: Sequence[str], most: int = 8) -> str:
    """Return the first names as one line, and how many more there are.

    Example:
        >>> some(["cat", "dog", "horse"], 2)
        'cat, dog and 1 more'
    """
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def number_of(number: int, noun: str) -> str:
    """Return a number with its noun, whose plural ends in s.

    Example:
        >>> number_of(1, "image"), number_of(20, "image")
        ('1 image', '20 images')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def text_table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    r"""Return the lines of a table, columns two spaces apart; the last column may have lines of any length.

    Args:
        rows: Cells of each line.
        right: Indices of the columns that are aligned to the right, as numbers are.

    Example:
        >>> print("\n".join(text_table([("layer", "MACs"), ("conv1", "10,240")], right=[1])))
        layer    MACs
        conv1  10,240
    """
    cells = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = [">" if index in set(right) else "<" for index in range(len(widths))]
    return [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in cells
    ]
