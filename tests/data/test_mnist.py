import gzip
import struct
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision.datasets import MNIST

from bnn_lightning.data import MNISTDataModule


def write_idx(path: Path, magic: int, values: Tensor) -> None:
    header = struct.pack(f">{1 + values.ndim}I", magic, *values.shape)
    path.write_bytes(header + values.numpy().tobytes())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small set in MNIST's format."""
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 50), ("t10k", 20)):
        images = torch.randint(256, (count, 28, 28), dtype=torch.uint8, generator=generator)
        write_idx(folder / f"{part}-images-idx3-ubyte", 0x803, images)
        write_idx(folder / f"{part}-labels-idx1-ubyte", 0x801, (torch.arange(count) % 10).to(torch.uint8))
    return tmp_path


def module(root: Path, **options: object) -> MNISTDataModule:
    return MNISTDataModule(root, **{"verify": False, "download": False, "batch_size": 10, **options})


def prepare(data: MNISTDataModule) -> None:
    data.prepare_data()
    data.setup("fit")


@pytest.mark.parametrize("train", [True, False])
def test_images_and_labels_equal_torchvision(root: Path, train: bool) -> None:
    images, labels = module(root).read(train)
    reference = MNIST(str(root), train=train)
    assert torch.equal(images[:, 0], reference.data)
    assert torch.equal(labels, reference.targets)


@pytest.mark.data
@pytest.mark.parametrize("train, count", [(True, 60_000), (False, 10_000)])
def test_real_images_equal_torchvision(data_root: Path, train: bool, count: int) -> None:
    images, labels = MNISTDataModule(data_root, download=False).read(train)
    reference = MNIST(str(data_root), train=train)
    assert torch.equal(images[:, 0], reference.data)
    assert torch.equal(labels, reference.targets)
    assert len(labels) == count


def test_compressed_files_are_read(root: Path) -> None:
    expected, _ = module(root).read(train=False)
    path = root / "MNIST/raw/t10k-images-idx3-ubyte"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert torch.equal(module(root).read(train=False)[0], expected)


def test_image_size_32_is_a_border(root: Path) -> None:
    images, _ = module(root).read(train=True)
    padded, _ = module(root, image_size=32).read(train=True)
    assert padded.shape == (50, 1, 32, 32)
    assert torch.equal(padded[:, :, 2:-2, 2:-2], images)
    assert int(padded.sum()) == int(images.sum())


def test_missing_files_say_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        prepare(module(tmp_path))
    message = str(caught.value)
    for part in ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte", str(tmp_path / "MNIST/raw"), "`data.root`"):
        assert part in message
    with pytest.raises(FileNotFoundError, match="they were not fetched"):
        module(tmp_path).setup("fit")


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", no_network)
    with pytest.raises(FileNotFoundError, match=r"downloading them failed .*no route to host"):
        prepare(module(tmp_path, download=True))


def test_a_damaged_file_is_named(root: Path) -> None:
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte` is damaged: its md5 is \w+ and must be 6bbc9ace"):
        module(root, verify=True).setup("fit")
    path = root / "MNIST/raw/train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte` is damaged: its header \[2049, 50\] does not fit"):
        module(root).setup("fit")
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="is damaged: it has no header"):
        module(root).setup("fit")


def test_a_broken_archive_is_named(root: Path) -> None:
    path = root / "MNIST/raw/train-labels-idx1-ubyte"
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes())[:-10])
    path.unlink()
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte.gz` is damaged: it cannot be unpacked"):
        module(root).setup("fit")


def test_facts_of_the_recipe() -> None:
    data = MNISTDataModule("nowhere")
    assert (data.num_classes, data.in_channels, data.image_size) == (10, 1, 28)
    assert (data.mean, data.std) == ((0.0,), (1.0,))
    assert data.augment is None
