"""Write a folder of images as chunks for streaming, in litdata's format."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from bnn_lightning.data.image_io import DamagedImageError
from bnn_lightning.data.imagenet_folders import MORE_PARTS, PARTS, class_folders, image_files
from bnn_lightning.data.prepare import FileCounts, Map, Shrink, open_output, read_file, workers
from bnn_lightning.utils.checks import check_integer
from bnn_lightning.utils.files import replacing
from bnn_lightning.utils.optional import require

# Beside the chunks of a part: the names of the classes and the labels of its images, as [label, count].
LABELS = "labels.json"
INDEX = "index.json"  # litdata's
# Files that are in memory at once.
_BLOCK = 1024


def convert_folder(
    source: Path,
    output: Path,
    shrink: Shrink,
    *,
    chunk_mib: int,
    num_workers: int,
    say: Callable[[str], None] = print,
) -> FileCounts:
    """Write `<part>/<class>/<file>` as `<part>/chunk-*.bin`, image by image in the order of the folders.

    A part is whole or not there: after a kill, the same call begins with the part that was not whole.

    Args:
        source: Holds `train`, and perhaps `val`.
        output: New, empty, or begun with the same arguments.
        shrink: Shrinking of an image.
        chunk_mib: Size of a chunk in MiB.
        num_workers: Processes that read and shrink.
        say: Called with a line about what was done, now and then.

    Raises:
        FileNotFoundError: `source` holds no images.
        ValueError: `output` is not ours to write into.
        ModuleNotFoundError: litdata is not installed.
    """
    check_integer("chunk_mib", chunk_mib, 1)
    require("litdata", extra="stream")
    parts = open_output(source, output, {"to": "stream", **asdict(shrink), "chunk_mib": chunk_mib})
    for part in (part for part in MORE_PARTS if class_folders(source / part)):
        say(f"{part}: is left out, a stream holds {' and '.join(PARTS)}")
    report = FileCounts()
    with workers(num_workers) as spread:
        for part in parts:
            if (output / part / INDEX).is_file():
                report.kept += sum(count for _, count in json.loads((output / part / LABELS).read_text())["runs"])
                say(f"{part}: is there already")
                continue
            unfinished = output / f".{part}.partial"
            shutil.rmtree(unfinished, ignore_errors=True)
            report.add(_write_part(source / part, unfinished, shrink, chunk_mib, spread, say))
            os.replace(unfinished, output / part)
    return report


def _write_part(
    source: Path, output: Path, shrink: Shrink, chunk_mib: int, spread: Map[Any, Any], say: Callable[[str], None]
) -> FileCounts:
    # Optional, and slow to import.
    from litdata.streaming import Cache

    names = class_folders(source)
    report, runs = FileCounts(), [[label, 0] for label in range(len(names))]
    output.mkdir(parents=True)
    cache = Cache(str(output), chunk_bytes=chunk_mib << 20)
    classes = ((label, source / name) for label, name in enumerate(names))
    files = ((str(folder / file), label) for label, folder in classes for file in image_files(folder))
    while block := list(islice(files, _BLOCK)):
        for path, label, before, content in spread(partial(_shrink_file, shrink), block):
            if content is None:
                report.damaged.append(path)
                continue
            cache[report.written] = {"image": content, "name": "/".join(Path(path).parts[-3:])}
            runs[label][1] += 1
            report.written += 1
            report.bytes_before += before
            report.bytes_after += len(content)
        say(f"{source.name}: {report.written} images")
    cache.done()
    cache.merge()
    if sum(chunk["chunk_size"] for chunk in json.loads((output / INDEX).read_text())["chunks"]) != report.written:
        raise RuntimeError(
            f"litdata's `{output / INDEX}` does not count the {report.written} images that were written."
        )
    with replacing(output / LABELS) as temporary:
        temporary.write_text(json.dumps({"class_names": names, "runs": runs}))
    return report


def _shrink_file(shrink: Shrink, item: tuple[str, int]) -> tuple[str, int, int, bytes | None]:
    """Return the path, the label, the bytes before, and the content; None where the image is damaged."""
    path, label = item
    try:
        content = read_file(Path(path))
        return path, label, len(content), shrink(content, name=path)
    except DamagedImageError:
        return path, label, 0, None
