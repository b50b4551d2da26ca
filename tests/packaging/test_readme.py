"""Every block of the README runs, one after the other, in one copy of the checkout.

A block after `<!-- test: cfg-job -->` needs a GPU, data or a network: `test_page_commands` composes its commands.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import in_process
from tests.packaging.pages import README, Block, blocks, lines

TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
BLOCKS = [block for block in blocks(TEXT) if block.language in ("bash", "python")]
# `make` as in the README, but with the environment at hand in place of a new one.
PREAMBLE = """
set -euo pipefail
make() {{ command make VENV={prefix} --assume-old={prefix}/.bnn-lightning-installed "$@"; }}
"""


@pytest.fixture(scope="module")
def workplace(checkout: Path) -> Path:
    data = os.environ.get("BNN_DATA")
    if data:
        (checkout / "data").symlink_to(Path(data).resolve(), target_is_directory=True)
    return checkout


def test_readme_starts_with_the_two_set_up_commands() -> None:
    assert not BLOCKS[0].composed
    assert [command.split()[:2] for command in lines(BLOCKS[0].script)] == [["make", "train"], ["make", "test"]]


def test_readme_shows_what_the_project_does() -> None:
    text = "\n".join(command for block in BLOCKS for command in lines(block.script))
    for part in ("bnn evaluate", "bnn conf", "distill=skd", "cifar10", "mnist", "imagenet", "ckpt="):
        assert part in text, part


def test_every_fence_is_run_or_names_its_language() -> None:
    fences = re.findall(r"^```(\w*)", TEXT, flags=re.MULTILINE)
    assert set(fences[::2]) <= {"bash", "python", "text"}
    assert len(fences) == 2 * len(list(blocks(TEXT)))


@pytest.mark.parametrize("block", [pytest.param(b, id=f"line{b.line}") for b in BLOCKS if not b.composed])
def test_readme_block_runs(block: Block, workplace: Path, run_script: Callable[..., None]) -> None:
    if block.language == "python":
        with in_process.workplace(workplace):
            exec(compile(block.script, "README.md", "exec"), {"__name__": "__main__"})
        return
    script = "\n".join(command for command in lines(block.script) if command != "make test")
    run_script(script, cwd=workplace, preamble=PREAMBLE.format(prefix=sys.prefix))
