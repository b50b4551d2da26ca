"""Receipts of the zoo: architecture, training, accuracy and files of each network."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from bnn_lightning.utils.text import did_you_mean, text_table

PREFIX = "zoo:"
# Receipts, and the files that are small enough for the wheel.
FOLDER = Path(__file__).parent / "trained"
Kind = Literal["packed", "weights"]
SUFFIXES: Mapping[Kind, str] = {"packed": ".bnn", "weights": ".safetensors"}
# Bytes of the largest file that is in the wheel.
LARGEST: Mapping[Kind, int] = {"packed": 1_000_000, "weights": 1_500_000}


class ZooError(ValueError):
    """A name that the zoo does not have, or a file that it could not get."""


@dataclass(frozen=True)
class File:
    """A file of a network.

    Attributes:
        name: File name, in the package and below BNN_ZOO_URL.
        size: Bytes.
        sha256: Checksum, in hexadecimal digits.
        in_wheel: Whether the package has it; the others are downloaded.
    """

    name: str
    size: int
    sha256: str
    in_wheel: bool


@dataclass(frozen=True)
class Receipt:
    """Facts of a trained network.

    Attributes:
        name: In the zoo.
        network: Registered name of the backbone.
        data: Training and test data.
        correct: Test images that the packed file classifies correctly, after the last epoch.
        images: Test images, all of them.
        epochs: Length of the training.
        seed: Seed of the training.
        recipe: Command that trains it.
        commit: Commit that it was trained with.
        license: License of the data, and whom to cite.
        files: Packed file and weights.
    """

    name: str
    network: str
    data: str
    correct: int
    images: int
    epochs: int
    seed: int
    recipe: str
    commit: str
    license: str
    files: Mapping[Kind, File]

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy of the packed file on the test images, in percent."""
        return 100 * self.correct / self.images

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Receipt":
        """Read the content of a receipt's file."""
        files = {
            kind: File(f"{plain['name']}{suffix}", **entry, in_wheel=entry["size"] <= LARGEST[kind])
            for kind, suffix in SUFFIXES.items()
            for entry in [plain["files"][kind]]
        }
        return cls(**{**plain, "files": files})


def names() -> list[str]:
    """Return the names of the networks.

    Example:
        >>> "digits_mlp" in names()
        True
    """
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def receipt(name: str) -> Receipt:
    """Return the receipt of a network.

    Args:
        name: Name in the zoo, with or without `zoo:`.

    Raises:
        ZooError: There is no such network; the message lists those that there are.

    Example:
        >>> receipt("zoo:digits_mlp").network
        'mlp'
    """
    name = name.removeprefix(PREFIX)
    known = names()
    if name not in known:
        meant = did_you_mean(PREFIX + name, (PREFIX + other for other in known))
        raise ZooError(f"`{PREFIX}{name}`: the zoo has no such network.{meant} It has: {', '.join(known)}.")
    return _read(FOLDER / f"{name}.json")


@cache
def _read(path: Path) -> Receipt:
    return Receipt.from_plain(json.loads(path.read_text(encoding="utf-8")))


def describe() -> str:
    """Return one table of all networks, and how a name is used."""
    head = ("name", "network", "data", "top-1", "packed bytes", "weights bytes", "in the package")
    rows: list[tuple[str, ...]] = [head]
    for row in map(receipt, names()):
        sizes = [f"{file.size:,}" for file in row.files.values()]
        here = ", ".join(kind for kind, file in row.files.items() if file.in_wheel)
        rows.append((row.name, row.network, row.data, f"{row.accuracy:.2f} %", *sizes, here or "nothing"))
    use = "bnn predict packed=zoo:NAME images=FOLDER\nbnn train init_from=zoo:NAME ...    needs the weights"
    return "\n".join([*text_table(rows), "", use])
