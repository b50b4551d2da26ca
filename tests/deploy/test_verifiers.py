"""The verifiers of plans in C and in Python refuse the same calls."""

import ctypes
import dataclasses
import random
from collections.abc import Iterator
from typing import Any, TypeGuard

import pytest
import torch
from torch import nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import pack
from bnn_lightning.deploy.format.plan_section import PlanSection, flat_fields
from bnn_lightning.deploy.format.prefix import join_sections
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.kernels.abi import KERNELS
from bnn_lightning.deploy.kernels.verify import CallError
from bnn_lightning.deploy.planner.check import verify_plan
from bnn_lightning.deploy.planner.plan import Address, Count, Derived, Field, Fill, KernelCall, Plan, Region, Size
from bnn_lightning.deploy.runtime import native
from bnn_lightning.layers import BinaryConv2d
from tools.drawn import drawn_graph

pytestmark = pytest.mark.skipif(not native.LIBRARY.exists(), reason="needs the compiled library")
# Rules that C alone has: what it reads has sizes that no network has.
OF_C = ("beyond any network",)
ODD = (-3, -1, 0, 1, 2, 15, 16, 17, 33, 64, 1000, 1 << 20)


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    """Kernel calls of drawn graphs: what torch computes between them is left out."""
    networks = [drawn_graph(seed)[0] for seed in range(12)]
    found = [one.plan(takes_bytes=bool(i % 2)) for i, one in enumerate(networks) if one.is_planned]
    kernels = [tuple(call for call in plan.calls if isinstance(call, KernelCall)) for plan in found]
    return [dataclasses.replace(plan, calls=calls) for plan, calls in zip(found, kernels, strict=True) if calls]


def refused_in_c(plan: Plan) -> str:
    try:
        native.load(join_sections(b"{}", PlanSection((plan,)).to_bytes(), plan.constants))
    except native.RuntimeFileError as error:
        return str(error)
    return ""


def refused_in_python(plan: Plan) -> str:
    try:
        verify_plan(plan, native.MOST_IMAGES)
    except CallError as error:
        return str(error)
    return ""


def changed(r: random.Random, value: Field) -> Field:
    match value:
        case Address():
            step = r.choice([-4096, -64, -4, 4, 64, 4096, 1 << 20])
            kind = r.randrange(3)
            region = r.choice(list(Region)) if kind == 0 else value.region
            offset = max(0, value.offset + step) if kind == 1 else value.offset
            return Address(region, offset, max(0, value.per_image + step) if kind == 2 else value.per_image)
        case Count():
            return Count(value.fixed, max(0, value.per_image + r.choice([-1, 1, 7])))
        case int():
            return r.choice([*ODD, value + 1, value - 1, 2 * value])
    return value


def lies(plans: list[Plan], count: int) -> Iterator[Plan]:
    """Plans with one field of one call changed, added or left out."""
    r = random.Random(0)
    for _ in range(count):
        plan = r.choice(plans)
        at = r.randrange(len(plan.calls))
        call = plan.calls[at]
        assert isinstance(call, KernelCall)
        fields = dict(call.fields)
        name = r.choice(list(fields))
        if r.random() < 0.1:
            del fields[name]
        elif r.random() < 0.1:
            name = r.choice([field for field, _ in flat_fields(call.kernel)])
            fields[name] = r.choice(list(fields.values())) if name not in fields else fields[name]
        else:
            fields[name] = changed(r, fields[name])
        calls = (*plan.calls[:at], dataclasses.replace(call, fields=fields), *plan.calls[at + 1 :])
        yield dataclasses.replace(plan, calls=calls)


def test_plans_of_networks_are_accepted(plans: list[Plan]) -> None:
    assert len(plans) > 6
    for plan in plans:
        assert refused_in_c(plan) == refused_in_python(plan) == ""


def test_both_refuse_the_same(plans: list[Plan]) -> None:
    refused = 0
    for plan in lies(plans, 600):
        try:
            in_c, in_python = refused_in_c(plan), refused_in_python(plan)
        except ValueError:  # a field of another type: there are no bytes for it
            continue
        refused += bool(in_c)
        assert bool(in_c) == bool(in_python) or any(rule in in_c for rule in OF_C), (in_c, in_python)
    assert refused > 150


def odd_values(plan: Plan, kind: object) -> list[Field]:
    """Values that a field of a valid call is changed to, one after the other."""
    if kind is ctypes.c_void_p:
        last = len(plan.constants) // 64 * 64 - 4
        places = [(Region.CONSTANTS, last), (Region.OUTPUT, 1 << 40), (Region.ARENA, 2), *((one, 0) for one in Region)]
        return [Address(*place) for place in places]
    counts = [Count(1, 1), Count(0, 1), Count(0, 3)]
    return [*ODD, 3, 1 << 29, 1 << 31, *counts] if kind is ctypes.c_int64 else []


@pytest.fixture(scope="module")
def calls(plans: list[Plan]) -> dict[str, tuple[Plan, KernelCall]]:
    """Return a valid call of each kernel, and its plan."""
    torch.manual_seed(0)
    binary: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}
    layers = [nn.Conv2d(4, 32, 3, groups=2), BinaryConv2d(32, 5, 2, **binary), nn.Flatten(), nn.Softmax(1)]
    network = pack(nn.Sequential(*layers).eval(), torch.rand(2, 4, 4, 4)).program()
    assert network is not None
    return {
        call.kernel: (plan, call)
        for plan in (network.plan(), *plans)
        for call in plan.calls
        if isinstance(call, KernelCall)
    }


@pytest.mark.parametrize("kernel", KERNELS)
def test_both_have_the_same_rules_for_every_field(calls: dict[str, tuple[Plan, KernelCall]], kernel: str) -> None:
    plan, call = calls[kernel]
    refused = 0
    for name, kind in flat_fields(kernel):
        for value in (None, *odd_values(plan, kind)):
            fields = {key: item for key, item in call.fields.items() if key != name}
            lie = dataclasses.replace(call, fields=fields if value is None else fields | {name: value})
            changed_plan = dataclasses.replace(plan, calls=(lie,))
            in_c, in_python = refused_in_c(changed_plan), refused_in_python(changed_plan)
            assert bool(in_c) == bool(in_python), (name, value, in_c, in_python)
            refused += bool(in_c)
    assert refused > 20


@pytest.mark.parametrize("kernel", ["layer_norm", "linear", "softmax"])
def test_calls_without_rows_are_refused(calls: dict[str, tuple[Plan, KernelCall]], kernel: str) -> None:
    plan, call = calls[kernel]
    lie = dataclasses.replace(plan, calls=(dataclasses.replace(call, fields={**call.fields, "rows": 0}),))
    assert refused_in_c(lie)
    assert "rows" in refused_in_python(lie)


@pytest.mark.parametrize("field", ["sum_0", "size_0"])
def test_no_call_reads_one_element_again_and_again(calls: dict[str, tuple[Plan, KernelCall]], field: str) -> None:
    plan, call = calls["reduce"]
    fields = {**call.fields, field: 1 << 28, "by_0": 0, "x_0": 0, "out": Address(Region.ARENA)}
    arena = dataclasses.replace(plan.arena, fixed=1 << 31)
    lie = dataclasses.replace(plan, arena=arena, calls=(dataclasses.replace(call, fields=fields),))
    assert "more elements" in refused_in_c(lie)
    assert "more elements" in refused_in_python(lie)


@pytest.mark.parametrize(("size", "pattern", "valid"), [(64, 4, True), (62, 4, False), (64, 0, False), (128, 4, False)])
def test_both_refuse_fills_that_are_no_whole_patterns(plans: list[Plan], size: int, pattern: int, valid: bool) -> None:
    fills = (Fill(Address(Region.SIGNS), Count(size), b"\1" * pattern),)
    plan = dataclasses.replace(plans[0], calls=(), signs=Size(64), fills=fills)
    assert (not refused_in_c(plan), not refused_in_python(plan)) == (valid, valid)


@pytest.mark.parametrize("name", EPILOGUE)
def test_both_refuse_values_of_channels_elsewhere(plans: list[Plan], name: str) -> None:
    plan, call = next((plan, call) for plan in plans for call in plan.calls if is_convolution(call))
    for address in (Address(Region.CONSTANTS, len(plan.constants) - 4), Address(Region.OUTPUT, 1 << 40)):
        lie = dataclasses.replace(call, fields={**call.fields, name: address})
        changed_plan = dataclasses.replace(plan, calls=tuple(lie if one is call else one for one in plan.calls))
        assert refused_in_c(changed_plan)
        assert name in refused_in_python(changed_plan)


def is_convolution(call: object) -> TypeGuard[KernelCall]:
    return isinstance(call, KernelCall) and call.kernel == "convolve"


FIRST, BEHIND = Address(Region.DERIVED), Address(Region.DERIVED, 64)
SOURCE, WIDE = Address(Region.CONSTANTS), (1, 16, 1 << 15, 1)  # 2^19 signs, 64 KiB
SIGNS = Derived("signs", SOURCE, FIRST, (1, 16, 32, 1))
SUMS = Derived("tap_sums", FIRST, BEHIND, SIGNS.arguments)
FLOATS = Derived("blocked_floats", SOURCE, FIRST, (1, 16, 2, 1, 1, 1))


def many(kind: str, source: Address, count: int) -> tuple[Derived, ...]:
    """Results of 64 KiB and less, one after the other, behind the signs that all read."""
    places = [Address(Region.DERIVED, (at + 1) << 16) for at in range(count)]
    return (Derived("signs", SOURCE, FIRST, WIDE), *(Derived(kind, source, place, WIDE) for place in places))


def single_outputs(count: int) -> tuple[Derived, ...]:
    """Weights of as many groups as constants have bytes, each of which has a block of its own."""
    places = [Address(Region.DERIVED, at << 20) for at in range(count)]
    return tuple(Derived("blocked_bytes", SOURCE, place, (1 << 16, 1, 1, 1)) for place in places)


@pytest.mark.parametrize(
    ("derived", "holds"),
    [
        ((SIGNS, SUMS), True),
        ((FLOATS,), True),
        ((dataclasses.replace(SUMS, source=SOURCE),), True),
        ((SUMS,), False),  # of what nothing has computed yet
        ((SIGNS, dataclasses.replace(SUMS, source=Address(Region.DERIVED, 4))), False),
        *(
            ((SIGNS, Derived(kind, FIRST, BEHIND, (1, 1, 1, 1, *more))), False)
            for kind, more in [
                ("signs", ()),
                ("blocked_bytes", ()),
                *((kind, (0, 0)) for kind in ("blocked_floats", "blocked_signs", "blocked_scaled")),
            ]
        ),
        ((dataclasses.replace(SIGNS, source=Address(Region.ARENA)),), False),
        ((dataclasses.replace(SIGNS, source=Address(Region.CONSTANTS, 0, 4)),), False),
        ((dataclasses.replace(SIGNS, address=Address(Region.DERIVED, 0, 4)),), False),
        ((dataclasses.replace(SIGNS, address=Address(Region.DERIVED, 2)),), False),
        ((dataclasses.replace(SIGNS, address=Address(Region.DERIVED, 1 << 30)),), False),
        ((SIGNS, SIGNS), False),
        ((dataclasses.replace(FLOATS, source=Address(Region.CONSTANTS, 2)),), False),
        ((dataclasses.replace(FLOATS, arguments=(1, 16, 2, 1, 1 << 20, 0)),), False),
        ((dataclasses.replace(FLOATS, arguments=(1, 16, 2, 1, 0, 1 << 20)),), False),
        ((dataclasses.replace(FLOATS, arguments=(1, 16, 2, 1)),), False),
        ((dataclasses.replace(SIGNS, arguments=(1, 0, 32, 1)),), False),
        (single_outputs(2), True),
        (single_outputs(3), False),
        (many("signs", SOURCE, 2), True),
        (many("signs", SOURCE, 3), False),
        (many("tap_sums", FIRST, 100), True),
        (many("tap_sums", FIRST, 200), False),
    ],
)
def test_both_refuse_the_same_derived_constants(plans: list[Plan], derived: tuple[Derived, ...], holds: bool) -> None:
    more: dict[str, Any] = {"constants": bytes(1 << 16), "derived": derived, "derived_size": 1 << 24}
    plan = dataclasses.replace(plans[0], calls=(), fills=(), **more)
    assert bool(refused_in_c(plan)) == bool(refused_in_python(plan)) == (not holds)
