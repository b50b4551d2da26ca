"""A packed network as C99: a source with its weights, and a header, for machines that have a compiler and no more."""

import math
from dataclasses import dataclass
from pathlib import Path

from bnn_lightning.deploy.export.c99_operations import READS, RULES
from bnn_lightning.deploy.export.c99_text import BODY, HEADER, check_name, functions, plain
from bnn_lightning.deploy.export.c99_text import C99Error as C99Error
from bnn_lightning.deploy.export.c99_writer import Writer
from bnn_lightning.deploy.export.formats import Written
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.format.packed_file import graph_of
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.utils.files import replacing


@dataclass(frozen=True)
class CSource:
    """A network in C.

    Attributes:
        source: Text of the .c file.
        header: Text of the .h file.
        flash: Bytes of its constants.
        ram: Bytes of its working memory; it takes no more than that and a small stack.
    """

    source: str
    header: str
    flash: int
    ram: int


def to_c99(path: str | Path, name: str = "bnn_net") -> CSource:
    """Write a packed file as C99 that needs `stdint.h` alone: no allocation, no mathematics library, no threads.

    It computes one image at a time, straightforwardly: exact sums of signs, floats elsewhere, added up in another order
    than torch does.

    Args:
        path: A packed file.
        name: Prefix of its functions, and name of its files.

    Raises:
        C99Error: An operation that is not known in C, or images that are not square maps of channels.
        ValueError: `name` is not a name of C.
        PackedFileError: The file is damaged.
    """
    check_name(name)
    container = read_container(path)
    info = PackedInfo.from_plain(container.header.get("info"))
    graph = graph_of(container)
    writer = Writer(graph, types_of(graph, info.shape), RULES, READS)
    ram = writer.write()
    shape = writer.shapes[0]
    facts = {
        "name": name,
        "guard": f"{name.upper()}_H",
        "pixels": math.prod(shape),
        "shape": " x ".join(map(str, shape[1:])),
        "classes": writer.shapes[-1][-1],
        "what": plain(info.name),
    }
    body = BODY.format(
        **facts,
        functions=functions(writer.used),
        constants="\n".join(writer.constants.values()),
        words=-(-ram // 4),
        image=writer.placed("@0@"),
        calls="\n  ".join(map(writer.placed, writer.calls)),
        logits=writer.placed(writer.last),
    )
    return CSource(body, HEADER.format(**facts), writer.flash, ram)


def write_c99(file: Path, out: Path) -> Written:
    """Write a packed file as C99, with a header beside it.

    Args:
        file: The packed file.
        out: The source; its functions begin with the name of the file.

    Raises:
        C99Error: See `to_c99`.
        OSError: A file cannot be written.
    """
    text, header = to_c99(file, out.stem), out.with_suffix(".h")
    with replacing(out) as source, replacing(header) as declarations:
        source.write_text(text.source, encoding="utf-8")
        declarations.write_text(text.header, encoding="utf-8")
    words = (
        f"written: {out} and {header}: C99, void {out.stem}_logits(...), int {out.stem}_classify(...)\n"
        f"flash:   {text.flash:,} bytes of constants\nram:     {text.ram:,} bytes"
    )
    return Written(len(text.source.encode()), words)
