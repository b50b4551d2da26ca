"""Data sets read from published files, with checksums."""

import gzip
import hashlib
import zlib
from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

from bnn_lightning.data.in_memory import InMemoryDataModule


class FileDataModule(InMemoryDataModule):
    """A set in memory that is read from torchvision's files below `root`.

    Args:
        root: Folder of the data files.
        download: Fetch missing files.
        verify: Compare files with the md5 of the published ones. False admits your own data in the same format.
        **options: As `InMemoryDataModule` takes them.

    Attributes:
        subfolder: Subfolder of `root`, where the files lie.
        checksums: md5 of each file by its name.
        source: Address at which a person gets the files.
    """

    subfolder: ClassVar[str]
    checksums: ClassVar[dict[str, str]]
    source: ClassVar[str]
    # Why files are missing; `prepare_data` knows more where it ran, which is on one rank a node.
    _reason = "they were not fetched"

    def __init__(
        self, root: str | Path = "data", *, download: bool = True, verify: bool = True, **options: Any
    ) -> None:
        super().__init__(root, **options)
        self.download = download
        self.verify = verify

    @property
    def folder(self) -> Path:
        return self.root / self.subfolder

    @abstractmethod
    def fetch(self) -> None:
        """Download the files into `root`."""

    def prepare_data(self) -> None:
        """Fetch missing files, where `download` allows it.

        Files that are missing still are an error of `setup`, which every rank runs: an error of one rank here would
        reach the user below the others' complaints that it is gone.
        """
        if not self._missing():
            return
        self._reason = "`data.download` is false"
        if self.download:
            self._reason = "the download did not bring them"
            try:
                self.fetch()
            # torchvision turns a failed download into a RuntimeError; a missing or refused connection is an OSError.
            except (OSError, RuntimeError) as error:
                self._reason = f"downloading them failed ({' '.join(str(error).split())})"

    def contents(self, name: str) -> bytes:
        """Read a file, or gunzip `name`.gz where only that exists.

        Raises:
            FileNotFoundError: It or others are missing; says which, and what to put where.
            ValueError: It is not the published one.
        """
        self._require_files()
        path = self._path(name)
        try:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.damaged(name, f"it cannot be unpacked ({error})") from error
        found = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if self.verify and found != self.checksums[name]:
            raise self.damaged(name, f"its md5 is {found} and must be {self.checksums[name]}")
        return data

    def damaged(self, name: str, reason: str) -> ValueError:
        """Return the error that names a damaged file."""
        return ValueError(
            f"`{self._path(name)}` is damaged: {reason}. Delete it and fetch it again ({self.source}), "
            "or, if it holds your own data in the same format, pass `data.verify=false`."
        )

    def _path(self, name: str) -> Path:
        path = self.folder / name
        return path if path.is_file() else path.with_name(f"{name}.gz")

    def _missing(self) -> list[str]:
        return [name for name in self.checksums if not self._path(name).is_file()]

    def _require_files(self) -> None:
        if missing := self._missing():
            raise FileNotFoundError(
                f"{self.spec.name} is not complete: `{self.folder}` lacks {', '.join(missing)}, and {self._reason}. "
                f"Get {self.source} on a machine with a network and unpack it so that they lie in `{self.folder}`, "
                f"or let `data.root` (now `{self.root}`) name the folder that holds `{self.subfolder}`."
            )
