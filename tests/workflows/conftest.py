from pathlib import Path

import pytest

from bnn_lightning.cli.main import main
from tests import in_process


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short training on the embedded digits."""
    folder = tmp_path_factory.mktemp("workflows")
    with in_process.workplace(folder):
        main(
            [
                *("train", "model=mlp", "model.width=32", "data=digits", "data.image_size=8", "epochs=2"),
                *("trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "trainer.enable_model_summary=false"),
                "hydra.run.dir=mlp",
            ]
        )
    return folder / "mlp"
