"""Tables as text."""

from collections.abc import Iterable, Sequence


def text_table(rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), gap: str = "  ") -> str:
    """Return rows as lines whose columns are aligned.

    Args:
        rows: Cells; rows may be of different lengths.
        right: Columns whose cells stand at the right.
        gap: Text between columns.

    Example:
        >>> print(text_table([("layer", "bits"), ("conv1", "36864")], right=[1]))
        layer   bits
        conv1  36864
    """
    rows = [list(row) for row in rows]
    columns = max(map(len, rows), default=0)
    widths = [max(len(row[column]) for row in rows if len(row) > column) for column in range(columns)]
    lines = []
    for row in rows:
        cells = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=False))]
        lines.append(gap.join(cells).rstrip())
    return "\n".join(lines)
