"""`bnn train`, and `train.py`: compose the configuration, train with it, and print the summary."""

import os
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from bnn_lightning.cli import sweep
from bnn_lightning.cli.config_paths import config_dir
from bnn_lightning.cli.launch import is_sweep, launch, pass_to_workers, refuse_multi_node_sweep
from bnn_lightning.cli.schema import plain_values, read_settings
from bnn_lightning.workflows.errors import UserError

# Sections of `train.yaml` that are arguments of `bnn_lightning.train`.
_SECTIONS = (
    *("model", "data", "optimizer", "param_groups", "lr_scheduler", "distill", "task", "trainer", "callbacks"),
    "logger",
)


def main() -> None:
    """Train as the command line of `train.py` says, which has no verb."""
    launch(train, config_name="train")


def train(config: DictConfig) -> float | None:
    """Train with a composed configuration; return a sweep's objective."""
    # Imported late: `--help` and `--cfg job` do without torch and Lightning.
    from bnn_lightning.cli.summary import print_interrupted, print_summary
    from bnn_lightning.workflows import training

    arguments = training_arguments(config)
    try:
        trained = training.train(**arguments)
    except SystemExit:  # what Lightning makes of Ctrl-C and SIGTERM
        print_interrupted(Path(arguments["trainer"]["default_root_dir"]))
        raise
    print_summary(trained)
    return trained.objective


def compose_training(*overrides: str) -> dict[str, Any]:
    """Return the arguments of `bnn_lightning.train` that words of a command line mean, with the published recipe.

    Example:
        >>> arguments = compose_training("model=resnet20", "data=cifar10")
        >>> arguments["model"]["name"], arguments["optimizer"]["lr"]
        ('resnet20', 0.1)
    """
    record = HydraConfig.instance()
    before = record.cfg  # of an earlier command of this process
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
        record.set_config(config)
        with open_dict(config):
            del config["hydra"]
        try:
            return training_arguments(config)
        finally:
            record.cfg = before


def training_arguments(config: DictConfig) -> dict[str, Any]:
    """Return the arguments of `bnn_lightning.train` that a configuration means, and say which recipe it takes.

    Args:
        config: As composed by Hydra from `train.yaml`; it is completed in place.

    Raises:
        UserError: Mistakes that only the command line can know.
    """
    # Imported late, as above.
    from bnn_lightning.cli.facts import take_facts
    from bnn_lightning.cli.recipes import announce_recipe
    from bnn_lightning.workflows.building import check_chosen
    from bnn_lightning.workflows.run_loggers import named_loggers
    from bnn_lightning.workflows.settings import TrainSettings

    _check_trust(config)
    _place(config)
    settings = read_settings(TrainSettings, config)
    announce_recipe(config)
    take_facts(config)
    check_chosen(config)
    plain = plain_values(config, complete=True)
    refuse_multi_node_sweep(plain["trainer"].get("num_nodes", 1))
    folder = Path(plain["paths"]["run_dir"])
    settings.ckpt_path = _checkpoint(settings.ckpt_path, folder, settings.name)
    sections = {key: plain.get(key) for key in _SECTIONS}
    group = folder.parent.name if is_sweep() else None
    sections["logger"] = named_loggers(plain.get("logger"), _name(settings.name), group)
    return {**sections, **vars(settings), "run_dir": folder, "data_dir": plain["paths"]["data_dir"], "config": plain}


def _checkpoint(wanted: str | None, run_dir: Path, name: str) -> str | None:
    """Return the file that `ckpt_path` means; workers get its path, as it was looked up."""
    if wanted is None:
        return None
    # Imported late, as above.
    from bnn_lightning.workflows.resumption import find_checkpoint

    path = find_checkpoint(wanted, run_dir, name=name, in_sweep=is_sweep())
    if path is not None:
        pass_to_workers("ckpt_path", str(path))
    return None if path is None else str(path)


def _name(name: str) -> str:
    """Return the name of a run for its loggers: in a sweep with what tells it from the other jobs."""
    if not is_sweep():
        return name
    number = HydraConfig.get().job.num
    job = next((job for job in sweep.running.jobs if job.number == number), None)
    return " ".join([name, *(sweep.running.differing(job) if job is not None else [str(number)])])


def _place(config: DictConfig) -> None:
    """Say in `paths.run_dir` where the run's own folder is, where Hydra runs the job."""
    # Hydra's record outlives its job: in a notebook or a test, one that only printed a configuration has no folder.
    if HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().runtime, "output_dir"):
        for override in HydraConfig.get().overrides.task:
            key, _, folder = override.lstrip("+").partition("=")
            if key == "paths.run_dir":
                raise UserError(f"`{override}`: the folder of a run is given by hydra.run.dir={folder}.")
        path = HydraConfig.get().runtime.output_dir
        relative = os.path.relpath(path)
        OmegaConf.update(config, "paths.run_dir", path if relative.startswith("..") else relative)


def _check_trust(config: DictConfig) -> None:
    """See that `trust` comes from the command line: a file could come from elsewhere."""
    if not config.get("trust") or not HydraConfig.initialized():
        return
    overrides = HydraConfig.get().overrides.task
    if not any(override.lstrip("+").startswith("trust=") for override in overrides):
        raise UserError(f"`trust` is taken from the command line only: give trust={config.trust} there.")
