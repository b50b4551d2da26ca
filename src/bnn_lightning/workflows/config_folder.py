"""A configuration folder of the user's own: the packages that it names, and clashes with our tree."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from bnn_lightning.workflows.allowed import is_library
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.old_names import new_key

# Groups whose files write into the whole configuration.
_GLOBAL = ("experiment", "recipe", "sweep", "debug")


def targets_of(folder: Path) -> list[str]:
    """Return the packages that the files of a folder name in `_target_`; of libraries, the targets themselves.

    Raises:
        UserError: A file is no YAML of keys and values.
    """
    named = [target for file in _files(folder) for target in _targets(_load(folder / file))]
    packages = [target.partition(".")[0] for target in named]
    trusted = [t if is_library(p) else p for t, p in zip(named, packages, strict=True) if p != "bnn_lightning"]
    return list(dict.fromkeys(trusted))


def refuse_clashes(folder: Path, root: Path) -> None:
    """Refuse options of the folder that have the name of one of ours: Hydra would take ours without a word.

    A copy that does not differ from ours does no harm.

    Args:
        folder: The user's own.
        root: Folder of our tree.

    Raises:
        UserError: Names the files.
    """
    if folder.resolve() == root.resolve():
        return
    clashing = [
        f for f in _files(folder) if (root / f).is_file() and (root / f).read_bytes() != (folder / f).read_bytes()
    ]
    if clashing:
        names = ", ".join(f"`{folder / file}`" for file in clashing)
        first = clashing[0]
        raise UserError(
            f"{names}: we have an option of that name, and it would be taken instead. Rename the file, as in "
            f"{folder / first.with_name(f'my_{first.name}')}."
        )


def refuse_old_names(folder: Path) -> None:
    """Refuse groups and keys of the whole configuration that were renamed: Hydra would add them without a word.

    Raises:
        UserError: Names the file.
    """
    for file in _files(folder):
        content = _load(folder / file)
        entries = [key for entry in content.get("defaults") or [] if isinstance(entry, dict) for key in entry]
        names = [
            file.parent.as_posix(),
            *(str(key).rpartition(" ")[2].lstrip("/").partition("@")[0] for key in entries),
        ]
        if file.parent.as_posix() in _GLOBAL:
            names += [*content, *(f"callbacks.{key}" for key in content.get("callbacks") or ())]
        for name in names:
            if (new := new_key(str(name))) is not None:
                raise UserError(f"`{folder / file}`: `{name}` is called `{new}` now.")


def _files(folder: Path) -> list[Path]:
    """Return the YAML files of a folder, relative to it; hidden ones, such as records of runs (`.hydra`), are none."""
    files = (path.relative_to(folder) for path in folder.rglob("*.yaml"))
    return sorted(file for file in files if not any(part.startswith(".") for part in file.parts))


def _load(path: Path) -> Any:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f", line {mark.line + 1}"
        raise UserError(f"`{path}`{line}, cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict | None):
        raise UserError(f"`{path}` must hold keys and values, and it holds {content!r:.80}.")
    return content or {}


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)
