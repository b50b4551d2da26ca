"""The folder layout of ImageNet, without torch: `<part>/<class>/<file>`, in alphabetical order."""

import os
from pathlib import Path

EXTENSIONS = (".jpeg", ".jpg", ".png")
PARTS = ("train", "val")


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the folders in a folder, sorted; none where it is missing."""
    if not folder.is_dir():
        return ()
    with os.scandir(folder) as entries:
        return tuple(sorted(entry.name for entry in entries if entry.is_dir()))


def image_files(folder: Path) -> list[str]:
    """Return the names of the image files in a folder, sorted; hidden files are none."""
    return sorted(f for f in os.listdir(folder) if f.lower().endswith(EXTENSIONS) and not f.startswith("."))
