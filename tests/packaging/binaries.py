"""Libraries for other systems, read as files: their needs, and the names that they export."""

import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Beside libc, libm and threads an engine needs nothing; Windows names its parts of libc one by one.
WINDOWS = re.compile(r"(KERNEL32|msvcrt|api-ms-win-crt-[a-z]+-l1-1-0)\.dll", re.IGNORECASE)


def only_libc_of_windows(data: bytes) -> None:
    """Hold a DLL to what every Windows has."""
    assert all(WINDOWS.fullmatch(name) for name in imported(data)), imported(data)


def only_libc_of_mac(data: bytes, oldest: tuple[int, int]) -> None:
    """Hold a library of macOS to libc, libm and threads (libSystem), and to the oldest system that its wheel names.

    Programs find it by its name wherever it lies, and no path of the build is in it.
    """
    commands = list(_load_commands(data))
    names = [
        (kind, part[struct.unpack_from("<I", part, 8)[0] :].rstrip(b"\0"))
        for kind, part in commands
        if kind in (0xC, 0xD)
    ]
    # LC_LOAD_DYLIB, LC_ID_DYLIB
    assert sorted(names) == [(0xC, b"/usr/lib/libSystem.B.dylib"), (0xD, b"@rpath/libbnn.dylib")]
    builds = [struct.unpack_from("<2I", part, 8) for kind, part in commands if kind == 0x32]  # LC_BUILD_VERSION
    assert [(system, needed >> 16, needed >> 8 & 255) for system, needed in builds] == [(1, *oldest)]


def _load_commands(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 32
    for _ in range(struct.unpack_from("<I", data, 16)[0]):
        kind, size = struct.unpack_from("<2I", data, at)
        yield kind, data[at : at + size]
        at += size


def only_libc_of_linux(data: bytes, path: Path, newest: tuple[int, int] | None) -> None:
    """Hold a library to libc, libm and pthread, and to symbols of glibc that are no newer than its tag.

    Programs find it by its name wherever it lies, and dlclose leaves it where it is.
    """
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    path.write_bytes(data)
    printed = subprocess.run(["readelf", "-dW", "--version-info", path], check=True, capture_output=True, text=True)
    needed = set(re.findall(r"\(NEEDED\).*\[(.*?)\]", printed.stdout))
    plain = re.compile(r"(libc|libm|libpthread|ld-linux[-\w]*|libc\.musl-\w+|libdl)\.so(\.\d+)?")
    assert re.findall(r"\(SONAME\).*\[(.*?)\]", printed.stdout) == ["libbnn.so"]
    assert re.search(r"\(FLAGS_1\).*NODELETE", printed.stdout)
    assert re.search(r"\(FLAGS\).*SYMBOLIC|\(SYMBOLIC\)", printed.stdout)  # another version keeps out
    assert needed
    assert all(plain.fullmatch(name) for name in needed), needed
    versions = [tuple(map(int, found)) for found in re.findall(r"GLIBC_(\d+)\.(\d+)", printed.stdout)]
    assert newest is None or max(versions) <= newest


def directory(data: bytes, number: int) -> int:
    """Return the address of a table of a DLL: 0 exports, 1 imports."""
    header = struct.unpack_from("<I", data, 0x3C)[0] + 24
    return int(struct.unpack_from("<I", data, header + 112 + 8 * number)[0])


def imported(data: bytes) -> list[str]:
    """Return the names of the libraries that a DLL imports."""
    place, names = places(data), []
    for at in range(place(directory(data, 1)), len(data), 20):
        (name,) = struct.unpack_from("<12xI4x", data, at)
        if not name:
            break
        start = place(name)
        names.append(data[start : data.index(b"\0", start)].decode())
    return names


def places(data: bytes) -> Callable[[int], int]:
    """Return what tells where an address of a DLL lies in its file."""
    header = struct.unpack_from("<I", data, 0x3C)[0]
    (count,), (size,) = struct.unpack_from("<H", data, header + 6), struct.unpack_from("<H", data, header + 20)
    sections = [struct.unpack_from("<8xIIII", data, header + 24 + size + 40 * place) for place in range(count)]

    def place(address: int) -> int:
        return next(file + address - begin for _, begin, length, file in sections if begin <= address < begin + length)

    return place


def exported(data: bytes) -> list[bytes]:
    """Return the names that a DLL exports."""
    place = places(data)
    table = place(directory(data, 0))
    (number,), (names,) = struct.unpack_from("<I", data, table + 24), struct.unpack_from("<I", data, table + 32)
    starts = [place(address) for address in struct.unpack_from(f"<{number}I", data, place(names))]
    return [data[start : data.index(b"\0", start)] for start in starts]
