"""Pages of the documentation as tests read them: code blocks, commands, links and anchors."""

import re
import shlex
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tools.site_pages import pages as written_pages

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
# A block after this line needs a GPU, data, a network or hours: its commands are composed and not run.
COMPOSED = "<!-- test: cfg-job -->"

_FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        line: Its line in the page.
        language: The language after the fence.
        title: Name of the file that it shows, or empty.
        composed: Whether its commands are only composed.
        script: Its text.
    """

    line: int
    language: str
    title: str
    composed: bool
    script: str


class Command(NamedTuple):
    """A command of ours.

    Attributes:
        text: As the page has it.
        verb: First word after `bnn`.
        words: Words after the verb.
    """

    text: str
    verb: str
    words: list[str]


def sources() -> list[Path]:
    """Return the pages of the checkout: README, the guide for contributors, and all below `docs/`."""
    return [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


@cache
def texts() -> dict[str, str]:
    """Return the text of every page, also of those that are written while the site is built, by its path."""
    found = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sources()}
    return found | {f"docs/{place}": text for place, text in written_pages().items()}


def prose(text: str) -> str:
    """Return a page without its code blocks."""
    return _FENCE.sub("", text)


def blocks(text: str) -> Iterator[Block]:
    """Yield the code blocks of a page in their order."""
    for match in _FENCE.finditer(text):
        before = text[: match.start()]
        composed = before.rstrip().endswith(COMPOSED)
        yield Block(before.count("\n") + 1, match[1], match[2] or "", composed, match[3])


def lines(script: str) -> list[str]:
    """Return the lines of a script: without comments and empty ones, continued lines joined."""
    found = (re.sub(r"(^|\s)#.*", "", line).strip() for line in script.replace("\\\n", " ").splitlines())
    return [line for line in found if line]


def command(line: str) -> Command | None:
    """Return the command of ours in a line of a script, or None."""
    if re.match(r"make train ARGS=", line):
        return Command(line, "train", shlex.split(shlex.split(line)[2].partition("=")[2]))
    start = re.match(
        r"(?:[A-Z_]+=\S+ )*(?:torchrun (?:--\S+ )*|srun )?(?:(?:python )?train\.py|bnn (\w+))(?= |$)", line
    )
    return Command(line, start[1] or "train", shlex.split(line[start.end() :])) if start else None


def plain_commands(script: str) -> list[list[str]] | None:
    """Return the words of the `bnn` commands of a script, None where it needs a shell or processes of its own."""
    found = lines(script)
    if any(re.search(r"[|<>$;&*?~`]|devices=", line) or not line.startswith("bnn ") for line in found):
        return None
    return [shlex.split(line)[1:] for line in found]


def spans(text: str) -> Iterator[str]:
    """Yield the commands with keys in the sentences of a page, but for those that leave something out (`...`)."""
    for span in re.findall(r"`((?:bnn|python train\.py) [^`]+)`", prose(text)):
        if re.search(r"=\S", span) and "..." not in span:
            yield " ".join(span.split())


def commands(text: str) -> list[Command]:
    """Return the commands of ours in the shell blocks and the sentences of a page."""
    scripts = (block.script for block in blocks(text) if block.language == "bash")
    found = [line for script in scripts for line in lines(script)]
    return [made for line in (*found, *spans(text)) if (made := command(line)) is not None]


def links(text: str) -> list[tuple[str, str]]:
    """Return place and anchor of the relative links of a page."""
    found = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", prose(text))
    return [(place, anchor) for place, anchor in found if "://" not in place]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as Python-Markdown makes them."""
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
        found.add(re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found
