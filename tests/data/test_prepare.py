"""A shrunk copy of a folder: sizes, whole files, what is kept, what is refused, and a kill."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from bnn_lightning.data.image_io import read_picture
from bnn_lightning.data.imagenet_folders import class_folders, image_files
from bnn_lightning.data.prepare import Shrink, shrink_folder

sys.path.insert(0, str(Path(__file__).parent))
from folders import picture, write_folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_folder(tmp_path_factory.mktemp("source"), classes=3, train=4, val=2, size=60)
    picture(90, 50, 7).convert("L").save(root / "train" / "n00" / "gray.jpg")
    picture(90, 50, 8).convert("CMYK").save(root / "train" / "n01" / "cmyk.JPEG")
    picture(30, 30, 9).save(root / "train" / "n02" / "drawing.png")
    picture(30, 20, 9).save(root / "train" / "n02" / "small.JPEG", quality=40)
    (root / "train" / "n02" / "notes.txt").write_text("not an image")
    return root


@pytest.fixture
def source(whole: Path, tmp_path: Path) -> Path:
    """A copy, with a damaged file in it."""
    copy = tmp_path / "source"
    shutil.copytree(whole, copy)
    broken = copy / "val" / "n01" / "n01_000.JPEG"
    broken.write_bytes(broken.read_bytes()[:300])
    return copy


def files(root: Path) -> list[str]:
    return sorted(
        str(p.relative_to(root)) for part in ("train", "val") for p in (root / part).rglob("*") if p.is_file()
    )


def shrink(source: Path, output: Path, workers: int = 1, **options: object) -> object:
    return shrink_folder(source, output, Shrink(**{"size": 32, **options}), num_workers=workers, say=lambda line: None)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_smaller_copy(source: Path, tmp_path: Path, workers: int) -> None:
    before = {name: (source / name).read_bytes() for name in files(source)}
    output = tmp_path / "copy"
    report = shrink(source, output, workers)
    assert report.damaged == [str(source / "val" / "n01" / "n01_000.JPEG")]
    assert (report.written, report.kept) == (21, 0)
    assert report.bytes_after < report.bytes_before
    expected = {name.replace("drawing.png", "drawing.png.JPEG") for name in before}
    assert set(files(output)) == expected - {"val/n01/n01_000.JPEG", "train/n02/notes.txt"}
    for name in files(output):
        with Image.open(output / name) as image:
            assert (image.format, image.mode) == ("JPEG", "L" if "gray" in name else "RGB")
            assert max(image.size) == (30 if "small" in name or "drawing" in name else 32)
    assert {name: (source / name).read_bytes() for name in files(source)} == before


def test_pixels_are_those_of_a_resized_image(whole: Path, tmp_path: Path) -> None:
    shrink(whole, tmp_path / "copy")
    name = "train/n00/n00_000.JPEG"
    with Image.open(whole / name) as image:
        reference = image.convert("RGB").resize((32, 24), Image.Resampling.LANCZOS)  # of 80x60
    reference.save(tmp_path / "reference.JPEG", quality=90)
    found = read_picture(str(tmp_path / "copy" / name))
    assert ImageChops.difference(found, read_picture(str(tmp_path / "reference.JPEG"))).getbbox() is None


def test_small_jpeg_files_keep_their_bytes(whole: Path, tmp_path: Path) -> None:
    shrink(whole, tmp_path / "copy")
    name = "train/n02/small.JPEG"
    assert (tmp_path / "copy" / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    "side, size, expected", [("longer", 40, (40, 27)), ("shorter", 40, (60, 40)), ("longer", 90, (90, 60))]
)
def test_the_side_that_counts(side: str, size: int, expected: tuple[int, int]) -> None:
    assert Shrink(size=size, side=side).target(90, 60) == expected
    assert Shrink(size=size, side=side).target(60, 90) == expected[::-1]


def test_a_second_call_writes_what_is_missing_only(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "copy"
    shrink(source, output)
    kept = output / "train" / "n00" / "n00_000.JPEG"
    (output / "train" / "n00" / "n00_001.JPEG").unlink()
    (output / "train" / "n00" / ".n00_001.JPEG.partial").write_bytes(b"half")
    stamp = kept.stat().st_mtime_ns
    report = shrink(source, output)
    assert (report.written, report.kept, len(report.damaged)) == (1, 20, 1)
    assert kept.stat().st_mtime_ns == stamp
    assert not list(output.rglob("*.partial"))


def test_what_is_not_ours_stays(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`output` must be new or empty"):
        shrink(source, source.parent / "other" if (source.parent / "other").mkdir() else occupied(tmp_path))
    for inside in (source, source / "copy", source.parent):
        with pytest.raises(ValueError, match="`output` must lie outside of `source`"):
            shrink(source, inside)
    output = tmp_path / "copy"
    shrink(source, output)
    with pytest.raises(ValueError, match="was begun with other settings"):
        shrink(source, output, size=16)
    (output / "train" / "n00" / "mine.JPEG").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"missing or besides are mine\.JPEG"):
        shrink(source, output)
    assert (output / "train" / "n00" / "mine.JPEG").read_bytes() == b"mine"


def occupied(folder: Path) -> Path:
    (folder / "occupied").mkdir()
    (folder / "occupied" / "file").write_text("mine")
    return folder / "occupied"


def test_all_parts_are_copied_and_files_that_cannot_be_opened_cost_no_other(source: Path, tmp_path: Path) -> None:
    for part in ("validation", "test"):
        shutil.copytree(source / "train", source / part)
    (source / "test" / "n00" / "dangling.png").symlink_to("nowhere")
    (source / "test" / "n00" / "folder.png").mkdir()
    report = shrink(source, tmp_path / "copy")
    assert sorted(Path(name).name for name in report.damaged) == ["dangling.png", "n01_000.JPEG"]
    for part in ("train", "validation", "test"):
        assert len(list((tmp_path / "copy" / part).rglob("*.*"))) == 16


def test_a_source_without_images(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`source` must hold train/<class>"):
        shrink(tmp_path, tmp_path / "copy")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "`size` must be a whole number of at least 1, got 0"),
        ({"side": "left"}, r"`side` must be one of \['longer', 'shorter'\], got 'left'"),
        ({"quality": 101}, "`quality` must be a whole number between 1 and 95, got 101"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shrink(**options)


def test_hidden_folders_are_no_classes(whole: Path, tmp_path: Path) -> None:
    (whole / "train" / ".ipynb_checkpoints").mkdir(exist_ok=True)
    assert class_folders(whole / "train") == ("n00", "n01", "n02")
    shrink(whole, tmp_path / "copy")
    assert class_folders(tmp_path / "copy" / "train") == ("n00", "n01", "n02")


def test_a_picture_that_is_too_long_for_jpeg_costs_nothing_else(whole: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(whole, source)
    Image.new("L", (70_000, 2)).save(source / "train" / "n00" / "long.png")
    report = shrink(source, tmp_path / "copy", side="shorter", size=32)
    assert report.damaged == [str(source / "train" / "n00" / "long.png")]
    assert report.written == 22


SCRIPT = """
import sys
import time
from pathlib import Path

from bnn_lightning.data import prepare

if __name__ == "__main__":
    source, output = map(Path, sys.argv[1:])
    prepare.shrink_folder(source, output, prepare.Shrink(size=200), num_workers=2)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    source, output, script = tmp_path / "source", tmp_path / "copy", tmp_path / "script.py"
    picture(300, 260, 0).save(tmp_path / "one.JPEG")
    for label in range(4):
        (source / "train" / f"n{label}").mkdir(parents=True)
        for i in range(60):
            shutil.copy(tmp_path / "one.JPEG", source / "train" / f"n{label}" / f"{i}.JPEG")
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(source), str(output)]
    running = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and len(list(output.rglob("*.JPEG"))) < 20:
        time.sleep(0.01)
    running.kill()
    running.wait()
    found = [p for p in output.rglob("*.JPEG") if not p.name.startswith(".")]
    assert 20 <= len(found) < 240
    for path in found:
        read_picture(str(path))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and group_lives(running.pid):
        time.sleep(0.05)
    assert not group_lives(running.pid), "the workers outlive their parent"
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=120)
    assert sum(len(image_files(folder)) for folder in (output / "train").iterdir()) == 240


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
