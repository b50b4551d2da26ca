"""ImageNet as a stream: chunks in litdata's format, on a file system or in object storage."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bnn_lightning.data.convert import INDEX, LABELS
from bnn_lightning.data.decode import Decoder, decode_image
from bnn_lightning.data.encoded_images import EncodedDataModule, Part
from bnn_lightning.data.imagenet import imagenet_spec
from bnn_lightning.data.imagenet_folders import PARTS
from bnn_lightning.utils.image_size import ImageSize
from bnn_lightning.utils.optional import require
from bnn_lightning.utils.text import some


class ImageNetStreamDataModule(EncodedDataModule):
    """Output of `bnn prepare to=stream`: few large files in place of a million small ones.

    Images, labels, order and augmentation are those of `ImageNetDataModule` on the folder that was converted. Chunks on
    a file system, also one that a cluster shares, are read in place. From object storage every node copies them into
    `cache_dir` before the training, once: what is there whole is not fetched again. (litdata's own loader keeps part of
    a set only, but cannot go on in mid-epoch with each image exactly once on another number of workers or devices, and
    pads the ranks. So litdata stores, fetches and reads here, and our sampler says what is read.)

    Args:
        root: Folder or address (s3://bucket/imagenet, gs://..., hf://...) that holds `train` and `val`.
        cache_dir: Folder in which a node keeps the chunks of an address; needs space for the whole set.
        storage_options: Options of the address, such as an endpoint; see litdata.
        image_size: As `ImageNetDataModule` takes it.
        num_classes: As `ImageNetDataModule` takes it.
        **options: As `EncodedDataModule` takes them.

    Raises:
        ModuleNotFoundError: litdata is not installed.
        ValueError: `root` is an address, and there is no `cache_dir`; or the number of classes is not known.
    """

    def __init__(
        self,
        root: str | Path = "data/imagenet_stream",
        *,
        cache_dir: str | Path | None = None,
        storage_options: dict[str, Any] | None = None,
        image_size: ImageSize = 224,
        num_classes: int | None = 1000,
        **options: Any,
    ) -> None:
        require("litdata", extra="stream")
        self.address = str(root) if is_address(root) else None
        if self.address is not None and cache_dir is None:
            raise ValueError(
                f"`cache_dir` must be a folder on each node's disk where `root` is an address, got null for {root}."
            )
        self.folder = Path(root if self.address is None or cache_dir is None else cache_dir)
        self.storage_options = storage_options
        if num_classes is None and not stored_classes(self.folder / "train"):
            raise ValueError(f"`num_classes` must be given before `{self.folder}` holds the set, got null.")
        spec = imagenet_spec(stored_classes(self.folder / "train"), num_classes, image_size)
        super().__init__(spec, self.folder, image_size=image_size, **options)

    def prepare_data(self) -> None:
        """Copy the chunks of an address to this node; Lightning calls it on one process a node."""
        if self.address is not None:
            for part in PARTS:
                fetch_part(f"{self.address.rstrip('/')}/{part}", self.folder / part, self.storage_options)

    def require(self) -> None:
        """See that both parts are there.

        Raises:
            FileNotFoundError: One is missing; says how to make it.
            ValueError: They do not hold `num_classes` classes.
        """
        for part in PARTS:
            names = stored_classes(self.folder / part)
            if not names or not (self.folder / part / INDEX).is_file():
                raise FileNotFoundError(
                    f"The stream is not complete: `{self.folder / part}` holds no {INDEX} and {LABELS}. Write it with "
                    f"`bnn prepare to=stream source=<folder> output={self.folder}`, or let `data.root` name the folder "
                    "or address that holds `train` and `val`."
                )
            self._check_classes(names, self.folder / part)
            if names != (training := stored_classes(self.folder / PARTS[0])):
                different = some(sorted(set(names) ^ set(training)))
                raise ValueError(
                    f"`{self.folder / part}` must hold the classes of `train`: they differ in {different}."
                )

    def source(self, part: Part) -> "StoredImages":
        return StoredImages(self.folder / part, self.options.decoder)


class StoredImages:
    """Images in the chunks of a part; each process opens them by itself.

    Args:
        folder: Holds the chunks.
        decoder: See `decode_image`.
    """

    def __init__(self, folder: Path, decoder: Decoder = "auto") -> None:
        self.folder, self.decoder = folder, decoder
        runs = torch.tensor(json.loads((folder / LABELS).read_text())["runs"])
        self.labels = torch.repeat_interleave(runs[:, 0], runs[:, 1])
        self._opened: tuple[int, Any] | None = None

    def decode(self, index: int) -> Tensor:
        item = self._item(index)
        return decode_image(bytes(item["image"]), self.decoder, name=item["name"])

    def name(self, index: int) -> str:
        return str(self._item(index)["name"])

    def _item(self, index: int) -> Any:
        if self._opened is None or self._opened[0] != os.getpid():
            # Optional, and slow to import.
            from litdata import StreamingDataset

            self._opened = os.getpid(), StreamingDataset(str(self.folder))
        return self._opened[1][index]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def is_address(root: str | Path) -> bool:
    """Whether a root is an address of object storage rather than a folder (litdata calls a folder so by `local:`).

    Example:
        >>> is_address("s3://bucket/imagenet"), is_address("data/imagenet")
        (True, False)
    """
    return "://" in str(root) or str(root).startswith("local:")


def stored_classes(part: Path) -> tuple[str, ...]:
    """Return the names of the classes of a part; none where it is missing."""
    file = part / LABELS
    return tuple(json.loads(file.read_text())["class_names"]) if file.is_file() else ()


def fetch_part(address: str, folder: Path, storage_options: dict[str, Any] | None = None) -> None:
    """Copy a part from an address into a folder; chunks that are there whole are kept.

    The index comes last: where it is, the part is whole.
    """
    # Optional, and slow to import.
    from litdata.streaming.downloader import get_downloader

    if (folder / INDEX).is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    downloader = get_downloader(address, str(folder), [], storage_options or {})

    def fetch(name: str) -> Path:
        beside = folder / f".{name}.partial"
        beside.unlink(missing_ok=True)
        downloader.download_file(f"{address}/{name}", str(beside))
        return beside

    index = fetch(INDEX)
    for chunk in json.loads(index.read_text())["chunks"]:
        path = folder / chunk["filename"]
        if not path.is_file() or path.stat().st_size != chunk["chunk_bytes"]:
            os.replace(fetch(path.name), path)
    os.replace(fetch(LABELS), folder / LABELS)
    os.replace(index, folder / INDEX)
