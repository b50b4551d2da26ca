"""Summary that a run prints when it is over."""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.utilities import rank_zero_only

from bnn_lightning.cli.own_folder import own_folders
from bnn_lightning.distill.hooks import watch
from bnn_lightning.tasks.classification import ClassificationTask
from bnn_lightning.workflows.resumption import LAST
from bnn_lightning.workflows.training import Trained

_OF_DISTILL = re.compile(r"[+~]*(\w+@)?distill\.")


@rank_zero_only
def print_summary(trained: Trained) -> None:
    """Print accuracy with its caveats, time, run folder, and the next commands."""
    lines = [repr(trained)]
    if trained.checkpoint is not None:
        lines += ["next:", f"  {command('evaluate', f'ckpt={trained.checkpoint}')}"]
        lines += [f"  {command('train', *words)}" for words in _other_distillation(trained.task)]
    print("\n" + "\n".join(lines), flush=True)


@rank_zero_only
def print_interrupted(folder: Path) -> None:
    """Print the command that resumes after Ctrl-C.

    Args:
        folder: Folder of the run.
    """
    last = folder / LAST
    if not last.is_file():
        print("\nstopped before the first checkpoint.", flush=True)
    else:
        resuming = command("train", *kept_overrides("ckpt_path", "init_from"), f"ckpt_path={last}")
        print(f"\nstopped; to resume:\n  {resuming}", flush=True)


def command(verb: str, *arguments: str) -> str:
    """Return a command line that can be pasted, with the program as this user starts it, and its `-cd` folder."""
    if verb == "train" and Path(sys.argv[0]).name == "train.py":
        program = f"{_python()} {sys.argv[0]}"
    elif shutil.which("bnn") is not None:
        program = f"bnn {verb}"
    elif (installed := Path(sys.executable).with_name("bnn")).exists():
        program = f"{_short(installed)} {verb}"
    else:
        program = f"{_python()} -m bnn_lightning.cli.main {verb}"
    folders = [word for folder in own_folders() for word in ("-cd", _short(folder))]
    return " ".join([program, *map(shlex.quote, [*folders, *arguments])])


def as_started(line: str) -> str:
    """Return a command of `bnn` or `python` as this user starts the program."""
    program, _, rest = line.partition(" ")
    return command(*shlex.split(rest)) if program == "bnn" else f"{_python()} {rest}"


def kept_overrides(*left_out: str) -> list[str]:
    """Return the choices and keys of this job's command line, but for some keys."""
    if not HydraConfig.initialized():
        return []
    # Without `hydra.run.dir`: another run has a folder of its own.
    return [o for o in HydraConfig.get().overrides.task if o.lstrip("+~").partition("=")[0] not in left_out]


def _other_distillation(task: ClassificationTask) -> Iterator[list[str]]:
    """Yield this run's overrides with SKD, or without where it had it: the comparison that one wants to see."""
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return  # another run is the sweep's next job
    choice = HydraConfig.get().runtime.choices.get("distill") if HydraConfig.initialized() else "none"
    kept = kept_overrides("distill", "ckpt_path", "debug")
    if choice == "none":
        if _can_teach_itself(task):
            yield [*kept, "distill=skd"]
    else:  # the options of SKD are none of cross-entropy's
        yield [*(o for o in kept if not _OF_DISTILL.match(o)), "distill=none"]


def _can_teach_itself(task: Any) -> bool:
    try:
        with watch(task.backbone, penultimate=True, stream=True):
            return True
    except (AttributeError, ValueError):  # a float twin, or a network of the user's own
        return False


def _python() -> str:
    found = shutil.which("python")
    same = found is not None and os.path.realpath(found) == os.path.realpath(sys.executable)
    return "python" if same else _short(Path(sys.executable))


def _short(path: Path) -> str:
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
