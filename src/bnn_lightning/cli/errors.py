"""Errors that the user can mend: one message, exit code 2, no traceback."""

import errno
import glob
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from bnn_lightning.cli.config_paths import list_options
from bnn_lightning.cli.own_folder import Running, running_command
from bnn_lightning.workflows import errors
from bnn_lightning.workflows.errors import UntrustedFileError, UserError, did_you_mean, listed
from bnn_lightning.workflows.old_names import OPTIONS, new_key

EXIT_CODE = 2
SHOW_TRACE = "HYDRA_FULL_ERROR"
# A disk that is full, over its quota or read-only, a name that is too long, and a path that is closed to this user.
_OF_FILES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.EACCES)


@contextmanager
def friendly() -> Iterator[None]:
    """End with one message and exit code 2 on what the user can mend; `HYDRA_FULL_ERROR=1` keeps the traceback."""
    if os.environ.get(SHOW_TRACE) == "1":
        yield
        return
    try:
        yield
    except (UserError, HydraException, OmegaConfBaseException) as error:
        fail(explain(error))
    except BrokenPipeError:  # `bnn conf ls | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # of any path that was given: pathlib answers whether other paths exist
        if not is_users(error):
            raise
        fail(explain(error))


def is_users(error: BaseException) -> bool:
    """Whether an error is one that the user can mend."""
    known = isinstance(error, UserError | HydraException | OmegaConfBaseException)
    return known or (isinstance(error, OSError) and error.errno in _OF_FILES)


def fail(message: str) -> NoReturn:
    """Print a message to stderr and exit with code 2."""
    print(f"error: {message.strip()}\n({SHOW_TRACE}=1 shows the traceback)", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_CODE)


# OmegaConf's prefix to the message of a resolver. Messages of our resolvers need none.
RESOLVING = " raised while resolving interpolation: "


def explain(error: BaseException) -> str:
    """Return one message for an error of Hydra, OmegaConf, files or ours: what is wrong, and what exists instead."""
    if isinstance(error, UntrustedFileError) and (running := running_command()) is not None:
        return str(UntrustedFileError(error.refused, error.package, _trusting(error.package, running)))
    if isinstance(error, UserError) or (isinstance(error, OSError) and error.strerror):
        return errors.explain(error)
    if isinstance(error, MissingConfigException):
        return _missing_option(error)
    if isinstance(error, OverrideParseException):
        quotes = "Values with `=`, `,`, `(`, `{` or a space need quotes inside quotes: 'ckpt_path=\"a=b.ckpt\"'."
        return f"cannot read the override `{error.override}`: {error.message.splitlines()[0]}. {quotes}"
    cause = _omegaconf_cause(error)
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and cause.full_key:
        return _unknown_key(cause)
    if isinstance(cause, MissingMandatoryValue) and cause.full_key:
        return f"`{cause.full_key}` has no value: give `{cause.full_key}=...`."
    if isinstance(cause, InterpolationResolutionError) and RESOLVING in str(cause):
        return _first_line(cause).partition(RESOLVING)[2]
    if cause is not None and cause.full_key:
        return f"`{cause.full_key}`: {_first_line(cause)}"
    return _clean(str(error))


def _trusting(package: str, running: Running) -> str:
    """Return the command that trusts a package, or why none does."""
    if running.folder is not None:
        return f"no file of {running.folder} names `{package}` in a `_target_`"
    from bnn_lightning.cli.summary import command  # late: it imports Lightning, and most errors do without

    return command(running.verb, "-cd", "conf", *running.arguments)


def _missing_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if not group:
        return _clean(str(error))
    if (renamed := OPTIONS.get(f"{group}={option}")) is not None:
        return f"`{group}={option}` is called `{renamed}` now."
    # With several options at once, callbacks=[default,ema], Hydra does not list the options of the group.
    options = [name for name in error.options or list_options(group) if not name.startswith("_")]
    plugin = " Others are plugins, to be installed (optuna: `bnn-lightning[sweep]`)." if "hydra/" in group else ""
    near = did_you_mean(option, options)
    near = _lying_near(group, option) or near
    return f"`{group}={option}`: no such option.{near} `{group}` has: {listed(options)}.{plugin}"


def _lying_near(group: str, option: str) -> str:
    """Say which folder of the user's own holds an option, where `-cd` was forgotten."""
    file = next(Path().glob(f"*/{glob.escape(f'{group}/{option}.yaml')}"), None)
    return "" if file is None else f" There is {file}: name its folder, -cd {file.parts[0]}."


def _unknown_key(error: OmegaConfBaseException) -> str:
    full_key = str(error.full_key)
    if (renamed := new_key(full_key)) is not None:
        return f"`{full_key}` is called `{renamed}` now."
    section, _, key = full_key.rpartition(".")
    parent = error.parent_node
    known: list[str] = []
    if isinstance(parent, DictConfig) and not parent._is_none() and not parent._is_missing():
        known = [str(name) for name in parent if name not in ("_target_", "_partial_", "hydra")]
    near = did_you_mean(key, known).replace("`", f"`{section}.", 1) if section else did_you_mean(key, known)
    if not near and isinstance(parent, DictConfig):
        root = parent._get_root()
        near = did_you_mean(full_key, _keys(root) if isinstance(root, DictConfig) else [])
    if section and not known:
        return (
            f"`{full_key}`: no such key. `{section}` has no keys here: choose an option first, `{section}=...`; "
            "or leave it to the checkpoint, which says itself what it is."
        )
    where = f"`{section}` has" if section else "There are"
    return f"`{full_key}`: no such key.{near} {where}: {listed(known)}."


def _keys(node: DictConfig, prefix: str = "") -> Iterator[str]:
    # Keys of the configuration as it is written: nothing is resolved, `hydra` is left out.
    if node._is_none() or node._is_missing():
        return
    for key in map(str, node.keys()):
        if not prefix and key == "hydra":
            continue
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig):
            yield from _keys(child, f"{prefix}{key}.")


def _omegaconf_cause(error: BaseException | None) -> OmegaConfBaseException | None:
    while error is not None and not isinstance(error, OmegaConfBaseException):
        error = error.__cause__ or error.__context__
    return error


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]


def _clean(text: str) -> str:
    # The search path is of no help to somebody who mistyped a name.
    return text.split("Config search path")[0].strip()
