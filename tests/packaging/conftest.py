"""Shared by these tests: the checkout, a clean copy of it, and how to run a command away from it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from bnn_lightning.cli.main import main
from tests import in_process
from tests.packaging.pages import plain_commands

ROOT = Path(__file__).parents[2]
SHIPPED = (
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "benchmarks",
    "conf",
    "docs",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
    "src",
    "tools",
    "train.py",
)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout without what builds, tools and runs have left in it."""
    copy = tmp_path_factory.mktemp("checkout")
    leftovers = shutil.ignore_patterns("__pycache__", "*.egg-info", ".*")
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=leftovers)
        elif source.exists():
            shutil.copy(source, copy / name)
    return copy


def environment(path: Path | None = None) -> dict[str, str]:
    """Return the environment of a user: no `PYTHONPATH`, nothing of pytest's or of an outer `make`."""
    dropped = ("PYTHON", "PYTEST", "COV_", "MAKE", "ARGS", "MFLAGS", "VIRTUAL_ENV", "HYDRA", "LOCAL_RANK")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    return kept | {"PATH": os.pathsep.join([str(path or Path(sys.prefix, "bin")), kept["PATH"]])}


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a command with the environment of a user."""

    def run(command: Sequence[str | Path], *, cwd: Path, path: Path | None = None) -> str:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=environment(path),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
        if done.returncode != 0:
            pytest.fail(f"{' '.join(map(str, command))}\nended with {done.returncode}:\n{done.stdout[-6000:]}")
        return done.stdout

    return run


@pytest.fixture(scope="session")
def run_script(run: Callable[..., str]) -> Callable[..., None]:
    """Run the `bnn` commands of a script in this process, which is faster; a script that needs a shell in bash."""

    def run_script(script: str, *, cwd: Path, preamble: str = "") -> None:
        commands = plain_commands(script)
        if commands is None:
            run(["bash", "-c", preamble + script], cwd=cwd)
            return
        for words in commands:
            with in_process.workplace(cwd):
                try:
                    main(words)
                except SystemExit as exit:
                    if exit.code:
                        pytest.fail(f"bnn {' '.join(words)}\nended with {exit.code}")

    return run_script


# Scripts come as lines of JSON; each has the names of those before it.
_INTERPRETER = """
import json, sys
for line in sys.stdin:
    exec(json.loads(line), globals())
    print("\\0", flush=True)
"""


@pytest.fixture
def interpreter(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Run scripts in one Python that stands in `tmp_path`, one after the other, as the cells of a notebook."""
    process = subprocess.Popen(
        [sys.executable, "-c", _INTERPRETER],
        cwd=tmp_path,
        env=environment(),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout

    def interpret(script: str) -> None:
        print(json.dumps(script), file=stdin, flush=True)
        printed = []
        while not (line := stdout.readline()).endswith("\0\n"):
            if not line:  # it has ended
                pytest.fail(f"{script}\nended with\n{''.join(printed)[-6000:]}")
            printed.append(line)

    yield interpret
    process.kill()
    process.communicate()
