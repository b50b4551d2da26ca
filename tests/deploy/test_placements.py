"""Constants of a graph in the section of a plan: what is noted of their layout gives them back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.format.layouts import from_layout, stored_form
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.planner.planner import make_plans
from bnn_lightning.models import create_backbone

LAYOUTS = [("resnet20", 32, {"bits", "blocked", "dense", "words"}), ("mlp", 8, {"bits", "dense", "words"})]


@pytest.mark.parametrize(("name", "size", "found"), LAYOUTS)
def test_constants_come_back_from_the_section(name: str, size: int, found: set[str], tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"width": 32} if name == "mlp" else {}
    network = create_backbone(name, num_classes=10, image_size=size, **options).eval()
    save(pack(network), tmp_path / "net.bnn", PackedInfo(name, 3, size))
    loaded, section = load(tmp_path / "net.bnn"), ConstantSection()
    make_plans(loaded.graph, types_of(loaded.graph, (3, size, size)), section)
    layouts = set()
    for index, placement in section.placements.items():
        constant = loaded.graph.constants[index]
        kind, shape = stored_form(placement.layout, constant.dtype, constant.shape, placement.groups)
        size = int(np.prod(shape)) * np.dtype(kind).itemsize
        raw = np.frombuffer(bytes(section.data[placement.offset : placement.offset + size]), kind).reshape(shape)
        values = from_layout(raw, placement.layout, constant.shape, placement.groups)
        assert np.array_equal(values, constant.array)
        layouts.add(placement.layout)
    assert layouts == found
