"""Every block of the README runs, one after the other, in one copy of the checkout.

A block after `<!-- test: cfg-job -->` needs a GPU, data or a network: its commands are composed with `--cfg job`.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

README = Path(__file__).parents[2] / "README.md"
DOCS = README.parent / "docs"
COMPOSED = "<!-- test: cfg-job -->"
# `make` as in the README, but with the environment at hand in place of a new one.
PREAMBLE = """
set -euo pipefail
make() {{ command make VENV={prefix} --assume-old={prefix}/.bnn-lightning-installed "$@"; }}
"""


class Block(NamedTuple):
    line: int
    language: str
    composed: bool
    script: str


def blocks() -> list[Block]:
    """Return the blocks of the README that run, in their order."""
    text = README.read_text(encoding="utf-8") if README.exists() else ""
    found = []
    for match in re.finditer(r"^```(bash|python)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        before = text[: match.start()]
        found.append(Block(before.count("\n") + 1, match[1], before.rstrip().endswith(COMPOSED), match[2]))
    return found


def commands(script: str) -> list[str]:
    """Return the commands of a script: without comments and empty lines, continued lines joined."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in script.replace("\\\n", " ").splitlines())
    return [line for line in lines if line]


def composed(script: str) -> str:
    """Return the commands of a script with `--cfg job` behind each."""
    found = commands(script)
    for command in found:
        if not command.startswith(
            ("bnn train ", "bnn evaluate ", "bnn profile ", "bnn export ", "bnn predict ", "python train.py ")
        ):
            raise ValueError(
                f"`{command}` cannot be composed: a {COMPOSED} block holds only verbs with a configuration."
            )
    return "\n".join(f"{command} --cfg job > /dev/null" for command in found)


@pytest.fixture(scope="module")
def workplace(checkout: Path) -> Path:
    data = os.environ.get("BNN_DATA")
    if data:
        (checkout / "data").symlink_to(Path(data).resolve(), target_is_directory=True)
    return checkout


def test_readme_starts_with_the_two_set_up_commands() -> None:
    first = blocks()[0]
    assert not first.composed
    assert [command.split()[:2] for command in commands(first.script)] == [["make", "train"], ["make", "test"]]


def test_readme_shows_what_the_project_does() -> None:
    text = "\n".join(command for block in blocks() for command in commands(block.script))
    for part in ("bnn evaluate", "bnn conf", "distill=skd", "cifar10", "mnist", "imagenet", "ckpt="):
        assert part in text, part


DOCUMENTS = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *(f"docs/{p.name}" for p in sorted(DOCS.glob("*.md")))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    path = README.parent / document
    links = re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("https://") and not (path.parent / link).exists()]
    assert not missing


def test_every_fence_is_run_or_names_its_language() -> None:
    fences = re.findall(r"^```(\w*)$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(fences[::2]) == {"bash", "python"}
    assert len(fences) == 2 * len(blocks())


@pytest.mark.parametrize("block", [pytest.param(block, id=f"line{block.line}") for block in blocks()])
def test_readme_block_runs(block: Block, workplace: Path, run: Callable[..., str]) -> None:
    if block.language == "python":
        run([sys.executable, "-c", block.script], cwd=workplace)
        return
    kept = [command for command in commands(block.script) if command != "make test"]
    script = composed("\n".join(kept)) if block.composed else "\n".join(kept)
    run(["bash", "-c", PREAMBLE.format(prefix=sys.prefix) + script], cwd=workplace)
