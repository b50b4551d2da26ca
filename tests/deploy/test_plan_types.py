"""The plan's plain types: addresses and counts that grow with the number of images."""

import pytest

from bnn_lightning.deploy.planner.plan import Address, Count, KernelCall, Plan, Region, Size, TorchCall


@pytest.mark.parametrize("images", [0, 1, 7])
def test_addresses_counts_and_sizes_are_affine_in_the_number_of_images(images: int) -> None:
    assert Address(Region.ARENA, 64, 128).at(images) == 64 + 128 * images
    assert Count(3, 5).at(images) == 3 + 5 * images
    assert Size(64, 12).at(images) == 64 + 12 * images


def test_an_address_moves_by_bytes_and_keeps_its_growth() -> None:
    assert Address(Region.SIGNS, 64, 128) + 32 == Address(Region.SIGNS, 96, 128)


def test_regions_keep_the_numbers_that_files_hold() -> None:
    names = ["CONSTANTS", "DERIVED", "ARENA", "SIGNS", "INPUT", "OUTPUT"]
    assert [(region.name, region.value) for region in Region] == [(name, place) for place, name in enumerate(names)]


def test_a_plan_names_the_nodes_that_torch_computes() -> None:
    here = Address(Region.ARENA)
    calls = (KernelCall("pad", {"pixels": Count(0, 4)}, 1), TorchCall(2, {1: here}, here), KernelCall("pool", {}, 3))
    plan = Plan(calls, b"", (), 0, Size(), Size(), (), (1, 2, 2), takes_bytes=False, num_classes=2)
    assert plan.torch_nodes == (2,)
