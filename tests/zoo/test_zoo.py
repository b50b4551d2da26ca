"""Networks that come along: their files are those of their receipts, and do what these say."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bnn_lightning import zoo
from bnn_lightning.data import CIFAR10DataModule, DigitsDataModule, MNISTDataModule
from bnn_lightning.deploy import load
from bnn_lightning.zoo.download import checksum
from bnn_lightning.zoo.receipts import FOLDER, LARGEST

DATA: dict[str, Callable[[Path, int], DigitsDataModule]] = {
    "digits": lambda root, size: DigitsDataModule(image_size=size),
    "mnist": lambda root, size: MNISTDataModule(root=root, download=False),
    "cifar10": lambda root, size: CIFAR10DataModule(root=root, download=False),
}


def test_the_promised_networks_are_there() -> None:
    assert {"digits_mlp", "mnist_mlp"} <= set(zoo.names())


@pytest.mark.parametrize("name", zoo.names())
def test_files_of_the_package_are_those_of_the_receipt(name: str) -> None:
    for kind, file in zoo.receipt(name).files.items():
        assert file.in_wheel == (file.size <= LARGEST[kind])
        assert (FOLDER / file.name).is_file() == file.in_wheel
        if file.in_wheel:
            assert ((FOLDER / file.name).stat().st_size, checksum(FOLDER / file.name)) == (file.size, file.sha256)


def test_nothing_lies_beside_the_files_of_receipts() -> None:
    named = {file.name for name in zoo.names() for file in zoo.receipt(name).files.values()}
    assert {path.name for path in FOLDER.iterdir()} <= named | {f"{name}.json" for name in zoo.names()}


@pytest.mark.parametrize("name", zoo.names())
def test_a_receipt_says_where_the_network_comes_from(name: str) -> None:
    receipt = zoo.receipt(f"zoo:{name}")
    assert receipt == zoo.receipt(name)
    assert receipt.recipe.startswith("bnn train ")
    assert f"seed={receipt.seed}" in receipt.recipe.split()
    assert "/" not in receipt.recipe
    assert len(receipt.commit) == 40
    assert receipt.license
    info = load(f"zoo:{name}").info
    assert (info.name, info.provenance["config"]["data"]["name"]) == (receipt.network, receipt.data)
    assert info.provenance["config"]["epochs"] == receipt.epochs


def test_a_digit() -> None:
    data = DigitsDataModule(image_size=8)
    data.setup("test")
    images, labels = next(data.batches(data.test_dataloader()))
    network = load("zoo:digits_mlp")
    with torch.inference_mode():
        assert int(network(images[:1]).argmax(1)) == int(labels[0])


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("name", zoo.names())
def test_the_accuracy_is_that_of_the_receipt(name: str, data_root: Path) -> None:
    receipt, network = zoo.receipt(name), load(f"zoo:{name}")
    data = DATA[receipt.data](data_root, int(network.info.shape[1]))
    data.setup("test")
    correct = images = 0
    with torch.inference_mode():
        for batch, labels in data.batches(data.test_dataloader()):
            correct += int((network(batch).argmax(1) == labels).sum())
            images += len(labels)
    assert (correct, images) == (receipt.correct, receipt.images)


def test_an_unknown_name_lists_the_known_and_the_nearest() -> None:
    with pytest.raises(zoo.ZooError) as error:
        load("zoo:mnist_mpl")
    assert "Did you mean `zoo:mnist_mlp`?" in str(error.value)
    assert all(name in str(error.value) for name in zoo.names())


def test_importing_the_zoo_does_not_import_torch() -> None:
    code = "import sys, bnn_lightning.zoo as zoo; zoo.packed_file(zoo.names()[0]); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_one_table_lists_all() -> None:
    head, *rows = zoo.describe().splitlines()
    assert head.split("  ")[0] == "name"
    for name in zoo.names():
        receipt = zoo.receipt(name)
        (row,) = [row for row in rows if row.split()[0:1] == [name]]
        sizes = [f"{file.size:,}" for file in receipt.files.values()]
        assert row.split()[1:7] == [receipt.network, receipt.data, f"{receipt.accuracy:.2f}", "%", *sizes]
