"""`bnn prepare`: shrink a folder of images once, or convert it to a stream."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from bnn_lightning.cli.errors import UserError, explain
from bnn_lightning.cli.launch import launch
from bnn_lightning.cli.out_file import written
from bnn_lightning.cli.schema import PrepareSettings, read_settings
from bnn_lightning.data.convert import convert_folder
from bnn_lightning.data.imagenet_folders import MORE_PARTS, class_folders
from bnn_lightning.data.prepare import Report, Shrink, shrink_folder

DAMAGED = "damaged.txt"


def main(prefix: Sequence[str] = ()) -> None:
    """Prepare data as the command line says.

    Args:
        prefix: Words of `sys.argv` before the overrides: the verb.
    """
    launch(prepare, config_name="prepare", prefix=prefix)


def prepare(config: DictConfig) -> float:
    """Prepare data with a composed configuration; return the number of damaged files.

    Raises:
        UserError: Values out of their range, a source without images, or an output that is not ours to write into.
    """
    started = time.monotonic()
    settings = read_settings(PrepareSettings, config)
    source, output = Path(settings.source), Path(settings.output)
    number = settings.num_workers or available_cores()
    try:
        shrink = Shrink(size=settings.size, side=settings.side, quality=settings.quality)  # type: ignore[arg-type]
        if settings.to == "stream":
            report = convert_folder(source, output, shrink, chunk_mib=settings.chunk_mib, num_workers=number)
        elif settings.to != "folder":
            raise ValueError(f"`to` must be folder or stream, got {settings.to!r}.")
        elif settings.size is None:
            raise ValueError("`size` must be given with to=folder, got null: the copy would be the source.")
        else:
            report = shrink_folder(source, output, shrink, num_workers=number)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        raise UserError(explain(error)) from error
    _summarise(report, output, settings.to, time.monotonic() - started)
    if report.damaged and settings.on_damaged == "error":
        raise UserError(
            f"{len(report.damaged)} files of `{source}` are damaged and were left out, the first is "
            f"`{report.damaged[0]}`. The others were written; on_damaged=skip accepts this."
        )
    return float(len(report.damaged))


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _summarise(report: Report, output: Path, to: str, seconds: float) -> None:
    there = f", {report.kept} were there already" if report.kept else ""
    print(f"\nimages:  {report.written} written{there} ({seconds:.0f} s)")
    if report.written:
        before, after = report.bytes_before / report.written / 1024, report.bytes_after / report.written / 1024
        print(f"size:    {before:.0f} KiB an image before, {after:.0f} KiB after")
    if report.damaged:
        file = output / DAMAGED
        with written(file, "output") as temporary:
            temporary.write_text("".join(f"{name}\n" for name in report.damaged), errors="backslashreplace")
        print(f"damaged: {len(report.damaged)} files were left out, listed in {file}")
    print(f"next:\n  bnn train data={_option(output, to)} data.root={output}")


def _option(output: Path, to: str) -> str:
    """Return the option of `data` that reads what was written."""
    if to == "stream":
        return "imagenet_stream"
    is_own = any(class_folders(output / part) for part in MORE_PARTS) or not class_folders(output / "val")
    return "folder" if is_own else "imagenet"


if __name__ == "__main__":
    main()
