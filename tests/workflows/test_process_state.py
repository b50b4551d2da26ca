"""A verb that is called from Python leaves the process as it was."""

import locale
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

import bnn_lightning
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.process_state import contained

LIBRARIES = ("pytorch_lightning", "lightning_fabric", "torch.onnx", "onnxscript", "onnx_ir", "bnn_lightning", "")
LOGGERS = (*LIBRARIES, "pytorch_lightning.utilities.rank_zero", "pytorch_lightning.accelerators.cuda")
CPU = {"accelerator": "cpu"}
FEW = {"images": 32, "hessian_images": 0, "workers": 1}
SMALL = {"name": "mlp", "width": 32}, {"name": "digits", "image_size": 8}


def settings_of(logger: logging.Logger) -> tuple[Any, ...]:
    handlers = [(id(handler), handler.level, list(handler.filters)) for handler in logger.handlers]
    return logger.level, logger.propagate, logger.disabled, list(logger.filters), handlers


def state() -> dict[str, Any]:
    """Return what the caller of a verb has set, and what its own code goes on with."""
    return {
        "loggers": {name: settings_of(logging.getLogger(name)) for name in LOGGERS},
        "logging": logging.root.manager.disable,
        "warnings": (list(warnings.filters), warnings.showwarning),
        "generators": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),  # noqa: NPY002
        "matmul": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_anomaly_enabled()),
        "deterministic": (torch.get_deterministic_debug_mode(), torch.backends.cudnn.deterministic),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32),
        "defaults": (torch.get_default_dtype(), torch.get_default_device(), torch.is_autocast_cache_enabled()),
        "environment": dict(os.environ),
        "signals": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "hooks": (sys.excepthook, threading.excepthook, sys.displayhook, sys.gettrace()),
        "path": (list(sys.path), list(sys.argv), Path.cwd()),
        "streams": (sys.stdout, sys.stderr),
        "matplotlib": (dict(mpl.rcParams), mpl.get_backend(auto_select=False)),
        "rest": (locale.getlocale(), sys.getrecursionlimit(), np.geterr()),
    }


@pytest.fixture
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Settings that no verb would choose."""
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    for name in ("pytorch_lightning", "lightning_fabric"):  # as it is where nothing has configured logging
        monkeypatch.setattr(logging.getLogger(name), "handlers", [logging.StreamHandler()])
        monkeypatch.setattr(logging.getLogger(name), "propagate", False)
    before = torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.set_num_threads(1)
    torch.backends.cudnn.benchmark = True
    with torch.no_grad():
        yield
    torch.set_float32_matmul_precision(before[0])
    torch.set_num_threads(before[1])
    torch.backends.cudnn.benchmark = before[2]


def predict(run: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save("black.png")
    bnn_lightning.predict(run, "black.png", threads=2)


def prepare(run: Path) -> None:
    Path("pictures", "train", "a").mkdir(parents=True)
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save("pictures/train/a/x.jpeg")
    bnn_lightning.prepare("pictures", "small", size=20, num_workers=1)


def verify(run: Path) -> None:
    bnn_lightning.verify("zoo:mnist_mlp")


CALLS: dict[str, Callable[[Path], Any]] = {
    "benchmark": lambda run: bnn_lightning.benchmark(run, baselines=["torch_simulated"], threads=[2], repeats=1),
    "evaluate": lambda run: bnn_lightning.evaluate(run, seed=3),
    "export": lambda run: bnn_lightning.export(run, "mlp.onnx", format="onnx", images=None),
    "predict": predict,
    "prepare": prepare,
    "profile": bnn_lightning.profile,
    "rank": lambda run: bnn_lightning.rank(run, [run], data={"val_fraction": 0.2}),
    "report": lambda run: bnn_lightning.report(run, "page.html"),
    "train": lambda run: bnn_lightning.train(*SMALL, epochs=1, trainer=CPU | {"benchmark": False}),
    "verify": verify,
    "visualize": lambda run: bnn_lightning.visualize("graph", "mlp", onnx=True),
    "visualize a run": lambda run: bnn_lightning.visualize("landscape", run, points=3, dimensions=1, **FEW),
}


def test_every_verb_is_called() -> None:
    assert set(bnn_lightning.__all__) - {"binarize", "load_task", "UserError"} <= set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_verb_leaves_the_process_as_it_was(name: str, run: Path, own_settings: None) -> None:
    before = state()
    CALLS[name](run)
    after = state()
    for part, value in before.items():
        assert after[part] == value, part


def test_an_error_leaves_the_process_as_it_was(run: Path, own_settings: None) -> None:
    before = state()
    with pytest.raises(UserError, match="val_fraction"):
        bnn_lightning.rank(run, [run])
    assert state() == before


@pytest.mark.slow  # the flag imports the compiler of torch
def test_a_deterministic_training(run: Path, own_settings: None) -> None:
    before = state()
    bnn_lightning.train(*SMALL, epochs=1, trainer=CPU | {"deterministic": "warn"})
    assert state() == before


def test_generators_go_on_as_if_no_verb_had_been_called(run: Path) -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    bnn_lightning.evaluate(run)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("started", [False, True])
def test_generators_of_gpus(started: bool) -> None:
    torch.manual_seed(5)
    if started:
        torch.rand(1, device="cuda")
    wanted = torch.cuda.get_rng_state()
    with contained():
        torch.manual_seed(6)
        torch.rand(1, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), wanted)


def test_a_run_of_wandb_that_the_caller_opened_stays_open(tmp_path: Path) -> None:
    wandb = pytest.importorskip("wandb")
    own = wandb.init(mode="disabled", dir=tmp_path)
    try:
        bnn_lightning.train(*SMALL, run_dir=tmp_path / "run", epochs=1, test=False, trainer=CPU)
        assert wandb.run is own
    finally:
        own.finish()
