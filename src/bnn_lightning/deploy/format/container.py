"""The packed file: a header that says what the network is, its plans, and its constants. Numpy and this package alone.

The first 64 bytes (prefix.py) say where the three sections lie and hold their checksums:

    header      JSON, compressed (xz): graph, table of constants, and what the network is
    plan        how kernels run it (plan_section.py); may be empty
    constants   each as kernels read it (layouts.py), from a multiple of 64 on, and the tables of the plans

The table of constants has a row each: name, dtype, shape, offset in the section, layout, groups. Every bit of a file is
covered by a checksum or must be zero.
"""

import hashlib
import json
import lzma
import math
import mmap
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .layouts import DTYPES, LAYOUTS, from_layout, plain_layout, stored_form, to_layout
from .prefix import ALIGN, DIGEST, Prefix, Section, join_sections, padded

Array = NDArray[Any]

_MOST_HEADER = 1 << 22  # bytes of the JSON text: far beyond any network's, and no danger to memory
_XZ = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 20}]
_MOST_MEMORY = 1 << 24  # bytes, to inflate a header
# Constants may share bytes; together they have at most so many times those of the section, and some more.
_SHARED, _SHARED_BYTES = 4, 1 << 18
_ENTRIES, _BYTES_OF_ENTRY = 3120, 1 << 11  # of the table of constants: at most so many, and one more for so many bytes


class PackedFileError(ValueError):
    """A packed file is damaged, truncated, or not one."""


class Tensor(Protocol):
    """A constant to write, such as `ir.graph.Constant`; signs are -1 and +1, their dtype is "bits"."""

    @property
    def name(self) -> str: ...

    @property
    def dtype(self) -> str: ...

    @property
    def array(self) -> Array: ...


@dataclass(frozen=True)
class Entry:
    """A row of the table of constants.

    Attributes:
        name: Name of the constant in the network.
        dtype: A key of `layouts.DTYPES`.
        shape: Shape of the constant, in elements.
        offset: Offset of its first byte in the section.
        layout: One of `layouts.LAYOUTS`.
        groups: Groups of channels that the layout divides it into.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    layout: str
    groups: int = 1

    @property
    def num_bytes(self) -> int:
        """Bytes of the constant without what fills blocks and words up."""
        elements = math.prod(self.shape)
        return -(-elements // 8) if self.dtype == "bits" else elements * np.dtype(DTYPES[self.dtype]).itemsize

    @property
    def stored_bytes(self) -> int:
        """Bytes in the file."""
        kind, shape = stored_form(self.layout, self.dtype, self.shape, self.groups)
        return math.prod(shape) * np.dtype(kind).itemsize


@dataclass(frozen=True)
class Container:
    """A packed file that was read: its header, and its sections in place.

    Attributes:
        header: Values of the header beside the table of constants.
        entries: The table of constants.
        plan: Bytes of the plan section; empty where there is none.
        data: Bytes of all constants; mapped, not read, where they come from a file.
    """

    header: dict[str, Any]
    entries: tuple[Entry, ...]
    plan: memoryview
    data: memoryview

    def __deepcopy__(self, memo: dict[int, Any]) -> "Container":
        return self  # nothing changes it

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_bytes, (self.header, self.entries, bytes(self.plan), bytes(self.data))

    def array(self, index: int) -> Array:
        """Return a constant; signs as int8, -1 and +1. What is stored densely is not copied."""
        entry = self.entries[index]
        kind, shape = stored_form(entry.layout, entry.dtype, entry.shape, entry.groups)
        part = self.data[entry.offset : entry.offset + entry.stored_bytes]
        stored = np.frombuffer(part, dtype=kind).reshape(shape)
        return from_layout(stored, entry.layout, entry.shape, entry.groups)


def _from_bytes(header: dict[str, Any], entries: tuple[Entry, ...], plan: bytes, data: bytes) -> Container:
    return Container(header, entries, memoryview(plan), memoryview(data))


def container_bytes(
    header: Mapping[str, Any],
    constants: Sequence[Tensor],
    *,
    placed: Mapping[int, tuple[int, str, int]] | None = None,
    section: bytes | bytearray = b"",
    plan: bytes = b"",
) -> tuple[bytes, int]:
    """Return the bytes of a packed file, and the length of its compressed header.

    Args:
        header: Plain values; the key "constants" is taken.
        constants: In the order of the graph's table.
        placed: By place in that table, the offset, layout and groups of constants that `section` has already.
        section: Begin of the section of constants: what the plans read.
        plan: The plan section.

    Raises:
        ValueError: A value of the header is not plain, a dtype is unknown, or two constants have one name.
    """
    names = Counter(constant.name for constant in constants)
    if twice := [name for name, number in names.items() if number > 1]:
        raise ValueError(f"The names of constants must differ, got two of the name `{twice[0]}`: rename one of them.")
    rows, data = [], bytearray(section)
    for index, constant in enumerate(constants):
        if constant.dtype not in DTYPES:
            raise ValueError(f"The dtype of `{constant.name}` must be one of {list(DTYPES)}, got {constant.dtype!r}.")
        values = constant.array
        place = (placed or {}).get(index)
        if place is None:
            data += bytes(-len(data) % ALIGN)
            place = len(data), plain_layout(constant.dtype), 1
            data += to_layout(values, place[1], constant.dtype).tobytes()
        rows.append([constant.name, constant.dtype, list(values.shape), *place])
    data += bytes(-len(data) % ALIGN)
    text = json.dumps({**header, "constants": rows}, separators=(",", ":"), allow_nan=False, sort_keys=True)
    compressed = lzma.compress(text.encode("utf-8"), check=lzma.CHECK_NONE, filters=_XZ)  # it has a checksum of ours
    return join_sections(compressed, plan, data), len(compressed)


def read_container(source: str | Path | bytes, *, whole: bool = False) -> Container:
    """Read a packed file and check it: lengths, checksums, types, places. Constants are mapped, not copied.

    Args:
        source: The file, or its bytes.
        whole: Whether to check the SHA-256 of all bytes, too.

    Raises:
        PackedFileError: It is truncated, damaged, of another version, or no packed file.
        OSError: It cannot be opened.
    """
    data = memoryview(source) if isinstance(source, bytes) else _map(Path(source))
    name = "The file" if isinstance(source, bytes) else f"`{source}`"
    try:
        prefix = Prefix.from_bytes(data)
    except ValueError as error:
        raise PackedFileError(f"{name} {error}") from error
    if len(data) != prefix.file_size:
        raise PackedFileError(
            f"{name} must have {prefix.file_size} bytes and has {len(data)}: it is truncated, or something follows it."
        )
    header, plan, constants = (
        _section(data, section, what, name)
        for section, what in ((prefix.header, "header"), (prefix.plan, "plan"), (prefix.constants, "constants"))
    )
    if whole and hashlib.sha256(data[:-DIGEST]).digest() != bytes(data[-DIGEST:]):
        raise PackedFileError(f"{name} is damaged: its SHA-256 does not hold.")
    parsed = _parse(header, name)
    entries = _entries(parsed.pop("constants", None), len(constants), name)
    return Container(parsed, entries, plan, constants)


def _section(data: memoryview, section: Section, what: str, name: str) -> memoryview:
    end = section.offset + section.size
    if zlib.crc32(data[section.offset : end]) != section.crc:
        raise PackedFileError(f"{name} is damaged: the checksum of its {what} does not hold.")
    if what != "constants" and any(data[end : padded(end)]):
        raise PackedFileError(f"{name} is damaged behind its {what}.")
    return data[section.offset : end]


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            raise PackedFileError(f"`{path}` is empty.")
        # Private and writable, so that tensors may share the pages; nothing is ever written back.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _parse(compressed: memoryview, name: str) -> dict[str, Any]:
    inflate = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY)
    try:
        text = inflate.decompress(compressed, _MOST_HEADER)
        header = (
            json.loads(text.decode("utf-8"), parse_constant=_no_number)
            if inflate.eof and not inflate.unused_data
            else None
        )
    except (lzma.LZMAError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise PackedFileError(f"{name}: its header cannot be read: {error}") from error
    if not isinstance(header, dict):
        raise PackedFileError(f"{name}: its header is no JSON object of at most {_MOST_HEADER} bytes.")
    return header


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON.")


def _entries(table: Any, size: int, name: str) -> tuple[Entry, ...]:
    if not isinstance(table, list):
        raise PackedFileError(f"{name}: its header has no table of constants.")
    most = _ENTRIES + size // _BYTES_OF_ENTRY
    if len(table) > most:
        raise PackedFileError(
            f"{name}: its table of constants has {len(table)} entries; a file of its size has at most {most}."
        )
    entries: list[Entry] = []
    total = 0
    for row in table:
        entry = _entry(row)
        if entry is None or entry.offset + entry.stored_bytes > size:
            raise PackedFileError(f"{name}: its table of constants is wrong at entry {len(entries)}.{_later(row)}")
        entries.append(entry)
        total += max(entry.num_bytes, entry.stored_bytes)
    if total > _SHARED * size + _SHARED_BYTES or len({entry.name for entry in entries}) != len(entries):
        raise PackedFileError(f"{name}: its table of constants does not describe its {size} bytes.")
    return tuple(entries)


def _later(row: Any) -> str:
    """Say that a constant is of a kind that later versions may have, or nothing."""
    match row:
        case [_, str(dtype), _, _, str(layout), _] if dtype not in DTYPES or layout not in LAYOUTS:
            unknown = f"This version has no `{dtype:.60}` in the layout `{layout:.60}`"
            return f" {unknown}: install a newer bnn-lightning, or export the checkpoint again with this one."
    return ""


def _entry(row: Any) -> Entry | None:
    match row:
        case [str(name), str(dtype), [*shape], int(offset), str(layout), int(groups)] if (
            dtype in DTYPES
            and layout in LAYOUTS
            and len(shape) <= 8
            and all(type(item) is int and 0 <= item < 1 << 48 for item in (*shape, offset, groups))
            and offset % ALIGN == 0
        ):
            entry = Entry(name, dtype, tuple(shape), offset, layout, groups)
            try:
                stored_form(layout, dtype, entry.shape, groups)
            except ValueError:
                return None
            return entry
    return None
