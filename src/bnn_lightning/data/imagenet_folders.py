"""The folder layout of ImageNet, without torch: `<part>/<class>/<file>`, in alphabetical order."""

import os
from collections.abc import Collection
from pathlib import Path

from bnn_lightning.data.image_io import SUFFIXES
from bnn_lightning.utils.text import some

PARTS = ("train", "val")
# Those of a set of one's own besides.
MORE_PARTS = ("validation", "test")


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted; hidden ones are none; none where it is missing."""
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")))


def image_files(folder: Path) -> list[str]:
    """Return the names of the image files in a folder, sorted; hidden files and folders are none."""
    with os.scandir(folder) as entries:
        files = [entry.name for entry in entries if entry.name.lower().endswith(SUFFIXES) and not entry.is_dir()]
    return sorted(name for name in files if not name.startswith("."))


def count_classes(root: str | Path) -> tuple[str, ...]:
    """Return the names of the classes of a folder: those of the folders in `train`.

    Raises:
        FileNotFoundError: There is no `train` with two or more folders.
    """
    folder = Path(root, "train")
    names = class_folders(folder)
    if len(names) < 2:
        found = f"holds {len(names)} ({', '.join(names)})" if names else "holds none"
        raise FileNotFoundError(
            f"`data.root`: `{folder}` must hold a folder of pictures for each of two or more classes, and {found}."
        )
    return names


def class_difference(folder: Path, names: Collection[str]) -> str:
    """Say which folders of classes a folder lacks, and which it has besides; empty where it has just those.

    Args:
        folder: Holds one folder a class.
        names: Names of the classes that it must hold.
    """
    there = set(class_folders(folder))
    lacking, besides = set(names) - there, there - set(names)
    parts = [f"lacks {some(sorted(lacking))}"] if lacking else []
    parts += [f"has {some(sorted(besides))} besides"] if besides else []
    return " and ".join(parts)
