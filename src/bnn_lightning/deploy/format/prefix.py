"""The first 64 bytes of a packed file: places and checksums of its sections. runtime/csrc/loader.c reads the same.

    bytes 0-6      b"BNNPACK"
    byte  7        version of the format: 4
    bytes 8-11     offset of the header in the file        (JSON, compressed)
    bytes 12-15    length of the header
    bytes 16-19    CRC-32 of the header
    bytes 20-23    offset of the plan section              (see plan_section.py)
    bytes 24-27    length of the plan section; 0 where there is none
    bytes 28-31    CRC-32 of the plan section
    bytes 32-35    offset of the constants
    bytes 36-39    CRC-32 of the constants
    bytes 40-47    length of the constants
    bytes 48-59    zero
    bytes 60-63    CRC-32 of bytes 0-59

Numbers are little-endian. Sections begin at multiples of 64, in this order, with zeros between them; behind the
constants follow the 32 bytes of the SHA-256 of all bytes before, which end the file. CRC-32 is zlib's.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass

ALIGN = 64
VERSION = 4
MAGIC = b"BNNPACK"
DIGEST = 32  # bytes of the SHA-256 that ends a file
_LAYOUT = struct.Struct("<7sB8IQ12x")


@dataclass(frozen=True)
class Section:
    """A section of a file.

    Attributes:
        offset: First byte, a multiple of 64.
        size: Bytes.
        crc: CRC-32 of the bytes.
    """

    offset: int
    size: int
    crc: int


@dataclass(frozen=True)
class Prefix:
    """The sections of a packed file.

    Attributes:
        header: Facts about the network, and its graph.
        plan: Plans that run it without Python.
        constants: Signs and numbers.

    Example:
        >>> data = join_sections(b"{}", b"", bytes(64))
        >>> Prefix.from_bytes(data).constants.offset, len(data)
        (128, 224)
    """

    header: Section
    plan: Section
    constants: Section

    @property
    def file_size(self) -> int:
        """Bytes of the whole file."""
        return self.constants.offset + self.constants.size + DIGEST

    def to_bytes(self) -> bytes:
        """Return the 64 bytes."""
        fields = [
            *(self.header.offset, self.header.size, self.header.crc),
            *(self.plan.offset, self.plan.size, self.plan.crc),
            *(self.constants.offset, self.constants.crc, self.constants.size),
        ]
        data = _LAYOUT.pack(MAGIC, VERSION, *fields)
        return data + struct.pack("<I", zlib.crc32(data))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> "Prefix":
        """Read the first 64 bytes of a file.

        Raises:
            ValueError: It is no packed file, one of another version, or damaged there. The message begins with a verb.
        """
        if len(data) < ALIGN or bytes(data[: len(MAGIC)]) != MAGIC:
            raise ValueError("is no packed network (`bnn export` writes one), or is truncated.")
        if data[7] != VERSION:
            update = "install a newer bnn-lightning, or " if data[7] > VERSION else ""
            again = f"{update}make it anew: bnn export ckpt=... out=..."
            raise ValueError(f"has version {data[7]} of the format, this package reads version {VERSION}: {again}")
        _, _, *fields = _LAYOUT.unpack(data[: _LAYOUT.size])
        prefix = cls(Section(*fields[:3]), Section(*fields[3:6]), Section(fields[6], fields[8], fields[7]))
        if prefix.to_bytes() != bytes(data[:ALIGN]):
            raise ValueError("is damaged in its first 64 bytes.")
        ends = (prefix.header.offset + prefix.header.size, prefix.plan.offset + prefix.plan.size)
        wanted = (ALIGN, padded(ends[0]), padded(ends[1]))
        if (prefix.header.offset, prefix.plan.offset, prefix.constants.offset) != wanted:
            raise ValueError("has sections that do not follow upon each other.")
        return prefix


def join_sections(header: bytes, plan: bytes, constants: bytes | bytearray | memoryview) -> bytes:
    """Return the bytes of a packed file."""
    sections, offset = [], ALIGN
    for data in (header, plan, constants):
        sections.append(Section(offset, len(data), zlib.crc32(data)))
        offset = padded(offset + len(data))
    whole = bytearray(Prefix(*sections).to_bytes())
    for section, data in zip(sections, (header, plan, constants), strict=True):
        whole += bytes(section.offset - len(whole))
        whole += data
    return bytes(whole) + hashlib.sha256(whole).digest()


def padded(size: int) -> int:
    """Return the next multiple of 64."""
    return size + (-size % ALIGN)
