"""Where a run goes on: which checkpoint, and whether it fits."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule

from bnn_lightning.cli.checkpoint import CONFIG_KEY, check_fits, is_ours, read_checkpoint
from bnn_lightning.cli.errors import UserError
from bnn_lightning.models.checkpoints import load_published

LAST = Path("checkpoints") / "last.ckpt"
# What may differ between a run and its continuation without a word: places, and how the work is shown.
_MAY_DIFFER = ("paths", "hydra", "logger", "trainer", "ckpt_path", "init_from", "name", "test", "objective")


def find_checkpoint(wanted: str, run_dir: Path) -> Path:
    """Return the file that `ckpt_path` means.

    Args:
        wanted: "last", a run's folder, or a file. "last" is the one of this run's own folder if it has one (a job that
            was started again), else the newest among the runs of the same name, which lie beside it.
        run_dir: This run's folder.

    Raises:
        UserError: There is none.
    """
    if wanted != "last":
        path = Path(wanted)
        return next((p for p in (path / LAST, path / LAST.name) if p.is_file()), path) if path.is_dir() else path
    own = run_dir / LAST
    if own.is_file():
        return own
    found = sorted(run_dir.parent.glob(f"*/{LAST.as_posix()}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"ckpt_path=last: no run in `{run_dir.parent}` has a checkpoint; give the path of one.")
    return found[-1]


def check(task: LightningModule, path: Path, config: Mapping[str, Any]) -> str:
    """See that a checkpoint resumes this task; return what to tell the user.

    Raises:
        UserError: It cannot be read, or is that of another network.
    """
    checkpoint = read_checkpoint(path)
    if not is_ours(checkpoint) or "optimizer_states" not in checkpoint:
        raise UserError(
            f"`{path}` cannot be resumed: it holds no state of a training run. Take the run's `{LAST.name}`, or start "
            f"from its weights: init_from={path}."
        )
    check_fits(task, checkpoint.get("current_model_state", checkpoint["state_dict"]), path)
    differing = list(_differences(checkpoint[CONFIG_KEY], config))
    changed = f" With other settings than before: {'; '.join(differing)}." if differing else ""
    return f"Resuming {path} after {checkpoint.get('global_step')} steps.{changed}"


def start_from(task: LightningModule, path: str) -> str:
    """Load a network's weights, and nothing else, from a checkpoint of ours or a published one.

    Raises:
        UserError: It cannot be read, or is that of another network.
    """
    checkpoint = read_checkpoint(path)
    backbone: Any = task.backbone
    if is_ours(checkpoint):
        prefix = "backbone."
        state = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
        check_fits(backbone, state, path)
        backbone.load_state_dict(state)
        return f"Starting from the weights of {path}."
    try:
        report = load_published(backbone, path)
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from error
    return f"Starting from the {len(report.loaded)} tensors of {path}."


def _differences(before: Any, now: Any, at: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if at or key not in _MAY_DIFFER:
                yield from _differences(before.get(key), now.get(key), f"{at}.{key}" if at else str(key))
    elif before != now and not at.endswith(("dirpath", "root")) and at != "trust":
        yield f"{at} {before} -> {now}"
