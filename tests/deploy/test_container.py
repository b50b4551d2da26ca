"""Packed files: every bit is checked, and to read one needs numpy alone."""

import lzma
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnn_lightning.deploy.format.container import VERSION, PackedFileError, read_container, write_container
from bnn_lightning.deploy.ir.graph import Constant

SIGNS = np.where(np.arange(3 * 5 * 7) % 3 == 0, 1, -1).reshape(3, 5, 7)
FLOATS = np.linspace(-1, 1, 11, dtype=np.float32)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "net.bnn"
    constants = [("signs", "bits", SIGNS), ("scale", "f32", FLOATS), ("none", "f32", np.zeros((0, 4), np.float32))]
    header = {"name": "net", "list": [1, 2.5, None, "ä"]}
    write_container(path, header, [Constant.of(*constant) for constant in constants])
    return path


def test_what_was_written_is_read(file: Path) -> None:
    container = read_container(file)
    assert container.header == {"name": "net", "list": [1, 2.5, None, "ä"]}
    assert [(entry.name, entry.dtype, entry.shape) for entry in container.entries] == [
        ("signs", "bits", (3, 5, 7)),
        ("scale", "f32", (11,)),
        ("none", "f32", (0, 4)),
    ]
    np.testing.assert_array_equal(container.array(0), SIGNS)
    np.testing.assert_array_equal(container.array(1), FLOATS)
    assert container.entries[0].num_bytes == -(-SIGNS.size // 8)
    assert all(entry.offset % 64 == 0 for entry in container.entries)


def test_the_layout_is_the_documented_one(file: Path) -> None:
    data = file.read_bytes()
    length, crc, num_data = struct.unpack("<IIQ", data[8:24])
    assert data[:8] == b"BNNPACK\x04"
    assert zlib.crc32(data[64 : 64 + length]) == crc
    begin = -(-(64 + length) // 64) * 64
    assert len(data) == begin + num_data
    bits = int.from_bytes(data[begin : begin + 14], "little")
    assert [1 if bits >> i & 1 else -1 for i in range(SIGNS.size)] == SIGNS.flatten().tolist()
    assert np.frombuffer(data[begin + 64 : begin + 64 + 44], "<f4").tolist() == FLOATS.tolist()


def test_every_flipped_bit_is_noticed(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for place in range(len(data)):
        bit = 1 << place % 8
        data[place] ^= bit
        with pytest.raises(PackedFileError):
            read_container(bytes(data))
        data[place] ^= bit
    read_container(bytes(data))


def test_every_truncation_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    for length in range(len(data)):
        with pytest.raises(PackedFileError):
            read_container(data[:length])
    with pytest.raises(PackedFileError, match="truncated, or something follows"):
        read_container(data + b"\0")


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_are_read_or_refused(file: Path, data: st.DataObject) -> None:
    whole = bytearray(file.read_bytes())
    start = data.draw(st.integers(0, len(whole)))
    whole[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    if bytes(whole) != file.read_bytes():
        with pytest.raises(PackedFileError):
            read_container(bytes(whole))


@pytest.mark.parametrize(
    "table",
    [
        None,
        [["a", "bits", [3]]],  # the signs need 14 bytes, and there are more
        [["a", "f64", [1]]],
        [["a", "f32", [-1]]],
        [["a", "f32", [1 << 60]]],
        [["a", "f32", [True]]],
        [["a", "f32", [1] * 9]],
        [["a", "f32", [16], 0]],
        [["a", "f32", [16]]],
        [["a", "f32", [16]], ["a", "f32", [16]]],
    ],
)
def test_a_table_that_lies_is_refused(file: Path, table: object) -> None:
    with pytest.raises(PackedFileError, match="table of tensors"):
        read_container(forged(file, table))


def forged(file: Path, table: object, **compression: Any) -> bytes:
    """Return a file whose checksums hold, with another table."""
    import hashlib
    import json

    data = bytes(128)
    text = lzma.compress(json.dumps({"tensors": table}).encode(), **compression)
    prefix = struct.pack(
        "<7sBIIQ32s", b"BNNPACK", VERSION, len(text), zlib.crc32(text), len(data), hashlib.sha256(data).digest()
    )
    start = prefix + struct.pack("<II", zlib.crc32(prefix), 0) + text
    return start + bytes(-len(start) % 64) + data


def test_a_header_that_inflates_without_end_is_refused() -> None:
    text = lzma.compress(b" " * (1 << 25), preset=1)
    prefix = struct.pack("<7sBIIQ32s", b"BNNPACK", VERSION, len(text), zlib.crc32(text), 0, bytes(32))
    import hashlib

    prefix = prefix[:24] + hashlib.sha256(b"").digest()
    start = prefix + struct.pack("<II", zlib.crc32(prefix), 0) + text
    with pytest.raises(PackedFileError, match="at most"):
        read_container(start + bytes(-len(start) % 64))


def test_a_header_that_wants_memory_is_refused(file: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 29}]
    with pytest.raises(PackedFileError, match="header cannot be read"):
        read_container(forged(file, [], filters=filters))


def test_an_older_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "net.bnn"
    write_container(path, {"a": 1}, [])
    with pytest.raises((TypeError, ValueError)):
        write_container(path, {"a": object()}, [])
    with pytest.raises(ValueError, match="dtype of `x`"):
        write_container(path, {}, [Constant.of("x", "f64", FLOATS)])
    assert read_container(path).header == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["net.bnn"]


def test_reading_needs_numpy_alone(file: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'pytorch_lightning', 'hydra', 'omegaconf'): sys.modules[name] = None\n"
        "from bnn_lightning.deploy.format.container import read_container\n"
        "from bnn_lightning.deploy.ir.graph import Graph\n"
        f"container = read_container({str(file)!r})\n"
        "print(container.header['name'], container.array(0).sum())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["net", str(SIGNS.sum())]
