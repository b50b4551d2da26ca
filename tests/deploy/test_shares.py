"""Measurements of a packed network: its operations, and a fresh process that loads it."""

from pathlib import Path

import pytest
import torch

from bnn_lightning.deploy import PackedInfo, kernel_info, load, measure_footprint, pack, save, time_shares
from bnn_lightning.models import create_backbone


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = create_backbone("mlp", num_classes=10, in_channels=1, image_size=8, width=32).eval()
    path = tmp_path_factory.mktemp("packed") / "net.bnn"
    save(pack(network), path, PackedInfo("mlp", in_channels=1, image_size=8))
    return path


def test_every_operation_has_its_kernel(file: Path) -> None:
    shares = time_shares(load(file), torch.rand(2, 1, 8, 8), repeats=2)
    binary = [share for share in shares if share.binary]
    assert binary
    assert {share.kernel for share in binary} == {kernel_info().name}
    assert {share.kernel for share in shares if not share.binary} <= {"torch", kernel_info().name}
    assert all(share.seconds > 0 for share in shares)


def test_a_fresh_process_loads_and_runs_it(file: Path) -> None:
    found = measure_footprint(file)
    assert found.file == file.stat().st_size
    assert 0 < found.before <= found.loaded <= found.peak
    assert min(found.load_seconds, found.first_seconds) > 0


def test_what_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.bnn"
    path.write_bytes(b"nothing")
    with pytest.raises(RuntimeError, match="could not be measured"):
        measure_footprint(path)
