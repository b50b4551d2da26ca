import contextlib
import os
from pathlib import Path

import pytest

from bnn_lightning.cli.main import main


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training on the embedded digits."""
    folder = tmp_path_factory.mktemp("workflows")
    before = dict(os.environ)
    with contextlib.chdir(folder):
        main(
            [
                *("train", "model=mlp", "model.width=32", "data=digits", "data.image_size=8", "epochs=2"),
                *("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
                "hydra.run.dir=mlp",
            ]
        )
    os.environ.clear()
    os.environ.update(before)
    return folder / "mlp"
