"""Pieces of HTML in which every text is escaped."""

from collections.abc import Sequence
from html import escape

from bnn_lightning.report_page.content import Cell, Table

_VOID = ("br", "img", "link", "meta", "line", "rect", "circle", "polyline")


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(element: str, /, *children: str, **attributes: str | float | bool | None) -> Html:
    """Return an element. Children and attributes are escaped, children that are `Html` are taken as they are.

    Args:
        element: Its name.
        children: In order.
        attributes: By name, `_` for `-`, and one at the end left out (`class_`); True stands without a value, False and
            None are left out.

    Example:
        >>> tag("p", "2 < 3 ", tag("b", "yes"), class_="note", hidden=True)
        '<p class="note" hidden>2 &lt; 3 <b>yes</b></p>'
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        text = f"{value:g}" if isinstance(value, float) else str(value)
        written.append(f" {key}" if value is True else f' {key}="{escape(text)}"')
    start = f"<{element}{''.join(written)}>"
    if element in _VOID and not children:
        return Html(start if element in ("br", "img", "link", "meta") else f"{start[:-1]}/>")
    return Html(f"{start}{join(*children)}</{element}>")


def join(*children: str) -> Html:
    """Return elements and texts one after the other, the texts escaped."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children))


def number(value: Cell) -> str:
    """Return a number as it is read best; text as it is.

    Example:
        >>> number(1234567), number(0.123456), number(98.95), number(1e-7), number("text")
        ('1,234,567', '0.1235', '98.95', '1e-07', 'text')
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int) or (value.is_integer() and abs(value) >= 1000):
        return f"{value:,.0f}"
    return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.1f}"


def table(content: Table, *, caption: str = "") -> Html:
    """Return a table in a box of its own that scrolls, so that the page does not."""
    numeric = [
        bool(content.rows) and all(isinstance(row[i], int | float) for row in content.rows)
        for i in range(len(content.header))
    ]
    head = tag("tr", *_cells("th", content.header, numeric))
    body = [tag("tr", *_cells("td", row, numeric)) for row in content.rows]
    inside = [tag("caption", caption)] if caption else []
    whole = tag("table", *inside, tag("thead", head), tag("tbody", *body))
    # In the order of the keyboard, so that it scrolls without a mouse.
    return tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=caption or "table")


def _cells(name: str, row: Sequence[Cell], numeric: Sequence[bool]) -> list[Html]:
    return [
        tag(name, cell if isinstance(cell, Html) else number(cell), class_="number" if right else None)
        for cell, right in zip(row, numeric, strict=True)
    ]
