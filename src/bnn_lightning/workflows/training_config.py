"""Configuration of a training that is called from Python: the sections that a call leaves out, and their defaults."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bnn_lightning.workflows.building import PACKAGE
from bnn_lightning.workflows.config_options import label_of
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.resumption import find_checkpoint
from bnn_lightning.workflows.run_folder import run_id, run_of
from bnn_lightning.workflows.run_loggers import named_loggers
from bnn_lightning.workflows.sections import data_folder, data_section, facts_taken, model_section
from bnn_lightning.workflows.settings import TrainSettings

Plain = dict[str, Any]

# By key of `callbacks`: what is lost without it. Annealing and turns of teachers are checked where a network has them.
NEEDED = {
    "rng_state": "a resumed run would draw other random numbers",
    "last_checkpoint": "the run could not be resumed",
    "final_checkpoint": "the trained network would be lost",
}


def training_config(
    settings: TrainSettings,
    model: str | Plain,
    data: str | Plain,
    given: Mapping[str, Plain | None],
    *,
    data_dir: str | Path | None,
    run_dir: str | Path | None,
    complete: bool,
) -> Plain:
    """Return the configuration of a training, all sections included, as plain containers.

    Args:
        settings: Keys of the whole run; a run without a name is called after its network and data.
        model: See `train`.
        data: See `train`.
        given: Other sections by name; None takes the default.
        data_dir: Folder of the data files; None: see `sections.data_folder`.
        run_dir: Folder of the run; None: that of the run that `ckpt_path` resumes, or `<name>/<time>` in `BNN_RUNS` of
            the environment or in `runs`.
        complete: Whether a composed configuration says all: then nothing has a default.

    Raises:
        UserError: An unknown name, or a `_target_` that is not allowed.
    """
    data_dir = data_folder(data_dir)
    if complete:
        paths = {"data_dir": data_dir, "run_dir": str(run_dir)}
        return vars(settings) | {"model": model, "data": data, "paths": paths, **given}
    data = data_section(data, data_dir)
    model = model_section(model, data)
    if "_target_" in model:
        model = _with_facts(model, data, "model", settings.trust)
    if settings.name == TrainSettings.name:
        settings.name = "_".join(map(label_of, (model, data)))
    folder = _run_folder(settings) if run_dir is None else Path(run_dir)
    config = vars(settings) | {"model": model, "data": data, "paths": {"data_dir": data_dir, "run_dir": str(folder)}}
    defaults = default_sections(settings, str(folder), num_classes=data.get("num_classes"))
    config |= {name: _merged(defaults.get(name), given.get(name)) for name in (*defaults, "distill")}
    config["callbacks"] = {**defaults["callbacks"], **(given.get("callbacks") or {})}
    config["logger"] = named_loggers({**defaults["logger"], **(given.get("logger") or {})}, settings.name)
    if config["distill"] is not None:
        config["distill"] = _with_facts(config["distill"], data, "distill", settings.trust)
    return config


def _run_folder(settings: TrainSettings) -> Path:
    """Return the folder of the run that is resumed, or one for a new run."""
    new = Path(os.environ.get("BNN_RUNS", "runs"), settings.name, run_id())
    if settings.ckpt_path is None:
        return new
    path = find_checkpoint(settings.ckpt_path, new, name=settings.name)
    return (None if path is None else run_of(path)) or new


def default_sections(settings: TrainSettings, run_dir: str, *, num_classes: int | None) -> Plain:
    """Return the default sections of `bnn train` without a recipe, printing off; a test holds both equal."""
    return {
        "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1e-3},
        "param_groups": {"_target_": f"{PACKAGE}.optim.default_groups", "_partial_": True, "weight_decay": 0.0},
        "lr_scheduler": {
            "_target_": f"{PACKAGE}.optim.warmup_cosine",
            "_partial_": True,
            **{key: getattr(settings, key) for key in ("epochs", "warmup_epochs", "warmup_start", "decay_epochs")},
            "min_factor": settings.min_lr_factor,
        },
        "task": {
            "_target_": f"{PACKAGE}.tasks.ClassificationTask",
            "_partial_": True,
            "num_classes": num_classes,
            "progress_epochs": settings.epochs,
        },
        "trainer": {
            "_target_": "pytorch_lightning.Trainer",
            "max_epochs": settings.epochs,
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 10,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": run_dir,
        },
        "callbacks": _default_callbacks(f"{run_dir}/checkpoints"),
        "logger": {
            "csv": {
                "_target_": f"{PACKAGE}.loggers.CSVLogger",
                "save_dir": run_dir,
                "name": "csv",
                "version": 0,
            }
        },
    }


def _default_callbacks(folder: str) -> Plain:
    return {
        # They run in this order, also those that a call adds.
        "latent_clip": {"_target_": f"{PACKAGE}.callbacks.LatentClip", "limit": None},
        "bias_clip": {"_target_": f"{PACKAGE}.callbacks.BiasClip", "limit": None},
        "channel_blend_clip": {"_target_": f"{PACKAGE}.callbacks.ChannelBlendClip"},
        "ema": None,
        "bn_reestimate": {"_target_": f"{PACKAGE}.callbacks.BNReestimate", "num_batches": 0},
        "flip_rate": {"_target_": f"{PACKAGE}.callbacks.FlipRateLogger"},
        "damaged_images": {"_target_": f"{PACKAGE}.callbacks.DamagedImages"},
        "progress_bar": {"_target_": "pytorch_lightning.callbacks.TQDMProgressBar", "refresh_rate": 10},
        "rng_state": {"_target_": f"{PACKAGE}.callbacks.RNGState"},
        "last_checkpoint": {"_target_": f"{PACKAGE}.callbacks.LastCheckpoint", "dirpath": folder},
        "final_checkpoint": {"_target_": f"{PACKAGE}.callbacks.FinalCheckpoint", "dirpath": folder},
    }


def _with_facts(node: Plain, data: Plain, at: str, trust: Sequence[str]) -> Plain:
    return node | {fact: data[fact] for fact in facts_taken(node, data, at=at, trust=trust)}


def _merged(default: Plain | None, given: Plain | None) -> Plain | None:
    if given is None or default is None or "_target_" not in given:
        return default if given is None else {**(default or {}), **given}
    return {key: value for key, value in default.items() if key == "_partial_"} | given


def check_needed(callbacks: Mapping[str, Any] | None) -> None:
    """Refuse a configuration without the callbacks that every run needs.

    Args:
        callbacks: The section, as plain containers.

    Raises:
        UserError: One of them was set to null or deleted.
    """
    for key, loss in NEEDED.items():
        if not (callbacks or {}).get(key):
            raise UserError(
                f"`callbacks.{key}` must not be null or missing: {loss}. Its settings may be changed; `callbacks=none` "
                "leaves out all that a run can do without."
            )
