"""Meanings of configuration keys, from the docstrings of what a node builds."""

import inspect
import re
from functools import cache
from pydoc import locate
from typing import Any

_SECTION = re.compile(r"^(?:Args|Arguments|Parameters):?\s*$")
_ARGUMENT = re.compile(r"^(\s+)\*{0,2}(\w+)(?: ?\([^:]*\))?: +(.*)$")
_ROLE = re.compile(r":\w+:`~?\.?([^`]*)`")


@cache
def meanings(target: str, name: str | None = None) -> dict[str, str]:
    """Return the first sentence on each argument of a class or function, by argument.

    Args:
        target: Name that a node gives in `_target_`.
        name: Its key `name`: for builders by name, the registered network or the binarizer.

    Example:
        >>> meanings("bnn_lightning.models.create_backbone", "mlp")["num_classes"]
        'Width of the logits.'
    """
    found: dict[str, str] = {}
    for item in (*_named(target, name), locate(target)):
        kinds = inspect.getmro(item) if inspect.isclass(item) else ()
        for documented in (item, *(kind.__init__ for kind in kinds), *kinds[1:]):
            found = _arguments(inspect.getdoc(documented) or "") | found
    return {key: found.get(text.removeprefix("See `").removesuffix("`."), text) for key, text in found.items()}


def _named(target: str, name: str | None) -> list[Any]:
    if name in (None, "???"):  # which the options of the group give
        return []
    if target.endswith(".create_backbone"):
        from bnn_lightning.models import registry  # late: torch takes seconds

        return [registry._builders()[name]]
    return [locate(f"bnn_lightning.binarizers.{name}")] if target.endswith(".binarizer_factory") else []


def _arguments(text: str) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    is_section, indent, key = False, "", ""
    for line in text.splitlines():
        if _SECTION.match(line):
            is_section, indent, key = True, "", ""
        elif is_section and line.strip() and not line.startswith(" "):
            is_section = False
        elif is_section and (match := _ARGUMENT.match(line)) and match[1] == (indent or match[1]):
            indent, key = match[1], match[2]
            found[key] = [match[3]]
        elif is_section and key and line.strip():
            found[key].append(line.strip())
    return {key: _sentence(" ".join(lines)) for key, lines in found.items()}


def _sentence(text: str) -> str:
    plain = _ROLE.sub(r"`\1`", text).replace("``", "`")
    first = re.split(r"(?<=\w[.)`\]])\s+(?=[A-Z])", plain, maxsplit=1)[0].strip()
    return first if first.endswith(".") else f"{first}."
