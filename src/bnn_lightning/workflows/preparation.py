"""Preparation of a folder of images: a smaller copy, or a stream of chunks."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnn_lightning.data.convert import convert_folder
from bnn_lightning.data.imagenet_folders import MORE_PARTS, class_folders
from bnn_lightning.data.prepare import FileCounts, Shrink, shrink_folder
from bnn_lightning.utils.hardware import num_cores
from bnn_lightning.utils.text import number_of
from bnn_lightning.workflows.errors import UserError, as_user_error
from bnn_lightning.workflows.messages import say
from bnn_lightning.workflows.out_file import written
from bnn_lightning.workflows.settings import PrepareSettings, make_settings, takes

DAMAGED = "damaged.txt"


@dataclass(frozen=True)
class Prepared:
    """Result of a preparation.

    Attributes:
        output: The folder.
        data: Option of the group `data` that reads it.
        report: Counts of images and bytes, and the damaged files.
        seconds: Time that it took.
    """

    output: Path
    data: str
    report: FileCounts
    seconds: float

    def __repr__(self) -> str:
        report = self.report
        there = f", {report.kept} were there already" if report.kept else ""
        lines = [f"images:  {report.written} written{there} ({self.seconds:.0f} s)"]
        if report.written:
            before, after = report.bytes_before / report.written / 1024, report.bytes_after / report.written / 1024
            lines.append(f"size:    {before:.0f} KiB an image before, {after:.0f} KiB after")
        if report.damaged:
            lines.append(
                f"damaged: {number_of(len(report.damaged), 'file')} left out, listed in {self.output / DAMAGED}"
            )
        return "\n".join(lines)


@takes(PrepareSettings)
def prepare(source: str | Path, output: str | Path, **options: Any) -> Prepared:
    """Shrink a folder of images once, or convert it to a stream.

    Args:
        source: The folder of images.
        output: The folder to write; what lies in it from an earlier call is kept.
        options: Keys of `PrepareSettings`.

    Raises:
        UserError: Values out of their range, a source without images, an output that is not ours to write into; or,
            with `on_damaged="error"` and once all others are written, damaged files.
    """
    started = time.monotonic()
    settings = make_settings(PrepareSettings, "prepare", source=source, output=output, **options)
    source, output = Path(settings.source), Path(settings.output)
    number = num_cores() if settings.num_workers is None else max(settings.num_workers, 1)
    with as_user_error(of=(ValueError, OSError, ModuleNotFoundError)):
        shrink = Shrink(size=settings.size, side=settings.side, quality=settings.quality)  # type: ignore[arg-type]
        if settings.to == "stream":
            report = convert_folder(source, output, shrink, chunk_mib=settings.chunk_mib, num_workers=number, say=say)
        elif settings.size is None:
            raise ValueError("`size` must be given with to=folder, got null: the copy would be the source.")
        else:
            report = shrink_folder(source, output, shrink, num_workers=number, say=say)
    if report.damaged:
        with written(output / DAMAGED, "output") as temporary:
            temporary.write_text("".join(f"{name}\n" for name in report.damaged), errors="backslashreplace")
    prepared = Prepared(output, _option(output, settings.to), report, time.monotonic() - started)
    say(f"\n{prepared}")
    if report.damaged and settings.on_damaged == "error":
        raise UserError(
            f"{number_of(len(report.damaged), 'damaged file')} of `{source}` left out, the first is "
            f"`{report.damaged[0]}`. The others were written; on_damaged=skip accepts this."
        )
    return prepared


def _option(output: Path, to: str) -> str:
    """Return the option of `data` that reads the output."""
    if to == "stream":
        return "imagenet_stream"
    is_own = any(class_folders(output / part) for part in MORE_PARTS) or not class_folders(output / "val")
    return "folder" if is_own else "imagenet"
