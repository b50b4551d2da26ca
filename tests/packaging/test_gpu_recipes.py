"""`tools/gpu_recipes.sh` trains recipes in pieces; here on the CPU, with the embedded data."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_recipes_go_on_from_their_checkpoints(root: Path, tmp_path: Path) -> None:
    environment = {"RUNS": str(tmp_path / "runs"), "RECIPES": "mnist_mlp_skd_cpu resnet20/cifar10"}
    environment |= {"BNN": str(Path(sys.executable).with_name("bnn"))}
    small = ["data=digits", "recipe=none", "model.width=16", "warmup_epochs=0", "trainer.enable_progress_bar=false"]

    def train(epochs: int) -> str:
        command = ["bash", str(root / "tools/gpu_recipes.sh"), "5", f"epochs={epochs}", "trainer.max_epochs=1", *small]
        done = subprocess.run(command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    first, second = train(1), train(1)
    for recipe in environment["RECIPES"].split():
        folder = tmp_path / "runs" / recipe.replace("/", "_")
        assert f"{recipe}: hydra.run.dir={folder}" in first
        assert f"{recipe}: ckpt_path={folder}" in second
        assert (folder / "checkpoints" / "final.ckpt").is_file()
