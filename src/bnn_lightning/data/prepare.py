"""Shrink a folder of images once, so that every epoch decodes less. Without torch: its workers start at once."""

import io
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from PIL import Image

from bnn_lightning.data.image_io import DamagedImageError, open_picture, plain_pixels
from bnn_lightning.data.imagenet_folders import MORE_PARTS, PARTS, class_folders, image_files
from bnn_lightning.utils.checks import check_choice, check_integer
from bnn_lightning.utils.processes import end_with_parent

Side = Literal["longer", "shorter"]
Item = TypeVar("Item")
Result = TypeVar("Result")
Map = Callable[[Callable[[Item], Result], Iterable[Item]], Iterator[Result]]

# File of the output folder that says from what and how it was made. Only a folder that has it is written into again.
RECORD = "prepare.json"
_PARTIAL = ".partial"
_LONGEST_JPEG = 65_500  # pixels a side: the limit of libjpeg


@dataclass(frozen=True, kw_only=True)
class Shrink:
    """Make an image file smaller, as a JPEG.

    A JPEG file in RGB or gray that is small enough keeps its bytes. Others are read by the rules of `data.image_io`:
    what is written is upright, with 8 bits, without alpha and metadata. Gray images stay gray.

    Args:
        size: Pixels of that side at most; None keeps every file's bytes.
        side: "longer" or "shorter".
        quality: Quality of the JPEG, 1 to 95.

    Example:
        >>> Shrink(size=400, side="longer").target(500, 375)
        (400, 300)
        >>> Shrink(size=320, side="shorter").target(500, 375)
        (427, 320)
    """

    size: int | None = 400
    side: Side = "longer"
    quality: int = 90

    def __post_init__(self) -> None:
        if self.size is not None:
            check_integer("size", self.size, 1)
        check_choice("side", self.side, Side)
        check_integer("quality", self.quality, 1, 95)

    def target(self, width: int, height: int) -> tuple[int, int]:
        """Return the width and height that an image gets."""
        have = max(width, height) if self.side == "longer" else min(width, height)
        if self.size is None or have <= self.size:
            return width, height
        return max(1, round(width * self.size / have)), max(1, round(height * self.size / have))

    def __call__(self, content: bytes, *, name: str) -> bytes:
        """Return the content of the smaller file.

        Raises:
            DamagedImageError: The image cannot be decoded; names it.
        """
        image = open_picture(content, name=name)
        plain = plain_pixels(image, name=name)
        size = self.target(*plain.size)
        is_jpeg = image.format in ("JPEG", "MPO") and image.mode in ("RGB", "L")
        if self.size is None or (size == plain.size and is_jpeg):
            return content
        if max(size) > _LONGEST_JPEG:
            raise DamagedImageError(f"`{name}` cannot be taken: {size[0]}x{size[1]} pixels are beyond JPEG files.")
        buffer = io.BytesIO()
        plain.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


@dataclass
class FileCounts:
    """Counts of files, of one class or of all.

    Attributes:
        written: Files that were written now.
        kept: Files that were there already.
        damaged: Names of the files that cannot be decoded, and were left out.
        bytes_before: Bytes of the originals of files that were written now.
        bytes_after: As `bytes_before`.
    """

    written: int = 0
    kept: int = 0
    damaged: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0

    def add(self, other: "FileCounts") -> None:
        self.written += other.written
        self.kept += other.kept
        self.damaged += other.damaged
        self.bytes_before += other.bytes_before
        self.bytes_after += other.bytes_after


def shrink_folder(
    source: Path, output: Path, shrink: Shrink, *, num_workers: int, say: Callable[[str], None] = print
) -> FileCounts:
    """Write a smaller copy of `<part>/<class>/<file>`; what is there already is kept, and nothing is overwritten.

    Parts are `train`, and `val`, `validation` and `test` where they are there.

    A file is whole or not there: after a kill, the same call goes on. At the end the copy is compared with the source.

    Args:
        source: Holds `train`, and perhaps the others.
        output: Folder of the copy; new, empty, or begun with the same arguments.
        shrink: Shrinking of an image.
        num_workers: Processes.
        say: Called with a line about what was done, now and then.

    Raises:
        FileNotFoundError: `source` holds no images.
        ValueError: `output` is not ours to write into, or differs from `source` in the end.
    """
    parts = open_output(source, output, {"to": "folder", **asdict(shrink)}, parts=(*PARTS, *MORE_PARTS))
    report = FileCounts()
    with workers(num_workers) as spread:
        for part in parts:
            names = class_folders(source / part)
            tasks = [(source / part / name, output / part / name) for name in names]
            for number, done in enumerate(spread(partial(_shrink_class, shrink), tasks), start=1):
                report.add(done)
                if number % 50 == 0 or number == len(tasks):
                    say(f"{part}: {number} of {len(tasks)} classes, {report.written + report.kept} images")
    _verify(source, output, parts, set(report.damaged))
    return report


def open_output(source: Path, output: Path, settings: dict[str, Any], *, parts: Sequence[str] = PARTS) -> list[str]:
    """See that `output` may be written into, and note there what is done; return the parts that `source` holds.

    Args:
        source: Holds folders of classes in the folders of its parts.
        output: Folder of the result.
        settings: Settings of the work.
        parts: Names of the parts that the result can hold.

    Raises:
        FileNotFoundError: `source` holds no images.
        ValueError: The folders lie in one another, or `output` holds something else or cannot be written.
    """
    parts = [part for part in parts if class_folders(source / part)]
    if not parts:
        raise FileNotFoundError(f"`source` must hold train/<class>/*.JPEG, and `{source}` does not.")
    here, there = source.resolve(), output.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ValueError(f"`output` must lie outside of `source` = `{source}`, got `{output}`.")
    record = output / RECORD
    wanted = json.dumps({"source": str(here), **settings}, indent=1)
    if record.is_file():
        if (found := record.read_text()) != wanted:
            raise ValueError(
                f"`{output}` was begun with other settings, and stays as it is. They were {' '.join(found.split())} "
                f"and are {' '.join(wanted.split())}. Name another `output`."
            )
    elif output.is_dir() and any(output.iterdir()):
        raise ValueError(f"`output` must be new or empty: `{output}` holds other files, which stay as they are.")
    else:
        try:
            output.mkdir(parents=True, exist_ok=True)
            write_whole(record, wanted.encode())
        except OSError as error:
            raise ValueError(f"`output`: {output} cannot be written: {error.strerror or error}.") from error
    return parts


def read_file(path: Path) -> bytes:
    """Return the content of an image file.

    Raises:
        DamagedImageError: It cannot be opened; names it.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DamagedImageError(f"`{path}` cannot be read: {error.strerror}.") from error


@contextmanager
def workers(number: int) -> Iterator[Map[Any, Any]]:
    """Yield a `map` over worker processes, whose results come in the order of the items."""
    check_integer("num_workers", number, 1)
    if number == 1:
        yield map
        return
    # Not forked: the parent has threads, those of torch among them.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(number, mp_context=context, initializer=end_with_parent) as pool:
        yield pool.map


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there."""
    beside = path.with_name(f".{path.name}{_PARTIAL}")
    beside.write_bytes(content)
    os.replace(beside, path)


def target_name(name: str) -> str:
    """Return the name of the JPEG copy of a file: the old name if its ending says JPEG."""
    return name if name.lower().endswith((".jpeg", ".jpg")) else f"{name}.JPEG"


def _shrink_class(shrink: Shrink, folders: tuple[Path, Path]) -> FileCounts:
    source, output = folders
    output.mkdir(parents=True, exist_ok=True)
    report = FileCounts()
    there = set(os.listdir(output))
    for stale in (name for name in there if name.startswith(".") and name.endswith(_PARTIAL)):
        (output / stale).unlink(missing_ok=True)
    for name in image_files(source):
        if target_name(name) in there:
            report.kept += 1
            continue
        try:
            content = read_file(source / name)
            smaller = shrink(content, name=str(source / name))
        except DamagedImageError:
            report.damaged.append(str(source / name))
            continue
        write_whole(output / target_name(name), smaller)
        report.written += 1
        report.bytes_before += len(content)
        report.bytes_after += len(smaller)
    return report


def _verify(source: Path, output: Path, parts: Iterable[str], damaged: set[str]) -> None:
    for part in parts:
        if class_folders(source / part) != class_folders(output / part):
            raise ValueError(f"`{output / part}` must hold the classes of `{source / part}`, and holds others.")
        for name in class_folders(source / part):
            wanted = {target_name(f) for f in image_files(source / part / name)}
            wanted -= {target_name(Path(f).name) for f in damaged if Path(f).parent == source / part / name}
            found = set(image_files(output / part / name))
            if different := sorted(wanted ^ found):
                raise ValueError(
                    f"`{output / part / name}` must be the copy of `{source / part / name}`: missing or besides are "
                    f"{', '.join(different[:5])}. Did the source change? Remove what is besides and run again."
                )
