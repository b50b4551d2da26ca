"""A stream holds what its folder holds: images, labels, order, copies; on a file system and from an address."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("litdata", reason="needs the extra `stream`")

from bnn_lightning.data import ImageNetDataModule, ImageNetStreamDataModule
from bnn_lightning.data.convert import convert_folder
from bnn_lightning.data.encoded_images import DecodedImages
from bnn_lightning.data.prepare import Shrink, shrink_folder

sys.path.insert(0, str(Path(__file__).parent))
from folders import write_folder

OPTIONS = {"num_classes": 3, "image_size": 16, "batch_size": 8, "num_workers": 0}
KEEP = Shrink(size=None)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("source"), classes=3, train=9, val=3)


@pytest.fixture(scope="module")
def stored(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("stored")
    convert(source, output)
    return output


def convert(source: Path, output: Path, shrink: Shrink = KEEP, workers: int = 1) -> object:
    return convert_folder(source, output, shrink, chunk_mib=1, num_workers=workers, say=lambda line: None)


def assert_same(ours: list[DecodedImages], reference: list[DecodedImages]) -> None:
    for a, b in zip(ours, reference, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
        assert a[3:5] == b[3:5]


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"val_fraction": 0.2, "repeats": 2}], ids=str)
def test_batches_are_those_of_the_folder(
    source: Path, stored: Path, options: dict[str, float], num_workers: int
) -> None:
    ours = ImageNetStreamDataModule(stored, **{**OPTIONS, **options, "num_workers": num_workers})
    reference = ImageNetDataModule(source, **{**OPTIONS, **options})
    for data in (ours, reference):
        data.setup("fit")
        data.setup("test")
    assert ours.class_names == reference.class_names
    for epoch in range(2):
        loaders = [data.train_dataloader() for data in (ours, reference)]
        for loader in loaders:
            loader.sampler.set_epoch(epoch)
        assert_same(*[list(loader) for loader in loaders])
    assert_same(list(ours.val_dataloader()), list(reference.val_dataloader()))
    assert_same(list(ours.test_dataloader()), list(reference.test_dataloader()))


def test_a_stream_may_be_shrunk_as_a_folder_is(source: Path, tmp_path: Path) -> None:
    shrink = Shrink(size=24)
    convert(source, tmp_path / "stored", shrink, workers=2)
    shrink_folder(source, tmp_path / "copy", shrink, num_workers=1, say=lambda line: None)
    ours = ImageNetStreamDataModule(tmp_path / "stored", **OPTIONS)
    reference = ImageNetDataModule(tmp_path / "copy", **OPTIONS)
    for data in (ours, reference):
        data.setup("test")
    assert_same(list(ours.test_dataloader()), list(reference.test_dataloader()))


def test_resume_inside_an_epoch(stored: Path) -> None:
    data = ImageNetStreamDataModule(stored, **OPTIONS)
    data.setup("fit")
    loader, resumed = data.train_dataloader(), data.train_dataloader()
    whole = list(loader)
    resumed.load_state_dict({**loader.state_dict(), "position": 1})
    assert_same(list(resumed), whole[1:])


def test_a_damaged_file_is_left_out_of_a_stream(source: Path, tmp_path: Path) -> None:
    (tmp_path / "source").symlink_to(source)
    root = write_folder(tmp_path / "other", classes=3, train=3, val=1)
    broken = root / "train" / "n01" / "n01_001.JPEG"
    broken.write_bytes(broken.read_bytes()[:100])
    report = convert(root, tmp_path / "stored")
    assert (report.damaged, report.written) == ([str(broken)], 11)
    data = ImageNetStreamDataModule(tmp_path / "stored", **OPTIONS)
    data.setup("fit")
    assert torch.bincount(data._sets["train"].source.labels).tolist() == [3, 2, 3]


def test_conversion_goes_on_with_the_part_that_was_not_whole(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "stored"
    convert(source, output)
    stamp = (output / "train" / "index.json").stat().st_mtime_ns
    (output / "val").rename(output / ".val.partial")
    (output / ".val.partial" / "index.json").unlink()
    report = convert(source, output)
    assert (report.written, report.kept) == (9, 27)
    assert (output / "train" / "index.json").stat().st_mtime_ns == stamp
    data = ImageNetStreamDataModule(output, **OPTIONS)
    data.setup("test")
    assert sorted(int(i) for batch in data.test_dataloader() for i in batch.indices) == list(range(9))


def test_an_address_is_copied_once_and_whole(stored: Path, source: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    data = ImageNetStreamDataModule(f"local:{stored}", cache_dir=cache, **OPTIONS)
    data.prepare_data()
    data.setup("test")
    reference = ImageNetDataModule(source, **OPTIONS)
    reference.setup("test")
    assert_same(list(data.test_dataloader()), list(reference.test_dataloader()))
    chunks = json.loads((cache / "val" / "index.json").read_text())["chunks"]
    chunk = cache / "val" / chunks[0]["filename"]
    # A copy that was cut off: the index comes last, and the chunk that is not whole is fetched again.
    (cache / "val" / "index.json").unlink()
    chunk.write_bytes(chunk.read_bytes()[:50])
    kept = (cache / "train" / "index.json").stat().st_mtime_ns
    data.prepare_data()
    assert chunk.stat().st_size == chunks[0]["chunk_bytes"]
    assert (cache / "train" / "index.json").stat().st_mtime_ns == kept
    assert not list(cache.rglob("*.partial"))


def test_what_is_missing_is_said(stored: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`cache_dir` must be a folder on each node's disk"):
        ImageNetStreamDataModule("s3://bucket/imagenet", **OPTIONS)
    with pytest.raises(FileNotFoundError, match="bnn prepare to=stream"):
        ImageNetStreamDataModule(tmp_path, **OPTIONS).setup("fit")
    with pytest.raises(ValueError, match="`num_classes` must be given before"):
        ImageNetStreamDataModule(tmp_path, num_classes=None)
    with pytest.raises(
        ValueError, match=r"`num_classes` must be the number of classes in .*train`, 3 \(n00, n01, n02\), got 1000"
    ):
        ImageNetStreamDataModule(stored).setup("fit")
    assert ImageNetStreamDataModule(stored, num_classes=None).num_classes == 3


def test_classes_of_val_must_be_those_of_train(stored: Path, tmp_path: Path) -> None:
    shutil.copytree(stored, tmp_path / "s")
    labels = tmp_path / "s" / "val" / "labels.json"
    labels.write_text(labels.read_text().replace("n01", "n07"))
    with pytest.raises(ValueError, match="they differ in n01, n07"):
        ImageNetStreamDataModule(tmp_path / "s", **OPTIONS).setup("test")
