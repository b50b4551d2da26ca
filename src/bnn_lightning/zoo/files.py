"""Files of the zoo by name: in the package, in the cache, or downloaded."""

import os
from pathlib import Path

from bnn_lightning.zoo import receipts
from bnn_lightning.zoo.download import checksum, download
from bnn_lightning.zoo.receipts import PREFIX, Kind, Receipt, ZooError, receipt

# Address of a folder with the files that are too large for the wheel; there is no default.
URL = "BNN_ZOO_URL"
_WHAT: dict[Kind, str] = {"packed": "packed file", "weights": "weights"}


def is_name(source: object) -> bool:
    """Whether a path that a user gives names a network of the zoo.

    Example:
        >>> is_name("zoo:digits_mlp"), is_name("runs/digits_mlp")
        (True, False)
    """
    return isinstance(source, str | Path) and str(source).startswith(PREFIX)


def packed_file(name: str | Path) -> Path:
    """Return the packed file of a network.

    Args:
        name: Name in the zoo, with or without `zoo:`.

    Raises:
        ZooError: There is no such network, or its file could not be had.

    Example:
        >>> packed_file("zoo:digits_mlp").name
        'digits_mlp.bnn'
    """
    return _file(receipt(str(name)), "packed")


def weights_file(name: str | Path) -> Path:
    """Return the weights of a network, a safetensors file: latent weights and training configuration.

    Args:
        name: See `packed_file`.

    Raises:
        ZooError: See `packed_file`.
    """
    return _file(receipt(str(name)), "weights")


def _file(of: Receipt, kind: Kind) -> Path:
    file = of.files[kind]
    if file.in_wheel:
        path = receipts.FOLDER / file.name
        if not path.is_file() or checksum(path) != file.sha256:
            raise ZooError(f"`{path}`, a file of this package, is missing or damaged: install the package again.")
        return path
    path = _cache() / f"{file.sha256[:16]}-{file.name}"
    if path.is_file() and checksum(path) == file.sha256:
        return path
    address = os.environ.get(URL, "").rstrip("/")
    if not address:
        raise ZooError(
            f"`{PREFIX}{of.name}`: the package does not have its {_WHAT[kind]} ({file.name}, {file.size:,} bytes), and "
            f"`{URL}`, the address of a folder that has the file, is not set. This command trains the network:\n"
            f"  {of.recipe}"
        )
    if not address.startswith(("http://", "https://")):
        raise ZooError(f"`{URL}` must begin with http:// or https://, got {address!r}.")
    return download(f"{address}/{file.name}", path, size=file.size, sha256=file.sha256)


def _cache() -> Path:
    try:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:  # as in a container whose user has no entry and no HOME
        raise ZooError("This user has no home folder for the cache: set XDG_CACHE_HOME.") from error
    return Path(base, "bnn-lightning", "zoo")
