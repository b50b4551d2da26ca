"""Lint prose: summary lines of docstrings, descriptions of keys, and the width of Markdown.

`make lint` runs it, and codespell beside it.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

WIDTH = 120
# A summary line says what a thing is or does: it begins with a noun or a verb.
FRAGMENTS = ("How", "Of", "What", "Where", "Which", "Who", "Whose")
_FRAGMENT_OF_ARGUMENT = re.compile(rf"\s+\w+: (?:{'|'.join(FRAGMENTS)})\b")
PYTHON = ("src", "tests", "conf", "benchmarks", "tools", "runtime")
_SUMMARY_MUST_END = (".", ":", "?", "`", '"')
_UNBREAKABLE = re.compile(r"^\s*(\||\[[^]]*\]:|<|!\[|https?://)")


def summaries(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and summary of each docstring of a Python file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        is_documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if is_documented and (text := ast.get_docstring(node)):
            yield getattr(node, "lineno", 1), text.splitlines()[0]


def faults_of_python(path: Path) -> Iterator[str]:
    """Yield the faults of the docstrings of a file."""
    for line, summary in summaries(path):
        if summary.split(" ", 1)[0] in FRAGMENTS:
            yield f"{path}:{line}: a summary begins with a noun or a verb: {summary!r}"
        elif not summary.endswith(_SUMMARY_MUST_END):
            yield f"{path}:{line}: a summary is one line and ends with a period: {summary!r}"
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if _FRAGMENT_OF_ARGUMENT.match(line):
            yield f"{path}:{number}: a description begins with a noun or a verb: {line.strip()!r}"


def faults_of_configuration(path: Path) -> Iterator[str]:
    """Yield the comments of keys that are fragments: the reference and `--help` show each beside its key alone."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        comment = line.partition(" # ")[2].strip()
        if ":" in line.partition("#")[0] and comment.split(" ", 1)[0].capitalize() in FRAGMENTS:
            yield f"{path}:{number}: a description begins with a noun or a verb: {comment!r}"


def faults_of_markdown(path: Path) -> Iterator[str]:
    """Yield the lines of a page that are too long; tables, links and pictures cannot be broken."""
    is_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        is_code ^= line.lstrip().startswith("```")
        if len(line) > WIDTH and not is_code and not _UNBREAKABLE.match(line):
            yield f"{path}:{number}: {len(line)} characters, {WIDTH} at most"


def main(root: Path) -> int:
    """Print all faults below a folder; return the exit status."""
    python = [path for name in PYTHON for path in sorted((root / name).rglob("*.py"))]
    pages = [*sorted(root.glob("*.md")), *sorted((root / "docs").rglob("*.md"))]
    faults = [fault for path in python for fault in faults_of_python(path)]
    faults += [fault for path in sorted((root / "conf").rglob("*.yaml")) for fault in faults_of_configuration(path)]
    faults += [fault for path in pages for fault in faults_of_markdown(path)]
    print("\n".join(faults))
    return min(len(faults), 1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".")))
