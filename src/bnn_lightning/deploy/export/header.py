"""A packed network as a C header, to build into a program."""

from pathlib import Path

from bnn_lightning.deploy.export.c99_text import check_name, plain
from bnn_lightning.deploy.export.formats import Written
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.runtime import native
from bnn_lightning.utils.files import replacing

_TEXT = """// {what}: a packed network of {size} bytes, for bnn_open_memory of bnn.h. Written by bnn export.
#ifndef {guard}
#define {guard}

#if defined(__cplusplus)
#define {name}_ALIGNED alignas(64)
#elif defined(_MSC_VER)
#define {name}_ALIGNED __declspec(align(64))
#elif defined(__GNUC__)
#define {name}_ALIGNED __attribute__((aligned(64)))
#elif __STDC_VERSION__ >= 201112L
#define {name}_ALIGNED _Alignas(64)
#else
#define {name}_ALIGNED
#endif

#define {name}_SIZE {size}

{name}_ALIGNED static const unsigned char {name}_model[{name}_SIZE] = {{
{lines}
}};

#endif
"""
_IN_A_LINE = 32


def check_file(file: Path) -> None:
    """Refuse a network that libbnn cannot run, where it was built.

    Raises:
        RuntimeFileError: It is damaged, or has operations that need torch.
    """
    if native.LIBRARY.exists():
        native.load(file)


def write_header(file: Path, out: Path) -> Written:
    """Write a packed file as a constant array, aligned so that libbnn reads it in place.

    Args:
        file: The packed file.
        out: The header; its names begin with the name of the file.

    Raises:
        ValueError: See `check_name`.
        PackedFileError: The file is damaged.
        OSError: The header cannot be written.
    """
    name, data = out.stem, file.read_bytes()
    check_name(name)
    info = PackedInfo.from_plain(read_container(data).header.get("info"))
    rows = (data[i : i + _IN_A_LINE] for i in range(0, len(data), _IN_A_LINE))
    text = _TEXT.format(
        what=plain(info.name),
        name=name,
        guard=f"{name.upper()}_H",
        size=len(data),
        lines=",\n".join(",".join(map(str, row)) for row in rows),
    )
    with replacing(out) as made:
        made.write_text(text, encoding="utf-8")
    names = f"{name}_model ({len(data):,} bytes) and {name}_SIZE, for bnn_open_memory of bnn.h"
    return Written(len(text), f"written: {out}: {names}")
