"""Shared by these tests: the checkout, a clean copy of it, and how to run a command away from it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
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


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a command with the environment of a user: no `PYTHONPATH`, nothing of pytest's or of an outer `make`."""

    def run(command: Sequence[str | Path], *, cwd: Path, path: Path | None = None) -> str:
        dropped = ("PYTHON", "PYTEST", "COV_", "MAKE", "MFLAGS", "VIRTUAL_ENV", "HYDRA", "LOCAL_RANK")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        environment["PATH"] = os.pathsep.join([str(path or Path(sys.prefix, "bin")), environment["PATH"]])
        done = subprocess.run(
            [str(part) for part in command],
            cwd=cwd,
            env=environment,
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
