"""Folders of runs: nothing is overwritten, a resumed run is one run, and failed starts leave nothing."""

import csv
import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

from bnn_lightning.cli.recipes import announce_recipe
from bnn_lightning.models.float_teachers import is_rebuilding
from bnn_lightning.tasks import ClassificationTask
from bnn_lightning.utils.curves import read_curves, read_last
from bnn_lightning.workflows.building import build_task
from bnn_lightning.workflows.run_folder import LOCK, note_job

Bnn = Callable[..., Any]
HERE = "hydra.run.dir=runs/here"


def rows(run: Path | str) -> list[dict[str, str]]:
    (file,) = Path(run).glob("csv/*/metrics.csv")
    with file.open(newline="") as lines:
        return [{name: value for name, value in row.items() if name != "s_per_epoch"} for row in csv.DictReader(lines)]


def tensors(run: Path | str, name: str = "final") -> dict[str, torch.Tensor]:
    state = torch.load(Path(run, "checkpoints", f"{name}.ckpt"), weights_only=True)["state_dict"]
    assert isinstance(state, dict)
    return state


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def content(run: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in run.rglob("*") if path.is_file()}


@pytest.fixture
def copied(trained: Any, workplace: Path) -> Path:
    """A run of two epochs that is over, at `runs/here`."""
    shutil.copytree(trained.folder, "runs/here")
    return Path("runs/here")


SLURM = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_RESTART_COUNT": "1"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "run1", "TORCHELASTIC_RESTART_COUNT": "1", "WORLD_SIZE": "1", "GROUP_RANK": "0"}
TORCHRUN |= {"RANK": "0", "LOCAL_RANK": "0"}


@pytest.mark.parametrize("launcher", [SLURM, TORCHRUN], ids=["slurm", "torchrun"])
def test_a_job_that_its_launcher_starts_again_goes_on(
    launcher: dict[str, str], copied: Path, bnn: Bnn, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no signal came before, as when a node fails; and from the beginning before the first checkpoint.

    Pretrained weights are read for the beginning only.
    """
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    note_job(copied)
    rebuilt: list[bool] = []

    def build(*given: Any, **options: Any) -> ClassificationTask:
        rebuilt.append(is_rebuilding())
        return build_task(*given, **options)

    monkeypatch.setattr("bnn_lightning.workflows.training.build_task", build)
    done = bnn("train", *small, HERE, "epochs=3")
    assert done.code == 0, done.err
    assert "Resuming runs/here/checkpoints/last.ckpt after 8 steps" in done.out
    assert [row["epoch"] for row in rows(copied) if row["train/loss"]] == ["0", "1", "2"]
    shutil.rmtree(copied / "checkpoints")
    again = bnn("train", *small, HERE, "epochs=1")
    assert again.code == 0, again.err
    assert [row["epoch"] for row in rows(copied) if row["train/loss"]] == ["0"]
    assert rebuilt == [True, False]


def test_a_job_that_asks_for_more_trains_also_when_it_was_started_again(
    bnn: Bnn, small: tuple[str, ...], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it is preempted before its first own checkpoint, in the folder of the run and in a new one."""

    def steps(run: str) -> int:
        return int(torch.load(f"runs/{run}/checkpoints/last.ckpt", weights_only=True)["global_step"])

    words = ("train", *small, "epochs=5", "data.val_fraction=0.25", "callbacks=[default,early_stopping]")
    words += ("callbacks.early_stopping.min_delta=2", "callbacks.early_stopping.patience=1")
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    assert bnn(*words, HERE).code == 0
    assert bnn(*words, HERE).code == 0
    assert steps("here") == 6  # with equal settings the run is over: its first epoch is the best
    shutil.copytree("runs/here/csv", "runs/there/csv")
    shutil.copy("runs/here/.job", "runs/there")
    more = (*words[:-1], "callbacks.early_stopping.patience=2", "ckpt_path=runs/here")
    for run in ("there", "here"):
        assert bnn(*more, f"hydra.run.dir=runs/{run}").code == 0
        assert steps(run) == 9


def test_a_checkpoint_of_lightnings_requeueing_is_refused(
    copied: Path, trained: Any, bnn: Bnn, small: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would load it unasked where it trains and where it scores; its number is the newest in the folder."""
    variables = {"JOB_ID": "77", "JOB_NAME": "train", "RESTART_COUNT": "1", "NODELIST": "localhost", "NTASKS": "1"}
    variables |= {"NTASKS_PER_NODE": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    note_job(copied)
    for folder, words in ((copied, ("train", *small, HERE)), (Path(), ("evaluate", f"ckpt={trained.final}"))):
        shutil.copyfile(trained.last, folder / "hpc_ckpt_1.ckpt")
        before = content(folder / "checkpoints")
        done = bnn(*words)
        assert done.code == 2
        assert "hpc_ckpt_1.ckpt`" in done.err
        assert (folder / "hpc_ckpt_1.ckpt").read_bytes() == trained.last.read_bytes()
        assert content(folder / "checkpoints") == before
        (folder / "hpc_ckpt_1.ckpt").rename(folder / "moved.ckpt")
        assert bnn(*words).code == 0


def test_a_folder_that_holds_a_run_is_refused(copied: Path, bnn: Bnn, small: tuple[str, ...]) -> None:
    before = content(copied)
    done = bnn("train", *small, "seed=2", HERE)
    assert done.code == 2
    assert content(copied) == before
    resume, other = (line.split() for line in done.err.splitlines() if line.startswith("  "))
    assert resume[-1] == "ckpt_path=runs/here"
    assert other[-1] == "hydra.run.dir=runs/here-2"
    assert bnn(*other[other.index("train") :]).code == 0
    assert content(copied) == before
    assert bnn(*resume[resume.index("train") :]).code == 0


def test_two_runs_at_once_in_one_folder(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    Path("runs/here").mkdir(parents=True)
    with FileLock(f"runs/here/{LOCK}"):
        done = bnn("train", *small, HERE)
    assert done.code == 2
    assert "`runs/here`" in done.err
    assert [path.name for path in Path("runs/here").iterdir()] == [LOCK]
    assert bnn("train", *small, HERE).code == 0


def test_a_resumed_run_is_one_run(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    words = [*small, "epochs=4", "distill=skd", "trainer.log_every_n_steps=1"]
    assert bnn("train", *words, "hydra.run.dir=runs/whole").code == 0
    assert bnn("train", *words, "trainer.max_epochs=2", HERE).code == 0
    done = bnn("train", *words, "ckpt_path=runs/here")
    assert done.code == 0, done.err
    assert "run folder:     runs/here" in done.out
    assert sorted(path.name for path in Path("runs").iterdir()) == ["here", "whole"]
    assert same(tensors("runs/whole"), tensors("runs/here"))
    assert rows("runs/whole") == rows("runs/here")
    assert read_curves("runs/here")["epoch"] == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("lost", [False, True], ids=["logged", "killed before the epoch was logged"])
def test_a_run_in_another_folder_begins_with_a_copy_of_the_curve(
    lost: bool, copied: Path, bnn: Bnn, small: tuple[str, ...]
) -> None:
    original = [row["train/loss"] for row in rows(copied) if row["train/loss"]]
    if lost:
        (file,) = copied.glob("csv/*/metrics.csv")
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if line.split(",")[1] in ("epoch", "0")) + ",1,0.0")
    before = content(copied)
    done = bnn("train", *small, "epochs=3", f"ckpt_path={copied}", "hydra.run.dir=runs/there")
    assert done.code == 0, done.err
    assert content(copied) == before
    assert read_curves("runs/there")["epoch"] == [0.0, 1.0, 2.0]
    losses = [row["train/loss"] for row in rows("runs/there") if row["train/loss"]]
    assert losses[:2] == original
    assert len(losses) == 3


def test_a_finished_run_is_scored_as_it_came_out(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    words = ["train", *small, "callbacks=[default,ema]", "callbacks.ema.decay=0.5", "optimizer.lr=0.03"]
    first = bnn(*words, HERE)
    assert first.code == 0, first.err
    final, curve = tensors("runs/here"), rows("runs/here")
    again = bnn(*words, "ckpt_path=runs/here")
    assert again.code == 0, again.err
    score = re.compile(r"^test accuracy:.*$", flags=re.MULTILINE)
    assert score.findall(first.out) == score.findall(again.out) != []
    assert same(final, tensors("runs/here"))
    assert rows("runs/here") == curve


def test_a_run_that_was_killed_after_its_last_epoch_still_ends(
    bnn: Bnn, small: tuple[str, ...], workplace: Path
) -> None:
    words = ["train", *small, "callbacks=[default,ema]", "callbacks.ema.decay=0.5"]
    assert bnn(*words, HERE).code == 0
    final, curve, last = tensors("runs/here"), rows("runs/here"), read_last("runs/here")
    Path("runs/here/checkpoints/final.ckpt").unlink()
    done = bnn(*words, "ckpt_path=last", HERE)
    assert done.code == 0, done.err
    assert same(final, tensors("runs/here"))
    assert (rows("runs/here"), read_last("runs/here")) == (curve, last)


def test_fewer_epochs_than_are_done(copied: Path, bnn: Bnn, small: tuple[str, ...]) -> None:
    before = content(copied)
    done = bnn("train", *small, "epochs=1", f"ckpt_path={copied}")
    assert done.code == 2
    assert "2 epochs" in done.err
    assert "epochs=2" in done.err
    assert {name: content(copied)[name] for name in before if "csv" in name or "ckpt" in name} == {
        name: before[name] for name in before if "csv" in name or "ckpt" in name
    }


@pytest.mark.parametrize("word", ["optimizer.lr=-1.0", "data.batch_size=100000", "ckpt_path=nowhere", "seed=x"])
def test_a_failed_start_leaves_no_folder(word: str, bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    for folder in ([], ["hydra.run.dir=a/b/c"]):
        assert bnn("train", *small, word, *folder).code == 2
        assert list(workplace.iterdir()) == []


def test_a_failed_start_leaves_what_was_there(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine")
    assert bnn("train", *small, "optimizer.lr=-1.0", "hydra.run.dir=mine").code == 2
    assert Path("mine/notes.txt").read_text() == "mine"
    assert bnn("train", *small, "optimizer.lr=-1.0", "hydra.run.dir=mine/run").code == 2
    assert not Path("mine/run").exists()
    assert Path("mine/notes.txt").exists()


def table(out: str) -> list[list[str]]:
    lines = out[out.rindex("\njob ") :].strip().splitlines()
    return [re.split(r" {2,}", line) for line in lines[1:]]


def test_a_sweep_goes_on_after_a_job_that_fails(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    done = bnn("train", "-m", *small, "epochs=1", "optimizer.lr=0.1,-1.0,0.01", "hydra.sweep.dir=runs/s")
    assert done.code == 2
    jobs = table(done.out)
    assert [job[1] for job in jobs] == ["optimizer.lr=0.1", "optimizer.lr=-1.0", "optimizer.lr=0.01"]
    for number in (0, 2):
        accuracy = read_last(f"runs/s/{number}")["test/acc"]
        assert jobs[number][2:] == [f"{100 * accuracy:.2f} %", f"runs/s/{number}"]
        assert Path(f"runs/s/{number}/checkpoints/final.ckpt").is_file()
    assert "-1" in jobs[1][-1]
    assert "-1" in Path("runs/s/1/train.log").read_text().splitlines()[-2]
    again = bnn("train", "-m", *small, "epochs=1", "optimizer.lr=0.1,0.01", "hydra.sweep.dir=runs/s")
    assert again.code == 2  # the folders are taken
    assert [len(job) for job in table(again.out)] == [5, 4]


def test_a_stopped_sweep_names_what_did_not_run(
    bnn: Bnn, small: tuple[str, ...], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(config: Any) -> float:
        if config.seed == 2:
            raise KeyboardInterrupt
        return 0.0

    monkeypatch.setattr("bnn_lightning.cli.train.train", stop)
    done = bnn("train", "-m", *small, "seed=1,2,3,4")
    assert done.code not in (0, None)
    assert [job[-1] for job in table(done.out)][1:] == ["stopped", "not run", "not run"]
    assert [job[1] for job in table(done.out)] == [f"seed={seed}" for seed in (1, 2, 3, 4)]


def test_a_full_disk_is_one_sentence(
    bnn: Bnn, small: tuple[str, ...], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "metrics.csv")

    monkeypatch.setattr("bnn_lightning.cli.train.train", full)  # within the training
    assert bnn("train", *small).code == 2
    done = bnn("train", "-m", *small, "seed=1,2", "hydra.sweep.dir=runs/s")
    assert done.code == 2
    assert [job[-1].count("metrics.csv") for job in table(done.out)] == [1, 1]
    monkeypatch.setattr("hydra.core.utils._save_config", full)  # before it
    done = bnn("train", *small, HERE)
    assert done.code == 2
    assert "`runs/here`" in done.err
    assert not Path("runs/here").exists()
    assert bnn("train", "-m", *small, "seed=1,2").code == 2


def test_jobs_of_a_sweep_do_not_overwrite_each_others_files(trained: Any, bnn: Bnn, workplace: Path) -> None:
    words = ("export", "-m", f"ckpt={trained.final},{trained.last}")
    done = bnn(*words, "out=net.bnn")
    assert done.code == 2
    assert [path.name for path in workplace.glob("*.bnn")] == ["net.bnn"]
    assert bnn(*words, "out=net_${hydra:job.num}.bnn").code == 0
    assert sorted(path.name for path in workplace.glob("net_*")) == ["net_0.bnn", "net_1.bnn"]
    pytest.importorskip("matplotlib")
    for _ in range(2):  # what an earlier command wrote may be drawn anew
        assert bnn("visualize", "-m", "surrogates=SignSTE,ApproxSign", "out=one.png", "dpi=20").code == 0
    assert sorted(path.name for path in workplace.glob("one*.png")) == ["one_0.png", "one_1.png"]


@pytest.mark.slow
def test_another_launcher_keeps_runs_apart(
    trained: Any, process: Callable[..., Any], small: tuple[str, ...], workplace: Path
) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    shutil.copytree(trained.folder, "runs/s/0")
    before = content(Path("runs/s/0/checkpoints"))
    words = ("-m", "bnn_lightning.cli.main", "train", "-m", *small, "hydra.sweep.dir=runs/s")
    done = process(*words, "seed=2", "hydra/launcher=submitit_local")
    assert done.code == 2, done.err
    assert content(Path("runs/s/0/checkpoints")) == before
    done = process(*words, "epochs=3", "ckpt_path=last", "hydra/launcher=submitit_local")
    assert done.code == 0, done.err
    assert read_curves("runs/s/0")["epoch"] == [0.0, 1.0, 2.0]


def warmups(bnn: Bnn, monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[list[tuple[str, int, int]], str]:
    """Return model, epochs and warm-up of each job, and what was printed; nothing is trained."""
    seen: list[tuple[str, int, int]] = []

    def fit(config: Any) -> float:
        announce_recipe(config)
        seen.append((config.model.name, config.lr_scheduler.epochs, config.lr_scheduler.warmup_epochs))
        return 0.0

    monkeypatch.setattr("bnn_lightning.cli.train.train", fit)
    done = bnn("train", *words)
    assert done.code == 0, done.err
    return seen, done.out


def test_a_recipes_warm_up_is_scaled_to_a_shorter_run(bnn: Bnn, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, out = warmups(bnn, monkeypatch, "-m", "model=mlp,resnet20", "seed=1,2", "epochs=1")
    assert seen == [("mlp", 1, 0)] * 2 + [("resnet20", 1, 0)] * 2
    (announced,) = {line for line in out.splitlines() if line.startswith("Recipe resnet20_digits")}
    assert "warmup_epochs=1" in announced
    assert announced.endswith("warmup_epochs=0")
    cifar = ("model=resnet20", "data=cifar10")
    assert warmups(bnn, monkeypatch, *cifar, "epochs=70")[0] == [("resnet20", 70, 1)]
    assert warmups(bnn, monkeypatch, *cifar, "epochs=350")[0] == [("resnet20", 350, 4)]
    assert warmups(bnn, monkeypatch, *cifar, "epochs=1400")[0] == [("resnet20", 1400, 8)]
    assert warmups(bnn, monkeypatch, *cifar, "epochs=70", "warmup_epochs=8")[0] == [("resnet20", 70, 8)]
    assert warmups(bnn, monkeypatch, *cifar)[0] == [("resnet20", 700, 8)]
    assert "Recipe" not in warmups(bnn, monkeypatch, *cifar, "recipe=none")[1]


def test_the_memory_of_a_distiller_is_not_averaged(bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    words = ["train", *small, "callbacks=[default,ema]", "distill=skd"]
    assert bnn(*words, HERE).code == 0
    last = torch.load("runs/here/checkpoints/last.ckpt", weights_only=True)["current_model_state"]
    final = tensors("runs/here")
    names = [name for name in final if name.startswith("distiller.")]
    assert any("bank" in name for name in names)
    assert all(torch.equal(final[name], last[name]) for name in names)
    Path("runs/here/checkpoints/final.ckpt").unlink()
    assert bnn(*words, "ckpt_path=runs/here").code == 0
    assert same(final, tensors("runs/here"))


def test_a_loss_that_is_not_finite_names_the_last_good_checkpoint(
    bnn: Bnn, small: tuple[str, ...], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(self: ClassificationTask) -> None:
        if self.current_epoch == 1:
            for parameter in self.parameters():
                parameter.data.fill_(torch.nan)

    monkeypatch.setattr(ClassificationTask, "on_train_epoch_start", poison)
    done = bnn("train", *small, HERE)
    assert done.code == 2
    assert "runs/here/checkpoints/last.ckpt" in done.err
    assert "step 4, in epoch 1" in done.err
    checkpoint = torch.load("runs/here/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())
    assert not Path("runs/here/checkpoints/final.ckpt").exists()
    assert bnn("train", *small, "on_nonfinite=ignore", "hydra.run.dir=runs/there").code == 0
    assert "on_nonfinite" in bnn("train", *small, "on_nonfinite=stop").err
