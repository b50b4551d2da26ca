"""Two processes (gloo) that share out the weights train as two that do not, and their checkpoints are any run's."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy

SCRIPT = Path(__file__).with_name("fsdp_script.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fsdp")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, str(root)], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return root


@pytest.fixture(scope="module")
def facts(root: Path) -> list[dict[str, Any]]:
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in range(2)]


def state(root: Path, run: str, file: str = "final") -> dict[str, torch.Tensor]:
    return torch.load(root / run / f"{file}.ckpt", weights_only=True)["state_dict"]


def weights(root: Path, run: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state(root, run).items() if not name.startswith("train_means.")}


def test_every_parameter_is_shared_out(facts: list[dict[str, Any]]) -> None:
    for fact in facts:
        assert all(fact["fsdp"]["sharded"])
        assert not any(fact["ddp"]["sharded"])


def test_a_checkpoint_is_one_file_with_whole_weights(root: Path) -> None:
    assert (root / "fsdp" / "last.ckpt").is_file()
    one, other = weights(root, "fsdp"), weights(root, "ddp")
    assert {name: tensor.shape for name, tensor in one.items()} == {
        name: tensor.shape for name, tensor in other.items()
    }


def test_sharing_out_does_not_change_the_training(root: Path, facts: list[dict[str, Any]]) -> None:
    for name, tensor in weights(root, "ddp").items():
        torch.testing.assert_close(weights(root, "fsdp")[name], tensor, rtol=1e-4, atol=1e-4, msg=name)
    for name, value in facts[0]["ddp"].items():
        if name not in ("sharded", "s_per_epoch"):
            assert facts[0]["fsdp"][name] == pytest.approx(value, abs=1e-4), name


@pytest.mark.parametrize("by", ["resumed", "resumed_by_ddp"])
def test_a_resume_in_mid_epoch_is_the_uninterrupted_run(root: Path, facts: list[dict[str, Any]], by: str) -> None:
    exact = {"rtol": 0, "atol": 0} if by == "resumed" else {"rtol": 1e-4, "atol": 1e-4}
    for name, tensor in weights(root, "fsdp").items():
        torch.testing.assert_close(weights(root, by)[name], tensor, **exact, msg=name)
    for fact in facts:
        for name in ("train/loss", "train/acc", "test/acc", "test/loss", "binary/flip_rate"):
            assert fact[by][name] == pytest.approx(fact["fsdp"][name], abs=1e-4), name


def test_ddp_searches_no_unused_parameters() -> None:
    assert "find_unused_parameters" not in DDPStrategy()._ddp_kwargs
