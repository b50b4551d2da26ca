"""Packed files: every bit is checked, and to read one needs numpy alone."""

import ast
import dataclasses
import hashlib
import importlib
import json
import lzma
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnn_lightning.deploy.format.container import PackedFileError, container_bytes, read_container
from bnn_lightning.deploy.format.layouts import LAYOUTS, from_layout, stored_form, to_layout
from bnn_lightning.deploy.format.packed_file import write_container
from bnn_lightning.deploy.format.prefix import DIGEST, Prefix, join_sections
from bnn_lightning.deploy.ir.graph import Constant
from bnn_lightning.deploy.runtime import native
from bnn_lightning.functional.pack import pack_weight

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
    assert data[:8] == b"BNNPACK\x04"
    header, size, crc, plan, plan_size, plan_crc, begin, constants_crc, num_data = struct.unpack("<8IQ", data[8:48])
    assert (header, plan_size, plan_crc) == (64, 0, 0)
    assert zlib.crc32(data[64 : 64 + size]) == crc
    assert plan == begin == -(-(64 + size) // 64) * 64
    assert len(data) == begin + num_data + 32
    assert zlib.crc32(data[begin : begin + num_data]) == constants_crc
    assert zlib.crc32(data[:60]) == int.from_bytes(data[60:64], "little")
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    bits = int.from_bytes(data[begin : begin + 14], "little")
    assert [1 if bits >> i & 1 else -1 for i in range(SIGNS.size)] == SIGNS.flatten().tolist()
    assert np.frombuffer(data[begin + 64 : begin + 64 + 44], "<f4").tolist() == FLOATS.tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_are_undone(layout: str) -> None:
    r = np.random.default_rng(0)
    for outputs, inputs, groups in ((1, 1, 1), (16, 32, 1), (6, 33, 2), (48, 64, 3), (20, 70, 4)):
        shape = (outputs, inputs, 3, 2)
        dtype = {"bits": "bits", "words": "bits", "quads": "i8"}.get(layout, "f32")
        floats = r.standard_normal(shape).astype(np.float32)
        whole = r.integers(-128, 128, shape, np.int8)
        values = {"bits": r.choice([-1, 1], shape), "i8": whole}.get(dtype, floats)
        stored = to_layout(values, layout, dtype, groups)
        assert stored.shape == stored_form(layout, dtype, shape, groups)[1]
        np.testing.assert_array_equal(from_layout(stored, layout, shape, groups), values)


def test_layouts_are_those_of_kernels() -> None:
    signs = torch.where(torch.randn(36, 40, 3, 3) < 0, -1.0, 1.0)
    words = to_layout(signs.numpy(), "words", "bits", 2)
    np.testing.assert_array_equal(words.view(np.int32), pack_weight(signs, groups=2).numpy())
    blocks = to_layout(signs.numpy(), "blocked", "f32")
    rows = (
        torch.nn.functional.pad(signs.permute(0, 2, 3, 1).flatten(1), (0, 0, 0, 12))
        .unflatten(0, (3, 16))
        .transpose(1, 2)
    )
    np.testing.assert_array_equal(blocks, rows.numpy())


def test_constants_lie_where_plans_read_them() -> None:
    weight = np.arange(40, dtype=np.float32).reshape(20, 2)
    section = bytes(64) + to_layout(weight, "blocked", "f32").tobytes()
    constants = [Constant.of("a", "f32", FLOATS), Constant.of("w", "f32", weight)]
    data, _ = container_bytes({}, constants, placed={1: (64, "blocked", 1)}, section=section, plan=b"plan")
    container = read_container(data, whole=True)
    assert bytes(container.plan) == b"plan"
    assert bytes(container.data[: len(section)]) == section
    np.testing.assert_array_equal(container.array(1), weight)
    np.testing.assert_array_equal(container.array(0), FLOATS)


def test_two_constants_of_one_name_are_not_written() -> None:
    with pytest.raises(ValueError, match="`a`"):
        container_bytes({}, [Constant.of("a", "f32", FLOATS), Constant.of("a", "f32", FLOATS)])


def test_every_flipped_bit_is_noticed(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for place in range(len(data)):
        bit = 1 << place % 8
        data[place] ^= bit
        with pytest.raises(PackedFileError):
            read_container(bytes(data), whole=place >= len(data) - DIGEST)
        data[place] ^= bit
    read_container(bytes(data), whole=True)


def test_every_truncation_is_noticed(file: Path) -> None:
    data = file.read_bytes()
    for length in range(len(data)):
        with pytest.raises(PackedFileError):
            read_container(data[:length])
    with pytest.raises(PackedFileError, match="truncated, or something follows"):
        read_container(data + b"\0")


@pytest.mark.parametrize("version", [1, 2, 3, 5])
def test_other_versions_are_refused_with_the_command_that_makes_them_anew(version: int, file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[7] = version
    again = rf"version {version} .* bnn export ckpt=\.\.\. out=\.\.\."
    for kind, read in ((PackedFileError, read_container), (native.RuntimeFileError, native.Network)):
        with pytest.raises(kind, match=again) as refused:
            read(bytes(data))
        assert ("newer" in str(refused.value)) == (version == 5)


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_bytes_are_read_or_refused(file: Path, data: st.DataObject) -> None:
    whole = bytearray(file.read_bytes())
    start = data.draw(st.integers(0, len(whole)))
    whole[start : start + data.draw(st.integers(0, 40))] = data.draw(st.binary(max_size=40))
    if bytes(whole) != file.read_bytes():
        with pytest.raises(PackedFileError):
            read_container(bytes(whole), whole=True)


@pytest.mark.parametrize(
    "table",
    [
        None,
        [["a", "f64", [1], 0, "dense", 1]],
        [["a", "f32", [-1], 0, "dense", 1]],
        [["a", "f32", [1 << 60], 0, "dense", 1]],
        [["a", "f32", [True], 0, "dense", 1]],
        [["a", "f32", [1] * 9, 0, "dense", 1]],
        [["a", "f32", [16], 0, "dense", 1, 0]],
        [["a", "f32", [16]]],
        [["a", "f32", [33], 0, "dense", 1]],
        [["a", "f32", [16], 128, "dense", 1]],
        [["a", "f32", [1], 4, "dense", 1]],
        [["a", "f32", [1], -64, "dense", 1]],
        [["a", "f32", [16], 0, "bits", 1]],
        [["a", "bits", [16], 0, "dense", 1]],
        [["a", "bits", [16], 0, "words", 1]],
        [["a", "bits", [6, 1, 1, 1], 0, "words", 4]],
        [["a", "bits", [6, 1, 1, 1], 0, "words", 0]],
        [["a", "f32", [16], 0, "blocked", 1]],
        [["a", "f32", [3, 3], 0, "blocked", 1]],
        [["a", "f32", [16], 0, "rows", 1]],
        [["a", "f32", [16], 0, "dense", 1], ["a", "f32", [16], 64, "dense", 1]],
        [[str(number), "f32", [32], 0, "dense", 1] for number in range(10_000)],
    ],
)
def test_a_table_that_lies_is_refused(table: object) -> None:
    with pytest.raises(PackedFileError, match="table of constants"):
        read_container(forged(table))


def forged(table: object, **compression: Any) -> bytes:
    """Return a file whose checksums hold, with another table."""
    text = lzma.compress(json.dumps({"constants": table}).encode(), **compression)
    return join_sections(text, b"", bytes(128))


def test_sections_elsewhere_are_refused() -> None:
    data = bytearray(forged([]))
    prefix = Prefix.from_bytes(data)
    for section in ("header", "plan", "constants"):
        moved = dataclasses.replace(getattr(prefix, section), offset=getattr(prefix, section).offset + 64)
        data[:64] = dataclasses.replace(prefix, **{section: moved}).to_bytes()
        with pytest.raises(PackedFileError, match="do not follow"):
            read_container(bytes(data))


def test_a_header_that_inflates_without_end_is_refused() -> None:
    with pytest.raises(PackedFileError, match="at most"):
        read_container(join_sections(lzma.compress(b" " * (1 << 25), preset=1), b"", b""))


def test_a_header_that_wants_memory_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 29}]
    with pytest.raises(PackedFileError, match="header cannot be read"):
        read_container(forged([], filters=filters))


def test_an_older_file_stays_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "net.bnn"
    write_container(path, {"a": 1}, [])
    with pytest.raises((TypeError, ValueError)):
        write_container(path, {"a": object()}, [])
    with pytest.raises(ValueError, match="dtype of `x`"):
        write_container(path, {}, [Constant.of("x", "f64", FLOATS)])
    assert read_container(path).header == {"a": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["net.bnn"]


@pytest.mark.parametrize("name", ["container", "info", "layouts", "prefix"])
def test_files_that_another_distribution_takes_import_no_package_of_ours(name: str) -> None:
    tree = ast.parse(Path(importlib.import_module(f"bnn_lightning.deploy.format.{name}").__file__ or "").read_text())
    names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    froms = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    packages = {module.partition(".")[0] for module in names | froms}
    assert packages <= sys.stdlib_module_names | {"numpy"}


def test_reading_needs_numpy_alone(file: Path) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'pytorch_lightning', 'hydra', 'omegaconf'): sys.modules[name] = None\n"
        "from bnn_lightning.deploy.format.container import read_container\n"
        "from bnn_lightning.deploy.format.packed_file import graph_of\n"
        "from bnn_lightning.deploy.ir.shapes import types_of\n"
        f"container = read_container({str(file)!r})\n"
        "print(container.header['name'], container.array(0).sum())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["net", str(SIGNS.sum())]
