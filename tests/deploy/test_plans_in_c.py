"""Plans of real networks run by the C library: the bits are those of the executor, for floats, bytes and any number."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.format.prefix import join_sections
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.planner.planner import make_plans
from bnn_lightning.deploy.runtime import native
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import settled

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import small_options

pytestmark = pytest.mark.skipif(not kernels.supported_kernels(), reason="needs a compiled kernel")
SIZE = 40


@pytest.mark.parametrize("name", ["mlp", "resnet20", "vgg_small", "bnext_tiny", "birealnet18"])
def test_the_c_library_gives_the_bits_of_the_executor(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    stem = {} if name in ("mlp", "resnet20", "vgg_small") else {"stem": "imagenet"}
    options = small_options(name, width=24, mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3], **stem)
    images = torch.randint(0, 256, (5, 3, SIZE, SIZE), dtype=torch.uint8)
    network = settled(create_backbone(name, num_classes=7, image_size=SIZE, **options), images / 255)
    save(pack(network, images / 255), tmp_path / "net.bnn", PackedInfo(name, 3, SIZE))
    loaded, constants = load(tmp_path / "net.bnn"), ConstantSection()
    plans = make_plans(loaded.graph, types_of(loaded.graph, loaded.info.shape), constants)
    assert [plan.torch_nodes for plan in plans] == [(), ()]
    section = PlanSection(plans, name).to_bytes()
    assert len(section) < 12_000
    in_c = native.load(join_sections(b"{}", section, plans[0].constants))
    for number in (5, 1, 3):
        batch = images[:number]
        assert np.array_equal(in_c(batch.numpy()), loaded(batch).numpy())
        assert np.array_equal(in_c((batch / 255).numpy()), loaded(batch / 255).numpy())
