import os
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.types import RunMode

from bnn_lightning.cli import launch

Bnn = Callable[..., Any]


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_JOB_NAME", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train"}, "slurm-77"),
        ({"SLURM_JOB_ID": "77"}, "slurm-77"),
        ({"TORCHELASTIC_RUN_ID": "a=b,c d"}, "torchrun-a-b-c-d"),
        ({"TORCHELASTIC_RUN_ID": "none"}, f"torchrun-{os.getppid()}"),
    ],
)
def test_ranks_of_a_cluster_job_share_a_folder(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launch.run_id() == expected == launch.run_id()


@pytest.mark.parametrize("session", ["bash", "interactive"])
def test_runs_of_an_interactive_session_are_told_apart(session: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    monkeypatch.setenv("SLURM_JOB_NAME", session)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-\d{3}", launch.run_id())


def record(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], str, int]]:
    """Replace the training by a note of what a worker would be started with, and where."""
    from hydra.core.hydra_config import HydraConfig

    seen: list[tuple[list[str], str, int]] = []

    def job(config: Any) -> float:
        launch.pass_to_workers("ckpt_path", 'a "b" c')
        os.environ["MASTER_PORT"] = "1"
        seen.append((list(sys.argv), HydraConfig.get().run.dir, config.seed))
        return 0.0

    monkeypatch.setattr("bnn_lightning.cli.train.train", job)
    return seen


def test_a_worker_of_a_single_run_gets_the_same_words(bnn: Bnn, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = record(monkeypatch)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    assert bnn("train", "seed=3", "hydra.run.dir=here").code == 0
    ((argv, folder, seed),) = seen
    assert argv == ["bnn", "train", "seed=3", "hydra.run.dir=here", 'ckpt_path="a \\"b\\" c"']
    assert (folder, seed) == ("here", 3)
    assert sys.argv == ["bnn", "train", "seed=3", "hydra.run.dir=here"]
    assert "MASTER_PORT" not in os.environ


def test_a_worker_of_a_sweep_gets_one_job(bnn: Bnn, workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = record(monkeypatch)
    (workplace / "mine").mkdir()
    words = ("-m", "-cd", "mine", "seed=1,2", "epochs=3", "hydra.sweep.dir=there", "hydra.verbose=true")
    assert bnn("train", *words).code == 0
    assert [seed for *_, seed in seen] == [1, 2]
    for number, (argv, folder, seed) in enumerate(seen):
        assert argv[:3] == ["bnn", "train", "--config-dir=mine"]
        assert argv[3:5] == [f"seed={seed}", "epochs=3"]
        assert sorted(argv[5:-1]) == ["hydra.mode=RUN", "hydra.verbose=true"]
        assert folder == str(workplace / "there" / str(number))
    assert sys.argv == ["bnn", "train", *words]


def test_train_py_has_no_verb(bnn: Bnn, monkeypatch: pytest.MonkeyPatch) -> None:
    from bnn_lightning.cli import train

    seen = record(monkeypatch)
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "seed=4"])
    train.main()
    assert seen[0][0][:2] == ["train.py", "seed=4"]


def test_a_sweep_over_nodes_is_refused_in_one_process(bnn: Bnn) -> None:
    assert "submitit" in bnn("train", "-m", "seed=1,2", "trainer.num_nodes=2").err
    assert "submitit" not in bnn("train", "trainer.num_nodes=2", "trainer.devices=64").err


def test_the_environment_is_left_as_it_was(bnn: Bnn, monkeypatch: pytest.MonkeyPatch) -> None:
    record(monkeypatch)
    before = dict(os.environ)
    bnn("train", "seed=1")
    assert dict(os.environ) == before


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[RunMode]:
    """Modes of the configurations that were composed."""
    modes, compose = [], ConfigLoaderImpl._load_configuration_impl

    def counted(*arguments: Any, **options: Any) -> Any:
        modes.append(options["run_mode"])
        return compose(*arguments, **options)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_configuration_impl", counted)
    return modes


def test_a_configuration_is_composed_once(
    bnn: Bnn, workplace: Any, monkeypatch: pytest.MonkeyPatch, composed: list[RunMode]
) -> None:
    seen = record(monkeypatch)
    assert bnn("train", "seed=4", "hydra.run.dir=here").code == 0
    assert composed == [RunMode.RUN]
    assert bnn("train", "sweep=seeds").code == 0
    assert bnn("train", "hydra.mode=MULTIRUN", "seed=7,8").code == 0
    assert [seed for *_, seed in seen] == [4, 1, 2, 3, 7, 8]


@pytest.mark.parametrize(
    "text",
    [
        'hydra:\n  mode: "MULTIRUN"\n  sweeper:\n    params:\n      seed: "1,2,3"\n',
        "hydra: {mode: 2, sweeper: {params: {seed: '1,2,3'}}}\n",
        "defaults: [/sweep/seeds]\n",
    ],
    ids=["name", "number", "defaults"],
)
def test_any_file_may_say_that_there_is_a_sweep(
    text: str, bnn: Bnn, workplace: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record(monkeypatch)
    (workplace / "mine" / "experiment").mkdir(parents=True)
    (workplace / "mine" / "experiment" / "three.yaml").write_text(f"# @package _global_\n{text}")
    assert bnn("train", "-cd", "mine", "experiment=three").code == 0
    assert [seed for *_, seed in seen] == [1, 2, 3]


@pytest.mark.parametrize("flag", ["--cfg", "-c"])
def test_a_sweep_has_no_one_configuration_to_show(flag: str, bnn: Bnn) -> None:
    done = bnn("train", "-m", "seed=1,2", flag, "job")
    assert done.code == 2
    assert done.err.startswith("error: -m with --cfg: a sweep is many jobs")
    assert "Traceback" not in done.err


@pytest.mark.parametrize("words", ["model=_backbone", "data=_image_data", "callbacks=[default,_none]"])
def test_parts_of_options_cannot_be_chosen(words: str, bnn: Bnn) -> None:
    done = bnn("train", words)
    assert done.code == 2
    assert "have in common, and no option" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("words", ["precision=32", "precision=true", "optimizer=1e-3", "callbacks=[default,3]"])
def test_an_option_is_no_number(words: str, bnn: Bnn) -> None:
    done = bnn("train", words)
    assert done.code == 2
    assert re.search(r"is no option of `(precision|optimizer|callbacks)`, which has: .*(fp32|adam|default)", done.err)
    assert "Traceback" not in done.err


def test_help_lists_options_only(bnn: Bnn) -> None:
    groups = bnn("train", "--help").out.partition("== Groups and their options ==")[2].partition("==")[0]
    assert re.search(r"^model: .*birealnet18", groups, flags=re.MULTILINE)
    assert not re.search(r"[ ,]_", groups)
