import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from bnn_lightning.cli import main
from bnn_lightning.cli.config_paths import config_dir
from tests import in_process

# A run of seconds: a small network on a few made-up images.
SMALL = (
    *("data=synthetic", "data.image_size=8", "data.num_train=64", "data.num_test=24", "data.batch_size=16"),
    *("model=mlp", "model.width=16", "epochs=2"),
    *("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
)


class Trained(NamedTuple):
    """A run that is over, for tests that only read it."""

    folder: Path
    out: str

    @property
    def last(self) -> Path:
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def final(self) -> Path:
        return self.folder / "checkpoints" / "final.ckpt"


class Done(NamedTuple):
    code: int
    out: str
    err: str


Bnn = Callable[..., Done]


@pytest.fixture
def small() -> tuple[str, ...]:
    return SMALL


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder, out = tmp_path_factory.mktemp("trained"), io.StringIO()
    with in_process.workplace(folder), contextlib.redirect_stdout(out):
        main.main(["train", *SMALL])
    (run,) = folder.glob("runs/*/*")
    return Trained(run, out.getvalue())


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to stand in; what a run changes in this process is put back."""
    monkeypatch.chdir(tmp_path)  # a test that stands elsewhere by `monkeypatch` comes back to where it began
    with in_process.workplace(tmp_path):
        yield tmp_path


@pytest.fixture
def bnn(workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bnn:
    """Run `bnn <words>` in this process."""

    def bnn(*words: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["bnn", *words])
        capsys.readouterr()
        code = 0
        try:
            main.main()
        except SystemExit as exit:
            code = exit.code if isinstance(exit.code, int) else 0 if exit.code is None else 1
        out, err = capsys.readouterr()
        return Done(code, out, err)

    return bnn


@pytest.fixture
def process(workplace: Path) -> Callable[..., Done]:
    """Run `python <words>` in a process of its own, without what an outer run left in the environment."""

    def process(*words: str, **environment: str) -> Done:
        dropped = ("PYTEST", "HYDRA", "LOCAL_RANK", "MASTER", "NODE_RANK", "WORLD_SIZE", "PL_", "BNN_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        done = subprocess.run(
            [sys.executable, *words],
            cwd=workplace,
            env={**kept, "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return process


@pytest.fixture(scope="session")
def composed() -> Callable[..., dict[str, Any]]:
    """Compose a configuration as a notebook does, and resolve all of it."""

    def composed(*overrides: str, primary: str = "train") -> dict[str, Any]:
        with initialize_config_dir(str(config_dir()), version_base="1.3"):
            plain = OmegaConf.to_container(compose(primary, list(overrides)), resolve=True)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}

    return composed
