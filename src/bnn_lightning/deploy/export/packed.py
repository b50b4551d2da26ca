"""A packed network as the file that it is."""

from pathlib import Path

from bnn_lightning.deploy.export.formats import Written
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.packed_file import write_whole
from bnn_lightning.deploy.format.prefix import Prefix
from bnn_lightning.deploy.runtime.network import load


def write_packed(file: str | Path, out: str | Path) -> Written:
    """Copy a packed file to its place, and load it once.

    Args:
        file: The packed file.
        out: Its place.

    Raises:
        PackedFileError: It is damaged.
    """
    data = Path(file).read_bytes()
    write_whole(out, data)
    load(out)
    entries, header = read_container(data).entries, Prefix.from_bytes(data).header.size
    signs, others = (sum(e.num_bytes for e in entries if (e.dtype == "bits") is bits) for bits in (True, False))
    parts = f"signs {signs:,}, other tensors {others:,}, header {header:,}"
    return Written(len(data), f"written: {out}\nsize:    {len(data):,} bytes ({parts})")
