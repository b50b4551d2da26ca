"""Resumption of a run: which checkpoint, and whether it fits."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule
from torch import Tensor, nn

from bnn_lightning.binarizers.base import Binarizer
from bnn_lightning.models.checkpoints import head_of, load_published
from bnn_lightning.utils.text import some
from bnn_lightning.workflows.checkpoint import (
    CONFIG_KEY,
    RENAMED_KEY,
    backbone_state,
    check_fits,
    is_ours,
    network_file,
    read_checkpoint,
)
from bnn_lightning.workflows.errors import UserError, as_user_error
from bnn_lightning.workflows.old_names import COMMIT
from bnn_lightning.workflows.run_folder import requeued, run_of
from bnn_lightning.zoo.files import is_name

# Names of binarizers in layers, and so of tensors in files of networks that have others.
_OF_BINARIZER = re.compile(r"(^|\.)(input|weight)_binarizer\.")
LAST = Path("checkpoints") / "last.ckpt"
FINAL = "final.ckpt"
# Keys that may differ between a run and its continuation without a word: places, and the display of the work.
_MAY_DIFFER = (
    *("paths", "hydra", "logger", "ckpt_path", "init_from", "name", "test", "objective", "on_nonfinite"),
    "published",
)
# Keys of the trainer: places, how the work is shown, and when it stops or is scored.
_TRAINER_MAY_DIFFER = (
    *("accelerator", "devices", "num_nodes", "strategy", "default_root_dir", "plugins", "use_distributed_sampler"),
    *("enable_progress_bar", "enable_model_summary", "log_every_n_steps", "profiler", "detect_anomaly"),
    *("max_epochs", "min_epochs", "min_steps", "max_steps", "max_time", "fast_dev_run", "num_sanity_val_steps"),
    *("check_val_every_n_epoch", "val_check_interval", "limit_val_batches", "limit_test_batches", "inference_mode"),
)
# The states of optimizer and scheduler, which a checkpoint restores, hold these: a change would not take effect, or
# would read a count of epochs as one of steps.
_RESTORED = ("optimizer", "param_groups", "freeze")
# Settings of a network that are in its tensors, which `init_from` takes over or announces.
_IN_TENSORS = ("num_classes", "mean", "std")


@dataclass(frozen=True)
class Resumption:
    """Training state that a run resumes from.

    Attributes:
        path: The file.
        checkpoint: Content of the checkpoint.
        in_place: Whether it lies in this run's own folder.
        requeued: Whether this is the run of a job that its launcher has started again.
    """

    path: Path
    checkpoint: Mapping[str, Any]
    in_place: bool
    requeued: bool = False

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        return int(self.checkpoint["global_step"])

    @property
    def progress(self) -> Mapping[str, int]:
        """Lightning's numbers of epochs that are ready, started, processed and completed."""
        current: Mapping[str, int] = self.checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        return current

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping has ended the run, and its final weights are written."""
        states = self.checkpoint.get("callbacks", {})
        stopped = any(states[key].get("stopped_epoch", 0) for key in states if key.startswith("EarlyStopping"))
        return stopped and self.final() is not None

    def is_finished(self, max_epochs: int | None, max_steps: int) -> bool:
        """Whether nothing is left to train.

        Raises:
            UserError: More was trained than is asked for.
        """
        done, within = self.progress["processed"], self.progress["ready"] > self.progress["processed"]
        if max_epochs is not None and 0 <= max_epochs < done + within:
            part = " and a part of another" if within else ""
            raise UserError(
                f"`{self.path}` has trained {done} epochs{part}, and {max_epochs} are asked for: give "
                f"epochs={done + within} or more."
            )
        return done == max_epochs or 0 <= max_steps <= self.step

    def has_ended(self, config: Mapping[str, Any]) -> bool:
        """Whether a requeued job has come to its end by early stopping.

        With other settings it goes on, as a user may ask for more: the run that the job resumes may be of other
        settings, as long as the job has written no checkpoint of its own.
        """
        before = self.checkpoint[CONFIG_KEY]
        equal = before.get("trainer") == config.get("trainer") and not any(_differences(before, config))
        return self.requeued and equal and self.stopped_early

    def final(self) -> Path | None:
        """Return the file of the final weights, if the run has written it at this step."""
        path = self.path.with_name(FINAL)
        return path if path.is_file() and read_checkpoint(path).get("global_step") == self.step else None

    def ids(self) -> dict[str, str]:
        """Return the ids of the run at logging services; empty for a new run in another folder."""
        found = self.checkpoint.get("callbacks", {}).get("Tracking", {}) if self.in_place else {}
        return {name: value for name, value in found.items() if isinstance(value, str)}


def find(ckpt_path: str | None, run_dir: Path, *, name: str) -> Resumption | None:
    """Return the checkpoint that a run resumes from, or None.

    Args:
        ckpt_path: See `find_checkpoint`.
        run_dir: See `find_checkpoint`.
        name: See `find_checkpoint`.

    Raises:
        UserError: There is no such checkpoint, or it holds no training state.
    """
    again = (run_dir / LAST).is_file() and requeued(run_dir)
    if again:  # the job has come further than what it started from
        path: Path | None = run_dir / LAST
    else:
        path = None if ckpt_path is None else find_checkpoint(ckpt_path, run_dir, name=name)
    if path is None:
        return None
    checkpoint = read_checkpoint(path)
    if not is_ours(checkpoint) or "optimizer_states" not in checkpoint or "loops" not in checkpoint:
        raise UserError(
            f"`{path}` cannot be resumed: it holds no state of a training run. Take the run's `{LAST.name}`, or start "
            f"from its weights: init_from={path}."
        )
    if checkpoint[RENAMED_KEY]:
        raise UserError(
            f"`{path}` was written before settings were renamed, and is resumed by the version that wrote it: commit "
            f"{COMMIT} or a later one. Or start a new run from its weights: init_from={path}."
        )
    own = run_of(path)
    in_place = own is not None and own.resolve() == run_dir.resolve()
    return Resumption(path, checkpoint, in_place, again)


def copy_curves(start: Resumption, run_dir: Path) -> None:
    """Copy the curves of the resumed run into the folder of a run that continues it elsewhere."""
    before = run_of(start.path)
    if before is None:
        return
    for file in before.glob("csv/version_*/metrics.csv"):
        target = run_dir / file.relative_to(before)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def find_checkpoint(wanted: str, run_dir: Path, *, name: str, in_sweep: bool = False) -> Path | None:
    """Return the file that `ckpt_path` means; None for a job that a sweep did not come to, which starts.

    Args:
        wanted: "last", a run's folder, or a file. "last" is the one of this run's own folder if it has one (a job that
            was started again), else the newest among the runs of the same name that lie beside it.
        run_dir: This run's folder.
        name: This run's name.
        in_sweep: The run is a job of a sweep; those beside it are other jobs, and "last" is in its own folder only. If
            it has none there and another job has, the sweep was stopped before this job's first checkpoint.

    Raises:
        UserError: There is none.
    """
    if is_name(wanted):
        raise UserError(f"`ckpt_path={wanted}`: the zoo has weights and no training states: init_from={wanted}.")
    if wanted != "last":
        return in_folder(wanted)
    own = run_dir / LAST
    if own.is_file():
        return own
    if in_sweep and any(run_dir.parent.glob(f"*/{LAST.as_posix()}")):
        return None
    if in_sweep:
        raise UserError(f"ckpt_path=last: `{run_dir.parent}`, the folder of this sweep, has no checkpoint.")
    found = sorted(run_dir.parent.glob(f"*/{LAST.as_posix()}"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found:
        if _name(path) == name:
            return path
    raise UserError(
        f"ckpt_path=last: no run in `{run_dir.parent}` that is called {name} has a checkpoint; give the path of one."
    )


def in_folder(wanted: str) -> Path:
    """Return the file of a path that may be a run's folder."""
    path = Path(wanted)
    return next((p for p in (path / LAST, path / LAST.name) if p.is_file()), path) if path.is_dir() else path


def check(task: LightningModule, start: Resumption, config: Mapping[str, Any]) -> str:
    """Check that a task can resume from a checkpoint; return a message for the user.

    Raises:
        UserError: It is that of another network, or settings were changed that it restores.
    """
    path, checkpoint = start.path, start.checkpoint
    check_fits(task, checkpoint.get("current_model_state", checkpoint["state_dict"]), path)
    before = checkpoint[CONFIG_KEY]
    # Our schedulers are built anew. The states of others, torch's and the user's own, hold settings.
    targets = (_setting(settings, "lr_scheduler._target_") for settings in (before, config))
    ours = all(target is None or str(target).startswith("bnn_lightning.") for target in targets)
    keys = (*_RESTORED, "lr_scheduler.interval" if ours else "lr_scheduler")
    restored = [text for key in keys for text in _differences(_setting(before, key), _setting(config, key), key)]
    if restored:
        raise UserError(
            f"`{path}` restores the states of the optimizer and of the learning-rate scheduler, which depend on "
            f"settings that were changed: {'; '.join(restored)}. Leave them as they were, or start a new run from the "
            f"weights: init_from={path}."
        )
    differing = list(_differences(before, config))
    changed = f" With other settings than before: {'; '.join(differing)}." if differing else ""
    return f"Resuming {path} after {start.step} steps.{changed}"


def start_from(task: LightningModule, wanted: str, model: object) -> str:
    """Load a network's weights, and nothing else, from a run's folder, a checkpoint, ours or published, or the zoo.

    In a folder these are the final weights, or those of `last.ckpt` while the run is not over.

    Args:
        task: Its backbone gets the weights.
        wanted: The path, or a name of the zoo.
        model: Settings of the backbone, to be compared with those of a checkpoint of ours.

    Returns:
        Message for the user.

    Raises:
        UserError: It cannot be read, or is that of another network.
    """
    path = network_file(wanted)
    checkpoint = read_checkpoint(path)
    backbone: Any = task.backbone
    if is_ours(checkpoint):
        differing = "; ".join(_differences(_settings(checkpoint[CONFIG_KEY].get("model")), _settings(model), "model"))
        changed = f" With other settings of the network than there: {differing}." if differing else ""
        try:
            said = _load_stage(backbone, backbone_state(checkpoint), path)
        except UserError as error:
            raise UserError(f"{error}{changed}") from error
        return f"Starting from the weights of {path}.{said}{changed}"
    with as_user_error():
        report = load_published(backbone, path, new_head=True)
    return f"Starting from the {len(report.loaded)} tensors of {path}.{_new_head(report.head)}"


def _setting(config: object, key: str) -> object:
    """Return the value of a key such as "lr_scheduler.interval"; None where there is none."""
    for name in key.split("."):
        config = config.get(name) if isinstance(config, Mapping) else None
    return config


def _settings(model: object) -> object:
    """Return the settings of a network without those that its tensors say: classes of the head, normalization."""
    return {key: model[key] for key in model if key not in _IN_TENSORS} if isinstance(model, Mapping) else model


def _new_head(names: Sequence[str]) -> str:
    return f" The head is for other classes, and starts anew: {some(names)}." if names else ""


def _load_stage(backbone: nn.Module, state: dict[str, Tensor], path: Path) -> str:
    """Load the weights of an earlier stage; return the differences: binarizers, or a head for other classes."""
    wanted = backbone.state_dict()
    head = head_of(wanted, {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)})
    state = {name: wanted[name] if name in head else tensor for name, tensor in state.items()}
    own = tuple(f"{name}." for name, module in backbone.named_modules() if isinstance(module, Binarizer))
    kept = [name for name in wanted if name not in state and name.startswith(own)] if own else []
    left_out = [name for name in state if name not in wanted and _OF_BINARIZER.search(name)]
    state = {name: state[name] for name in state if name not in left_out} | {name: wanted[name] for name in kept}
    check_fits(backbone, state, path)
    normalized = any(name.startswith("normalize.") and not wanted[name].equal(state[name]) for name in wanted)
    backbone.load_state_dict(state)
    says = ((kept, "keep their initial values"), (left_out, "of the file are not used"))
    texts = [f" Tensors of binarizers that {what}: {some(names)}." for names, what in says if names]
    texts += [" Images are normalized as there, not by data.mean and data.std."] if normalized else []
    return "".join(texts) + _new_head(head)


def _name(path: Path) -> str | None:
    checkpoint = read_checkpoint(path)
    return checkpoint[CONFIG_KEY].get("name") if is_ours(checkpoint) else None


def _differences(before: Any, now: Any, at: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        may_differ = {"": _MAY_DIFFER, "trainer": _TRAINER_MAY_DIFFER}.get(at, ())
        for key in dict.fromkeys([*before, *now]):
            if key not in may_differ:
                yield from _differences(before.get(key), now.get(key), f"{at}.{key}" if at else str(key))
    elif before != now and not at.endswith(("dirpath", "root")) and at != "trust":
        yield f"{at} {before} -> {now}"
