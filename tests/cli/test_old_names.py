"""Names that have changed: old ones are errors with the new name, and old checkpoints are read."""

from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.cli.config_paths import list_options
from bnn_lightning.workflows import old_names
from bnn_lightning.workflows.building import build, locate
from bnn_lightning.workflows.checkpoint import load_task, read_checkpoint

Bnn = Any
TRIVIAL = "torchvision.transforms.v2.TrivialAugmentWide"
# Written at d261637: `python train.py model=mlp model.width=16 model.dropout=0 data=digits data.image_size=8
# data.batch_size=16 distill=skd_mlp mix@task.mix=mixup binarizer@model.input_binarizer=ede epochs=1 recipe=none
# optimizer.lr=0.02 callbacks.anneal.interval=step`, and `model.width=8 distill=ensemble distill.grain=batch
# distill.share=1 schedule=linear` with that run as both teachers. Both on a CPU.
FOLDER = Path(__file__).parent / old_names.COMMIT
SKD, ENSEMBLE = FOLDER / "skd_last.ckpt", FOLDER / "ensemble_final.ckpt"
LOGITS = {
    SKD: [0.2918993, 0.3915871, 0.238042, -1.886416, 2.415893, -0.0836839, 1.580698, -0.1441272, 0.3012942, -2.675606],
    ENSEMBLE: [
        *(-0.9208171, -0.4687202, 0.1556796, 0.0072048, -0.2546110),
        *(-0.5785881, 0.1324050, 0.6694766, -0.6176979, -0.8154269),
    ],
}


@pytest.mark.parametrize("path", [SKD, ENSEMBLE], ids=lambda path: path.stem)
def test_an_old_checkpoint_loads(path: Path) -> None:
    task = load_task(path)
    image = (torch.arange(64) % 17 / 16).reshape(1, 1, 8, 8)
    torch.testing.assert_close(task.backbone(image)[0], torch.tensor(LOGITS[path]), rtol=1e-5, atol=1e-6)


def test_settings_of_old_checkpoints_have_their_new_names() -> None:
    task = load_task(SKD)
    assert (task.progress.epochs, task.progress.interval) == (1, "step")
    assert (type(task.mix).__name__, type(task.distiller).__name__) == ("MixupCutmix", "SelfKD")
    distiller: Any = load_task(ENSEMBLE).distiller
    assert (distiller.weighting, distiller.scale) == ("per_batch", 1.0)
    for path in (SKD, ENSEMBLE):
        config = read_checkpoint(path)["bnn_lightning_config"]
        assert config["lr_scheduler"]["_target_"].startswith("bnn_lightning.optim.")
        assert {"anneal", "distill_progress", "mix_clip"}.isdisjoint(config["callbacks"])
        assert config["callbacks"]["channel_blend_clip"]["_target_"].endswith("ChannelBlendClip")
        assert old_names.with_new_names(config) == config


def test_old_targets_are_exchanged_wherever_they_stand() -> None:
    old = {"auto_augment": {"_target_": "bnn_lightning.data.TrivialAugment", "fill": [0.0, 0.0, 0.0]}, "name": "x"}
    new = old_names.with_new_names({"data": old})["data"]
    assert new == old | {"auto_augment": old["auto_augment"] | {"_target_": TRIVIAL}}  # type: ignore[operator]
    build(new["auto_augment"], at="data.auto_augment")
    assert old_names.with_new_names({"data": new}) == {"data": new}


def test_old_extras_are_none_of_the_package() -> None:
    config = ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    extras = set(config["options.extras_require"])
    assert extras.isdisjoint(old_names.EXTRAS)
    assert extras.issuperset(new for new in old_names.EXTRAS.values() if new is not None)


def test_a_damaged_configuration_is_returned() -> None:
    damaged: dict[str, Any] = {"callbacks": [1], "task": {"mix": 3}, "distill": "x", "schedule": None}
    assert old_names.with_new_names(damaged) == {k: v for k, v in damaged.items() if k != "schedule"} | {
        "lr_scheduler": None
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_old_checkpoint_is_scored_and_exported(bnn: Bnn, workplace: Path) -> None:
    done = bnn("evaluate", f"ckpt={SKD}")
    assert done.code == 0, done.err
    assert "60.83 %" in done.out
    done = bnn("export", f"ckpt={SKD}", "out=net.bnn", "images=64")
    assert done.code == 0, done.err
    done = bnn("evaluate", "packed=net.bnn")
    assert done.code == 0, done.err
    assert "60.83 %" in done.out


def test_an_old_checkpoint_is_not_resumed(bnn: Bnn, workplace: Path) -> None:
    done = bnn("train", "model=mlp", "data=digits", f"ckpt_path={SKD}", "recipe=none")
    assert done.code == 2
    assert f"commit {old_names.COMMIT}" in done.err
    assert f"init_from={SKD}" in done.err


def test_a_run_with_the_old_cosine_resumes(trained: Any, bnn: Bnn, small: tuple[str, ...], workplace: Path) -> None:
    """It is the uninterrupted one; `warmup_cosine` without a warm-up has the same state and rates."""
    words = ("train", *small, "warmup_epochs=0", "hydra.run.dir=runs/old")
    assert bnn(*words, "trainer.max_epochs=1").code == 0
    last = Path("runs/old/checkpoints/last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    scheduler = checkpoint["bnn_lightning_config"]["lr_scheduler"]
    scheduler["_target_"] = "bnn_lightning.optim.cosine"
    for key in ("warmup_epochs", "warmup_start", "decay_epochs"):
        del scheduler[key]
    torch.save(checkpoint, last)
    done = bnn(*words, "ckpt_path=last")
    assert done.code == 0, done.err
    assert "With other settings" not in done.out
    ends = [torch.load(path, weights_only=True) for path in (last, trained.last)]
    assert [end["global_step"] for end in ends] == [8, 8]
    assert ends[0]["lr_schedulers"] == ends[1]["lr_schedulers"]
    assert all(torch.equal(ends[0]["state_dict"][name], value) for name, value in ends[1]["state_dict"].items())


WORDS = {
    "schedule=linear": "lr_scheduler",
    "+schedule.interval=step": "lr_scheduler.interval",
    "~schedule": "lr_scheduler",
    "callbacks.anneal.interval=step": "task.progress_interval",
    "callbacks.distill_progress=null": "task.progress_epochs",
    "callbacks.mix_clip=null": "callbacks.channel_blend_clip",
    "distill=ensemble distill.grain=batch": "distill.weighting",
    "distill=ensemble distill.share=1": "distill.scale",
    "mix@task.mix=mixup task.mix._target_=bnn_lightning.data.Mix": "bnn_lightning.data.MixupCutmix",
}

# An option of each group that has another name or is a key now.
WORDS |= {
    "experiment=cifar10_resnet20_skd": "model=resnet20 data=cifar10",
    "distill=teacher teacher@distill.teacher=resnet50": "teacher=torchvision network.name=resnet50",
    "distill=consecutive": "distill=ensemble teacher@distill.assistants.second=checkpoint",
    "binarizer@model.weight_binarizer=temperature_libra": "binarizer=temperature base=libra",
    "lr_scheduler=cosine": "lr_scheduler=warmup_cosine warmup_epochs=0",
    "logger=[csv,none]": "logger=csv",
    "precision=tf32": "matmul_precision=high",
    "param_groups=bnext": "param_groups.weight_decay=1e-3 param_groups.filter_weight_decay=1e-8",
    "callbacks=[default,latent_clip]": "callbacks.latent_clip.limit=1.0",
}


@pytest.mark.parametrize("words", WORDS)
def test_an_old_name_is_an_error_with_the_new_one(words: str, bnn: Bnn, workplace: Path) -> None:
    done = bnn("train", *words.split())
    assert done.code == 2
    assert f"is called `{WORDS[words]}` now" in done.err


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("schedule/step.yaml", "_target_: torch.optim.lr_scheduler.StepLR\n"),
        ("experiment/mine.yaml", "# @package _global_\ndefaults:\n  - override /schedule: linear\n  - _self_\n"),
        ("experiment/mine.yaml", "# @package _global_\nschedule:\n  interval: step\n"),
        ("recipe/mlp_digits2.yaml", "# @package _global_\ncallbacks:\n  anneal:\n    interval: step\n"),
        ("recipe/mlp_digits2.yaml", "# @package _global_\npublished:\n  choose:\n    schedule: linear\n"),
    ],
)
def test_an_old_name_in_a_folder_of_ones_own_is_an_error(file: str, text: str, bnn: Bnn, workplace: Path) -> None:
    path = workplace / "mine" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    recipe = ["recipe=mlp_digits2"] if file.startswith("recipe") else []
    done = bnn("train", "-cd", "mine", *recipe)
    assert done.code == 2
    assert " now." in done.err


def test_old_options_are_gone_and_new_ones_exist() -> None:
    for old, new in old_names.OPTIONS.items():
        group, _, option = old.partition("=")
        assert option not in list_options(group)
        for group, _, option in (word.partition("=") for word in new.split()):
            if "." not in group and group not in ("base", "matmul_precision", "warmup_epochs"):
                assert option in list_options(group.partition("@")[0])


def test_new_names_exist() -> None:
    for target in old_names.TARGETS.values():
        locate(target, at="")
