"""The blocks of every page run, one after the other, in a folder of the page's own; the site builds.

Trainings are shortened by `debug=short`. A block after `<!-- test: cfg-job -->` is composed in `test_page_commands`.
"""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.packaging.pages import ROOT, blocks, command, lines, plain_commands, sources

PAGES = {
    page.relative_to(ROOT).as_posix(): found
    for page in sources()
    if page.name not in ("README.md", "CONTRIBUTING.md")
    and (found := [b for b in blocks(page.read_text(encoding="utf-8")) if b.language in ("bash", "python")])
    and not all(block.composed or block.title for block in found)  # such a page has nothing to run
}
PREAMBLE = """
set -euo pipefail
shopt -s expand_aliases
export PROJECT={root} OMP_NUM_THREADS=1
make() {{ command make VENV={prefix} --assume-old={prefix}/.bnn-lightning-installed "$@"; }}
"""


def shortened(script: str) -> str:
    """Return a script with `debug=short` behind each training."""
    found = script.replace("\\\n", " ")
    short = []
    for line in found.splitlines():
        called = command(next(iter(lines(line)), ""))
        trains = called is not None and called.verb == "train" and not re.search(r"debug=|--help|make train", line)
        short.append(re.sub(r"(\s#.*)?$", " debug=short", line, count=1) if trains else line)
    return "\n".join(short)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A folder with the data, and 30 pictures of three classes."""
    data = Path(os.environ.get("BNN_DATA", ROOT / "data"))
    if data.is_dir():
        (tmp_path / "data").symlink_to(data.resolve(), target_is_directory=True)
    generator = np.random.default_rng(0)
    for index in range(60):
        name = ("zero", "one", "two")[index % 3]
        file = tmp_path / "pictures" / ("val" if index % 5 == 0 else "train") / name / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (32, 32), dtype=np.uint8)).save(file)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_page_runs(
    page: str, workplace: Path, interpreter: Callable[[str], None], run_script: Callable[..., None]
) -> None:
    for block in blocks((ROOT / page).read_text(encoding="utf-8")):
        if block.title:
            (workplace / block.title).parent.mkdir(parents=True, exist_ok=True)
            (workplace / block.title).write_text(block.script, encoding="utf-8")
    for block in PAGES[page]:
        if block.composed or block.title:
            continue
        if block.language == "python":
            interpreter(block.script)
        else:
            preamble = PREAMBLE.format(root=ROOT, prefix=sys.prefix)
            run_script(shortened(block.script), cwd=workplace, preamble=preamble)


def test_what_runs_installs_nothing() -> None:
    scripts = {page: [b.script for b in found if not b.composed] for page, found in PAGES.items()}
    text = {page: "\n".join(line for script in found for line in lines(script)) for page, found in scripts.items()}
    assert [page for page in text if re.search(r"\b(pip|apt|apt-get|npm) install", text[page])] == []


def test_trainings_are_shortened() -> None:
    script = "bnn train model=mlp \\\n    epochs=3    # why\nbnn evaluate ckpt=a\nbnn train debug=fast"
    first, second, third = shortened(script).splitlines()
    assert first.split() == ["bnn", "train", "model=mlp", "epochs=3", "debug=short"]
    assert (second, third) == ("bnn evaluate ckpt=a", "bnn train debug=fast")


def test_a_block_has_the_names_of_those_before_it(interpreter: Callable[[str], None]) -> None:
    for script in ("a = 1\nprint(a, end='')", "b = a + 1", "assert b == 2"):
        interpreter(script)
    with pytest.raises(pytest.fail.Exception, match="NameError: name 'c'"):
        interpreter("c")


def test_scripts_that_need_a_shell() -> None:
    assert plain_commands("bnn train 'a={b: c}'  # why\nbnn conf ls") == [["train", "a={b: c}"], ["conf", "ls"]]
    for script in ("bnn conf ls | head", "cd there\nbnn zoo", "bnn train trainer.devices=2", "A=1 bnn zoo"):
        assert plain_commands(script) is None


@pytest.mark.slow
def test_site_builds_without_a_network(tmp_path: Path, run: Callable[..., str]) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"]
    proxies = [f"{name}=http://127.0.0.1:9" for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")]
    run(["env", *proxies, *command], cwd=ROOT)
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 60
    for page in pages:
        assert not re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?://', page.read_text(encoding="utf-8"))
