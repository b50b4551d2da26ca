"""Plans of real networks run by the C library: the bits are those of the executor, for floats, bytes and any number."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.plan_section import PlanSection
from bnn_lightning.deploy.format.prefix import join_sections
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.kernels import library as kernels
from bnn_lightning.deploy.kernels.call import Address, KernelCall, Region
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.planner.plan import Plan
from bnn_lightning.deploy.planner.planner import make_plans
from bnn_lightning.deploy.runtime import native
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import settled
from tests.deploy.test_loading import with_plan

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


class SignsOfImages(nn.Module):
    """The images are packed last where they come as floats, and first where they come as bytes."""

    def __init__(self, pad_value: float) -> None:
        super().__init__()
        self.real = nn.Conv2d(3, 40, 3, padding=1)
        self.own, self.images = (
            BinaryConv2d(
                channels,
                16,
                3,
                padding=1,
                input_binarizer=SignSTE(),
                weight_binarizer=WeightSign(),
                pad_value=pad_value,
            )
            for channels in (40, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return (self.own(self.real(x)) + self.images(x)).mean((2, 3))


def with_signs_elsewhere(plan: Plan) -> Plan:
    """Return the plan with all signs 64 bytes later: their padding must not be that of another plan."""

    def moved(field: Any) -> Any:
        is_sign = isinstance(field, Address) and field.region == Region.SIGNS
        return replace(field, offset=field.offset + 64) if is_sign else field

    calls = [
        replace(call, fields={name: moved(field) for name, field in call.fields.items()})
        for call in plan.calls
        if isinstance(call, KernelCall)
    ]
    fills = tuple(replace(fill, address=moved(fill.address)) for fill in plan.fills)
    return replace(plan, calls=tuple(calls), fills=fills, signs=replace(plan.signs, fixed=plan.signs.fixed + 64))


@pytest.mark.parametrize("pad_value", [0.0, -1.0, 1.0])
def test_plans_for_floats_and_bytes_keep_their_padding_apart(pad_value: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, pixels = SignsOfImages(pad_value).eval(), torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    images = pixels / 255
    save(pack(network, images), tmp_path / "net.bnn", PackedInfo("net", 3, 8))
    container = read_container(tmp_path / "net.bnn")
    section = PlanSection.from_bytes(container.plan, container.data)
    section = replace(section, plans=(section.plans[0], with_signs_elsewhere(section.plans[1])))
    data = with_plan((tmp_path / "net.bnn").read_bytes(), section.to_bytes())
    in_c, in_torch = native.load(data), load(data)
    with torch.no_grad():
        wanted = network(images)
    for given in (images, pixels, pixels, images):  # by one context, one after the other
        found = torch.from_numpy(in_c(given.numpy()))
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        assert torch.equal(in_torch(given), found)
