"""`tools/gpu_recipes.sh` trains recipes in pieces; here on the CPU, with the embedded data."""

import os
import signal
import subprocess
import sys
import time
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


def test_ctrl_c_reaches_the_run_once(root: Path, tmp_path: Path) -> None:
    """A second one would stop it without a checkpoint."""
    stub, ready, received = (tmp_path / name for name in ("stub.py", "ready", "received"))
    stub.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, signal, time\n"
        f"ready, received = pathlib.Path({str(ready)!r}), pathlib.Path({str(received)!r})\n"
        "count = []\n"
        "signal.signal(signal.SIGINT, lambda *_: count.append(1))\n"
        "ready.touch()\n"
        "while not count:\n    time.sleep(0.01)\n"
        "time.sleep(0.3)\n"
        "received.write_text(str(len(count)))\n"
        "raise SystemExit(130)\n"
    )
    stub.chmod(0o755)
    environment = os.environ | {"RUNS": str(tmp_path / "runs"), "RECIPES": "resnet20/cifar10 a b", "BNN": str(stub)}
    command = ["bash", str(root / "tools/gpu_recipes.sh"), "1"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, start_new_session=True) as running:
        try:
            end = time.monotonic() + 30
            while not ready.exists():
                assert running.poll() is None
                assert time.monotonic() < end
                time.sleep(0.01)
            os.killpg(running.pid, signal.SIGINT)  # as a terminal does
            assert running.wait(30) == 130
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
    assert received.read_text() == "1"
