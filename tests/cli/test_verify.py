"""`bnn verify` checks every byte of a packed file."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bnn_lightning
from bnn_lightning.deploy.format.container import container_bytes, read_container
from bnn_lightning.deploy.format.packed_file import constants_of
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.zoo import packed_file

Bnn = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(packed_file("zoo:digits_mlp"), "net.bnn")
    return tmp_path / "net.bnn"


def test_a_whole_file(file: Path, bnn: Bnn) -> None:
    done = bnn("verify", "packed=net.bnn")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 1
    assert done.out.startswith("net.bnn: whole")
    assert f"{file.stat().st_size:,} bytes" in done.out


def test_a_name_that_is_too_long(bnn: Bnn) -> None:
    done = bnn("verify", f"packed={'x' * 300}")
    assert done.code == 2
    with pytest.raises(UserError):
        bnn_lightning.verify("x" * 300)


@pytest.mark.parametrize("place", [3, 70, 20_000, -1])
def test_a_flipped_bit(file: Path, place: int, bnn: Bnn) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)
    done = bnn("verify", "packed=net.bnn")
    assert done.code != 0
    assert "net.bnn" in done.err


def test_a_graph_that_lies(file: Path, bnn: Bnn) -> None:
    container = read_container(file)
    container.header["graph"][-1][1][0] = 0
    file.write_bytes(container_bytes(container.header, constants_of(container))[0])
    done = bnn("verify", "packed=net.bnn")
    assert done.code != 0
    assert "`linear`" in done.err


def test_a_plan_that_lies(file: Path, bnn: Bnn) -> None:
    container = read_container(file)
    file.write_bytes(container_bytes(container.header, constants_of(container), plan=b"BNNPLAN?")[0])
    done = bnn("verify", "packed=net.bnn")
    assert done.code != 0
    assert "plan" in done.err


def test_no_file(file: Path, bnn: Bnn) -> None:
    done = bnn("verify", "packed=other.bnn")
    assert done.code != 0
    assert "other.bnn" in done.err
