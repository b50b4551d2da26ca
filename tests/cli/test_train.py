"""Whole runs of seconds: what they write, say, resume from and embed."""

import csv
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import bnn_lightning
from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.workflows.checkpoint import CONFIG_KEY
from bnn_lightning.workflows.errors import UserError

Bnn = Callable[..., Any]


def folder(out: str) -> Path:
    found = re.search(r"^run folder: +(\S+)$", out, flags=re.MULTILINE)
    assert found, out
    return Path(found[1])


def curves(run: Path) -> list[dict[str, str]]:
    (file,) = run.glob("csv/*/metrics.csv")
    with file.open() as lines:
        return list(csv.DictReader(lines))


def test_summary_files_and_next_commands(trained: Any) -> None:
    assert re.search(
        r"^test accuracy: +top-1 [\d.]+ %, top-5 [\d.]+ % \(loss [\d.]+\)$", trained.out, flags=re.MULTILINE
    )
    assert re.search(r"^time: +\d+ s$", trained.out, flags=re.MULTILINE)
    run = folder(trained.out)
    assert run.parent == Path("runs/mlp_synthetic")
    assert run.name == trained.folder.name
    assert not set("=,( ") & set(str(run))
    assert {p.name for p in (trained.folder / "checkpoints").iterdir()} == {"last.ckpt", "final.ckpt"}
    assert (trained.folder / ".hydra" / "config.yaml").is_file()
    first, second = trained.out.split("next:\n")[1].strip().splitlines()
    assert f"evaluate ckpt={run}/checkpoints/final.ckpt" in first
    assert second.endswith("distill=skd")
    names = set().union(*curves(trained.folder))
    assert {"train/loss", "train/acc", "test/acc", "test/acc_top5", "lr", "binary/flip_rate"} <= names
    assert not any(name.startswith("val/") for name in names)  # there is no held-out split


def test_the_next_commands_run(trained: Any, bnn: Bnn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained.folder.parents[2])
    for command in trained.out.split("next:\n")[1].strip().splitlines():
        words = command.split()
        verb = next(i for i, word in enumerate(words) if word in ("train", "evaluate"))
        assert bnn(*words[verb:], *(["name=next"] if words[verb] == "train" else [])).code == 0


def test_the_next_command_leaves_out_what_cross_entropy_lacks(
    bnn: Bnn, workplace: Path, small: tuple[str, ...]
) -> None:
    shutil.copytree(config_dir() / "model", workplace / "mine" / "model")
    for file in (workplace / "mine").rglob("mlp.yaml"):
        file.rename(file.with_name("my_mlp.yaml"))
    words = [word for word in small if word != "model=mlp"]
    given = ("model=my_mlp", "distill=skd", "distill.alpha=0.0", "~distill.bank_mode")
    first = bnn("train", "-cd", "mine", *words, "epochs=1", *given, "hydra.run.dir=runs/here")
    assert first.code == 0, first.err
    command = first.out.split("next:\n")[1].strip().splitlines()[1].split()
    assert command[-1] == "distill=none"
    assert not any("distill." in word or "hydra.run.dir" in word for word in command)
    again = bnn(*command[command.index("train") :])
    assert again.code == 0, again.err
    assert folder(again.out) != Path("runs/here")


def test_recipes_are_announced(bnn: Bnn, small: tuple[str, ...]) -> None:
    assert "No recipe for mlp_synthetic" in bnn("train", *small, "debug=fast").out
    words = [word for word in small if not word.startswith("data")]
    digits = bnn("train", *words, "data=digits", "debug=fast")
    (recipe,) = (line for line in digits.out.splitlines() if line.startswith("Recipe mlp_digits sets"))
    taken, _, passed_over = recipe.partition("; without its ")
    assert "optimizer.lr=0.003" in taken.split()
    assert "epochs=40" not in taken.split()  # `small` has its own
    assert "epochs=40" in passed_over.split()
    chosen = bnn("train", *words, "data=digits", "debug=fast", "optimizer=sgd", "optimizer.lr=0.1")
    assert chosen.code == 0, chosen.err


@pytest.mark.slow
def test_a_compiled_network_that_is_distilled_warns(bnn: Bnn, small: tuple[str, ...]) -> None:
    words = ("train", *small, "debug=fast", "task.compile=true", "trainer.limit_test_batches=0", "test=false")
    with pytest.warns(UserWarning, match=r"SelfKD records what is inside the network, which so trains uncompiled"):
        assert bnn(*words, "distill=skd", "data.val_fraction=0").code == 0


def test_the_progress_bar_waits_for_the_device_at_every_tenth_step_only(bnn: Bnn, small: tuple[str, ...]) -> None:
    trainers: list[Any] = []
    words = [word for word in small if "progress_bar" not in word]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bnn_lightning.cli.summary.print_summary", lambda trained: trainers.append(trained.task.trainer))
        assert bnn("train", *words, "epochs=1").code == 0
        assert bnn("train", *small, "epochs=1").code == 0
    assert trainers[0].progress_bar_callback.refresh_rate >= 10
    assert trainers[1].progress_bar_callback is None


def test_held_out_images_are_val(bnn: Bnn, small: tuple[str, ...]) -> None:
    done = bnn("train", *small, "data.val_fraction=0.25", "callbacks=[default,best,early_stopping]")
    assert done.code == 0, done.err
    assert re.search(r"^val accuracy: +top-1", done.out, flags=re.MULTILINE)
    assert (folder(done.out) / "checkpoints" / "best.ckpt").is_file()


def test_same_seed_same_network_other_seed_another(bnn: Bnn, small: tuple[str, ...]) -> None:
    def weights(*words: str) -> torch.Tensor:
        task = bnn_lightning.load_task(folder(bnn("train", *small, *words).out) / "checkpoints" / "final.ckpt")
        return torch.cat([p.flatten() for p in task.parameters()])

    first = weights("seed=5")
    assert torch.equal(first, weights("seed=5"))
    assert not torch.equal(first, weights("seed=6"))


def test_embedded_config_is_resolved_and_plain(trained: Any) -> None:
    for path in (trained.last, trained.final):
        config = torch.load(path, weights_only=True)[CONFIG_KEY]
        assert config["model"]["width"] == 16
        assert config["model"]["num_classes"] == 10
        assert "trust" not in config
        assert "${" not in str(config)


@pytest.mark.parametrize("distill", ["none", "skd"])
def test_load_task_rebuilds_from_the_checkpoint_alone(distill: str, bnn: Bnn, small: tuple[str, ...]) -> None:
    run = folder(bnn("train", *small, f"distill={distill}").out)
    for name in ("last.ckpt", "final.ckpt"):
        path = run / "checkpoints" / name
        task = bnn_lightning.load_task(path)
        assert not task.training
        saved = torch.load(path, weights_only=True)["state_dict"]
        state = task.state_dict()
        assert set(saved) == set(state)
        assert all(torch.equal(saved[key], state[key]) for key in saved)
        assert task(torch.rand(2, 3, 8, 8)).shape == (2, 10)
    assert any(key.startswith("distiller.bank") for key in saved) == (distill == "skd")


def test_resumed_run_ends_like_the_uninterrupted_one(bnn: Bnn, small: tuple[str, ...]) -> None:
    words = [*small, "epochs=4", "distill=skd"]
    whole = folder(bnn("train", *words, "name=whole").out)
    half = folder(bnn("train", *words, "name=half", "trainer.max_epochs=2").out)
    done = bnn("train", *words, "name=half", "ckpt_path=last")
    assert done.code == 0, done.err
    assert f"Resuming {half}/checkpoints/last.ckpt after 8 steps." in done.out + done.err
    assert "With other settings" not in done.out + done.err
    assert folder(done.out) == half
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (whole, half))
    assert a["state_dict"].keys() == b["state_dict"].keys()
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    assert a["global_step"] == b["global_step"] == 16


def test_resume_takes_a_run_folder_and_says_what_differs(trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    changed = ("epochs=3", "trainer.gradient_clip_val=0.5", "trainer.accumulate_grad_batches=2", "precision=fp64")
    shown = ("trainer.log_every_n_steps=1", "trainer.profiler=simple", "trainer.max_time=00:01:00:00")
    done = bnn("train", *small, f"ckpt_path={trained.folder}", "hydra.run.dir=runs/new", *changed, *shown)
    assert done.code == 0, done.err
    assert "With other settings than before: epochs 2 -> 3" in done.out
    for text in ("precision 32-true -> 64-true", "accumulate_grad_batches 1 -> 2", "gradient_clip_val None -> 0.5"):
        assert f"trainer.{text}" in done.out
    for name in ("log_every_n_steps", "profiler", "max_time", "max_epochs"):
        assert name not in done.out.split("With other settings")[1].split("\n")[0]


INTERVAL = "lr_scheduler.interval=step"


@pytest.mark.parametrize(
    "word, message",
    [
        ("optimizer.lr=0.5", "optimizer.lr 0.001 -> 0.5"),
        ("optimizer=adamw", "optimizer._target_ torch.optim.Adam -> torch.optim.AdamW"),
        ("param_groups.weight_decay=0.25", "param_groups.weight_decay 0.0 -> 0.25"),
        (INTERVAL, "lr_scheduler.interval epoch -> step"),
    ],
)
def test_what_a_checkpoint_restores_cannot_be_changed_on_resume(
    word: str, message: str, trained: Any, bnn: Bnn, small: tuple[str, ...]
) -> None:
    done = bnn("train", *small, f"ckpt_path={trained.folder}", "hydra.run.dir=runs/new", "epochs=3", word)
    assert done.code == 2
    assert message in done.err
    assert f"init_from={trained.last}" in done.err
    restarted = bnn("train", *small, f"init_from={trained.folder}", "epochs=1", word)
    assert restarted.code == 0, restarted.err
    checkpoint = torch.load(folder(restarted.out) / "checkpoints" / "last.ckpt", weights_only=True)
    groups, (scheduler,) = checkpoint["optimizer_states"][0]["param_groups"], checkpoint["lr_schedulers"]
    values = {(group["initial_lr"], group["weight_decay"]) for group in groups}
    assert any(0.5 in pair or 0.25 in pair for pair in values) == (word not in ("optimizer=adamw", INTERVAL))
    assert scheduler["last_epoch"] == (4 if word == INTERVAL else 1)


def test_last_is_a_run_of_the_same_name(trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    for name in ("mine", "other"):
        bnn("train", *small, f"name={name}", f"hydra.run.dir=runs/{name}", "epochs=1")
    words = ("train", *small, "ckpt_path=last", "hydra.run.dir=runs/new")
    done = bnn(*words, "name=mine")
    assert done.code == 0, done.err
    assert "Resuming runs/mine/checkpoints/last.ckpt" in done.out
    shutil.rmtree("runs/new")
    refused = bnn(*words, "name=third")
    assert refused.code == 2
    assert "no run in `runs` that is called third has a checkpoint" in refused.err


def test_last_of_a_job_of_a_sweep_is_its_own(bnn: Bnn, small: tuple[str, ...]) -> None:
    sweep = ("train", "-m", *small, "seed=1,2", "hydra.sweep.dir=runs/s")
    assert bnn(*sweep, "epochs=1").code == 0
    done = bnn(*sweep, "ckpt_path=last")
    assert done.code == 0, done.err
    for job in ("0", "1"):
        assert f"Resuming runs/s/{job}/checkpoints/last.ckpt" in done.out
    shutil.rmtree("runs/s/1")  # as if the sweep had been stopped before it
    again = bnn(*sweep, "ckpt_path=last")
    assert again.code == 0, again.err
    assert Path("runs/s/1/checkpoints/final.ckpt").is_file()
    refused = bnn(*sweep, "ckpt_path=last", "hydra.sweep.dir=runs/new")
    assert refused.code == 2
    assert "`runs/new`, the folder of this sweep, has no checkpoint" in refused.err


def test_an_experiment_that_starts_from_weights_resumes_without_them(
    bnn: Bnn, workplace: Path, small: tuple[str, ...]
) -> None:
    (workplace / "mine" / "experiment").mkdir(parents=True)
    (workplace / "mine" / "experiment" / "second.yaml").write_text("# @package _global_\ninit_from: required\n")
    words = ("train", "-cd", "mine", *small, "experiment=second")
    assert "`init_from` has no value" in bnn(*words).err
    first = folder(bnn("train", *small, "epochs=1").out)
    half = bnn(*words, f"init_from={first}", "trainer.max_epochs=1", "hydra.run.dir=runs/half")
    assert half.code == 0, half.err
    assert f"Starting from the weights of {first}/checkpoints/final.ckpt" in half.out
    shutil.rmtree(first)
    for number, more in enumerate(([], [f"init_from={first}"])):
        done = bnn(*words, "ckpt_path=runs/half", f"hydra.run.dir=runs/{number}", *more)
        assert done.code == 0, done.err
        assert "Starting from" not in done.out
        assert "Resuming runs/half/checkpoints/last.ckpt after 4 steps" in done.out


def test_resume_in_the_same_folder_loses_nothing(trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    shutil.copytree(trained.folder, "runs/copy")
    done = bnn("train", *small, "ckpt_path=last", "epochs=3", "hydra.run.dir=runs/copy")
    assert done.code == 0, done.err
    assert "Resuming runs/copy/checkpoints/last.ckpt" in done.out
    assert [int(row["epoch"]) for row in curves(Path("runs/copy")) if row["train/loss"]] == [0, 1, 2]
    assert {p.name for p in Path("runs/copy/checkpoints").iterdir()} == {"last.ckpt", "final.ckpt"}


def test_final_checkpoint_cannot_be_resumed(trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    done = bnn("train", *small, f"ckpt_path={trained.final}", "hydra.run.dir=runs/new")
    assert done.code == 2
    assert "cannot be resumed" in done.err
    assert "init_from=" in done.err


def test_checkpoint_of_another_network(trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    for key in ("ckpt_path", "init_from"):
        done = bnn("train", *small, "model.width=24", f"{key}={trained.last}", "hydra.run.dir=runs/new")
        assert done.code == 2
        assert "is a checkpoint of another network" in done.err
        assert re.search(r"Of another shape: \S+weight \(file \(16, 192\), network \(24, 192\)\)", done.err)
        assert "Traceback" not in done.err


def test_init_from_takes_the_weights_only(trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    words = [*small, "optimizer=sgd", "optimizer.lr=0.0", "optimizer.momentum=0.0", "epochs=1"]
    done = bnn("train", *words, f"init_from={trained.final}")
    assert done.code == 0, done.err
    before = bnn_lightning.load_task(trained.final)
    after = bnn_lightning.load_task(folder(done.out) / "checkpoints" / "final.ckpt")
    assert all(map(torch.equal, before.backbone.parameters(), after.backbone.parameters()))
    last = torch.load(folder(done.out) / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 4


def test_truncated_checkpoint(trained: Any, bnn: Bnn, small: tuple[str, ...]) -> None:
    broken = Path("broken.ckpt")
    content = trained.last.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        broken.write_bytes(content[:length])
        done = bnn("train", *small, "ckpt_path=broken.ckpt")
        assert done.code == 2
        assert f"`broken.ckpt` ({length:,} bytes) is not a checkpoint, is truncated" in done.err
    with pytest.raises(UserError, match="is truncated"):
        bnn_lightning.load_task(broken)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_resume(
    bnn: Bnn, workplace: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "my_stop.py").write_text(STOP)
    (workplace / "mine" / "callbacks").mkdir(parents=True)
    (workplace / "mine" / "callbacks" / "stop.yaml").write_text("stop: {_target_: my_stop.Stop}\n")
    words = (*small, "-cd", "mine", "callbacks=[default,stop]", "test=false")
    done = bnn("train", *words)
    assert done.code == 1
    command = done.out.split("stopped; to resume:\n")[1].split()
    assert command[-1].endswith("/checkpoints/last.ckpt")
    resumed = bnn("train", *small, command[-1])
    assert resumed.code == 0, resumed.err
    assert "after 3 steps" in resumed.out


STOP = """
import os
import signal

from pytorch_lightning import Callback


class Stop(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGINT)
"""


def test_full_disk_is_one_clear_error(bnn: Bnn, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(checkpoint: object, file: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bnn_lightning.callbacks.checkpoint_io.torch.save", full)
    done = bnn("train", *small)
    assert done.code == 2
    assert "could not be written: No space left on device" in done.err


@pytest.mark.parametrize("words, numbers", [(["-m", "seed=1,2"], [1, 2]), (["sweep=seeds"], [1, 2, 3])])
def test_sweep_trains_each_job_in_a_folder_of_its_own(
    words: list[str], numbers: list[int], bnn: Bnn, workplace: Path, small: tuple[str, ...]
) -> None:
    done = bnn("train", *words, *small, "epochs=1")
    assert done.code == 0, done.err
    jobs = sorted(workplace.glob("runs/sweep/*/*/checkpoints/final.ckpt"))
    assert [path.parts[-3] for path in jobs] == [str(i) for i in range(len(numbers))]
    configs = [torch.load(path, weights_only=True)[CONFIG_KEY] for path in jobs]
    assert [config["seed"] for config in configs] == numbers
    assert len({config["paths"]["run_dir"] for config in configs}) == len(numbers)


def test_trust_comes_from_the_command_line_only(
    bnn: Bnn, workplace: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (workplace / "my_package.py").write_text("from pytorch_lightning import Callback\n\nclass Mine(Callback): ...\n")
    monkeypatch.syspath_prepend(workplace)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)  # another test's
    (workplace / "mine" / "experiment").mkdir(parents=True)
    file = workplace / "mine" / "experiment" / "own.yaml"
    file.write_text("# @package _global_\ncallbacks:\n  mine: {_target_: my_package.Mine}\n")
    words = ("train", "-cd", "mine", *small, "experiment=own", "debug=fast")
    assert bnn(*words).code == 0
    file.write_text(file.read_text() + "trust: [my_package]\n")
    refused = bnn(*words)
    assert refused.code == 2
    assert "taken from the command line only" in refused.err


def test_tensorboard(bnn: Bnn, small: tuple[str, ...]) -> None:
    pytest.importorskip("tensorboard")
    run = folder(bnn("train", *small, "logger=[csv,tensorboard]").out)
    assert list(run.glob("tensorboard/*/events.*"))
    assert curves(run)


@pytest.mark.parametrize("option", ["csv", "[csv]"])
def test_the_csv_file_is_always_on(option: str, composed: Callable[..., dict[str, Any]]) -> None:
    assert list(composed(f"logger={option}")["logger"]) == ["csv"]
    assert list(composed("logger=wandb")["logger"]) == ["csv", "wandb"]


def test_wandb_offline_makes_a_run_for_each_job_of_a_sweep(
    bnn: Bnn, workplace: Path, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = bnn("train", "-m", *small, "epochs=1", "logger=[wandb]", "logger.wandb.offline=true", "seed=1,2")
    assert done.code == 0, done.err
    wandb.teardown()  # its service, which the end of a process waits for, writes the rest
    for job in ("0", "1"):
        (files,) = workplace.glob(f"runs/sweep/*/{job}/wandb/offline-run-*/*.wandb")
        assert files.stat().st_size > 1000


def test_wandb_without_a_login_is_one_clear_error(
    bnn: Bnn, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # what it remembers of an offline run before
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc
    monkeypatch.setenv("WANDB_SILENT", "true")
    done = bnn("train", *small, "epochs=1", "logger=[wandb]")
    assert done.code == 2
    assert "error: " in done.err
    assert "logger.wandb.offline=true" in done.err
    assert "Traceback" not in done.err


def test_ema_saves_a_binary_average(bnn: Bnn, small: tuple[str, ...], recwarn: pytest.WarningsRecorder) -> None:
    words = [*small, "callbacks=[default,ema]", "callbacks.ema.decay=0.5", "distill=skd"]
    done = bnn("train", *words)
    assert done.code == 0, done.err
    assert not [warning for warning in recwarn if "WeightAveraging" in str(warning.message)]
    task = bnn_lightning.load_task(folder(done.out) / "checkpoints" / "final.ckpt")
    from bnn_lightning.layers.module_utils import binary_layers, is_binary

    assert is_binary(task)
    for layer in binary_layers(task).values():
        assert set(layer.binary_weight.unique().tolist()) <= {-1.0, 1.0}
