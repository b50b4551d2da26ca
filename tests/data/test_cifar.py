import os
import pickle
import zlib
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from bnn_lightning.data import Augmentation, CIFAR10DataModule, CIFAR100DataModule

Module = CIFAR10DataModule | CIFAR100DataModule
PUBLISHED = {CIFAR10DataModule: CIFAR10, CIFAR100DataModule: CIFAR100}


def write_file(path: Path, count: int, num_classes: int, key: str) -> None:
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    labels = (np.arange(count) % num_classes).tolist()
    entry = {"data": rng.integers(256, size=(count, 3072), dtype=np.uint8), key: labels, "filenames": ["x.png"] * count}
    path.write_bytes(pickle.dumps(entry, protocol=2))


@pytest.fixture(params=[CIFAR10DataModule, CIFAR100DataModule])
def module(request: pytest.FixtureRequest, tmp_path: Path) -> Module:
    """A module on a small set in the format of CIFAR."""
    kind = request.param
    folder = tmp_path / kind.subfolder
    folder.mkdir()
    for name in kind.checksums:
        write_file(folder / name, 120, kind.spec.num_classes, kind.label_key)
    data: Module = kind(tmp_path, verify=False, download=False, batch_size=16)
    return data


@pytest.mark.parametrize("train", [True, False])
def test_images_and_labels_equal_torchvision(module: Module, train: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    published = PUBLISHED[type(module)]
    monkeypatch.setattr(published, "_check_integrity", lambda self: True)
    monkeypatch.setattr(published, "_load_meta", lambda self: None)
    reference = published(str(module.root), train=train)
    images, labels = module.read(train)
    assert images.dtype == torch.uint8
    assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(reference.data))
    assert labels.tolist() == reference.targets


@pytest.mark.data
@pytest.mark.parametrize("train, count", [(True, 50_000), (False, 10_000)])
def test_real_images_equal_torchvision(data_root: Path, train: bool, count: int) -> None:
    module = CIFAR10DataModule(data_root, download=False)
    reference = CIFAR10(str(data_root), train=train)
    images, labels = module.read(train)
    assert torch.equal(images.permute(0, 2, 3, 1), torch.from_numpy(reference.data))
    assert labels.tolist() == reference.targets
    assert len(labels) == count
    assert list(module.class_names) == reference.classes
    if train:
        values = images.permute(1, 0, 2, 3).flatten(1).double() / 255
        torch.testing.assert_close(values.mean(dim=1), torch.tensor(module.mean).double(), rtol=0, atol=1e-4)
        torch.testing.assert_close(values.std(dim=1), torch.tensor(module.std).double(), rtol=0, atol=1e-4)


@pytest.mark.data
def test_a_real_epoch_scores_every_image(data_root: Path) -> None:
    module = CIFAR10DataModule(data_root, download=False)
    module.setup("fit")
    assert len(module.train_dataloader()) == 390
    assert sum(len(batch.indices) for batch in module.val_dataloader()) == 10_000
    images, _ = next(module.batches(module.val_dataloader()))
    assert torch.equal(images, module.read(train=False)[0][:128].float() / 255)


def test_recipe_of_the_paper(module: Module) -> None:
    assert module.augment == Augmentation(flip=0.5, padding=4, padding_mode="edge")
    assert len(module.class_names) == len(set(module.class_names)) == module.num_classes
    if isinstance(module, CIFAR10DataModule):
        assert (module.mean, module.std) == ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
    else:
        assert list(module.class_names) == sorted(module.class_names)


def prepare(module: Module) -> None:
    module.prepare_data()
    module.setup("fit")


def test_missing_files_say_what_to_put_where(module: Module) -> None:
    (module.folder / module.training_files[-1]).unlink()
    with pytest.raises(FileNotFoundError) as caught:
        prepare(module)
    message = str(caught.value)
    for part in (module.training_files[-1], str(module.folder), module.source, "`data.download` is false"):
        assert part in message
    assert module.test_file not in message.split(", and ")[0].split("lacks")[1]


def test_published_checksums_are_compared(module: Module) -> None:
    module.verify = True
    with pytest.raises(ValueError, match=rf"{module.training_files[0]}` is damaged: its md5 is \w+ and must be"):
        module.setup("fit")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"labels": [1]}),
        pickle.dumps({"data": np.zeros((2, 5), np.uint8), "labels": [0, 1], "fine_labels": [0, 1]}),
        pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [100], "fine_labels": [100]}),
        pickle.dumps([1, 2]),
    ],
)
def test_a_damaged_file_is_named(module: Module, content: bytes) -> None:
    (module.folder / module.test_file).write_bytes(content)
    with pytest.raises(ValueError, match=f"{module.test_file}` is damaged: it (cannot be read|must hold)"):
        module.setup("test")


class Exploit:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_a_file_that_runs_code_is_refused(module: Module) -> None:
    (module.folder / module.test_file).write_bytes(pickle.dumps({"data": Exploit()}))
    with pytest.raises(ValueError, match=r"cannot be read \((posix|nt)\.system is not allowed\)"):
        module.setup("test")


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="`image_size` of CIFAR-10 must be 32, got 224"):
        CIFAR10DataModule("nowhere", image_size=224)


def test_a_subclass_keeps_the_files_that_it_names(tmp_path: Path) -> None:
    class Mine(CIFAR10DataModule):
        training_files = ("mine",)
        checksums: ClassVar[dict[str, str]] = {"mine": "0" * 32, "test_batch": "0" * 32}

    class Published(CIFAR10DataModule):
        published = CIFAR100
        test_file = "own_test"

    assert (Mine.training_files, set(Mine.checksums)) == (("mine",), {"mine", "test_batch"})
    assert (Mine.subfolder, Mine.test_file) == (CIFAR10DataModule.subfolder, CIFAR10DataModule.test_file)
    assert (Published.subfolder, Published.test_file) == (CIFAR100DataModule.subfolder, "own_test")
    (tmp_path / Mine.subfolder).mkdir()
    for name in Mine.checksums:
        write_file(tmp_path / Mine.subfolder / name, 30, 10, "labels")
    images, _ = Mine(tmp_path, verify=False, download=False).read(train=True)
    assert len(images) == 30
