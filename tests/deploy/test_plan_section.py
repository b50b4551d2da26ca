"""Plans as bytes, and the first 64 bytes of a file."""

import ctypes
import dataclasses
import math
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy.format.plan_section import DERIVED_KINDS, PlanSection, flat_fields
from bnn_lightning.deploy.format.prefix import Prefix, join_sections
from bnn_lightning.deploy.kernels.abi import KERNELS
from bnn_lightning.deploy.planner.plan import Address, Count, Derived, Fill, KernelCall, Plan, Region, Size, TorchCall

sizes = st.one_of(st.integers(0, 1 << 12), st.integers(0, (1 << 64) - 1))
numbers = st.one_of(st.integers(-100, 1 << 12), st.integers(-(1 << 63), (1 << 63) - 1))
addresses = st.builds(Address, st.sampled_from(Region), sizes, st.one_of(st.just(0), sizes))
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    ctypes.c_int64: st.one_of(numbers, st.builds(Count, numbers, numbers)),
    ctypes.c_void_p: addresses,
    ctypes.c_float: st.floats(width=32, allow_nan=False),
}


@st.composite
def kernel_calls(draw: st.DrawFn) -> KernelCall:
    kernel = draw(st.sampled_from(list(KERNELS)))
    fields = draw(st.lists(st.sampled_from(flat_fields(kernel)), unique=True))
    return KernelCall(kernel, {name: draw(VALUES[kind]) for name, kind in fields}, draw(st.integers(0, 1 << 20)))


torch_calls = st.builds(
    TorchCall, st.integers(0, 1 << 20), st.dictionaries(st.integers(0, 1 << 20), addresses, max_size=3), addresses
)
fills = st.builds(Fill, addresses, st.builds(Count, sizes, sizes), st.binary(min_size=1, max_size=9))
derived = st.builds(
    Derived,
    st.sampled_from(DERIVED_KINDS),
    addresses,
    addresses,
    st.lists(st.integers(0, (1 << 32) - 1), max_size=5).map(tuple),
)
sides = st.integers(1, 512)
plans = st.builds(
    Plan,
    calls=st.lists(st.one_of(kernel_calls(), torch_calls), max_size=4).map(tuple),
    constants=st.just(b"constants"),
    derived=st.lists(derived, max_size=3).map(tuple),
    derived_size=sizes,
    arena=st.builds(Size, sizes, sizes),
    signs=st.builds(Size, sizes, sizes),
    fills=st.lists(fills, max_size=3).map(tuple),
    in_shape=st.tuples(st.sampled_from([1, 3]), sides, sides),
    takes_bytes=st.booleans(),
    num_classes=st.just(2),
)


@settings(max_examples=60, deadline=None)
@given(plans, st.text(max_size=9), st.sampled_from([(), ("a", "Ω")]), st.booleans(), st.booleans())
def test_sections_are_read_as_they_were_written(
    plan: Plan, name: str, names: tuple[str, ...], pictures: bool, both: bool
) -> None:
    channels, height, width = plan.in_shape
    preparation = Preparation(size=(height, width), channels=channels, resize=(height + 3, width)) if pictures else None
    other = dataclasses.replace(plan, takes_bytes=not plan.takes_bytes, calls=plan.calls[:1])
    operations = {call.node: f"aten.{call.node}" for call in plan.calls if isinstance(call, TorchCall)}
    made = PlanSection((plan, other) if both else (plan,), name, names, preparation, operations)
    data = made.to_bytes()
    assert PlanSection.from_bytes(data, b"constants") == made
    for short in (data[:-1], data + b"\0", data[: len(data) // 2]):
        with pytest.raises(ValueError):
            PlanSection.from_bytes(short, b"constants")


def small(**changes: Any) -> Plan:
    plan = Plan((), b"", (), 0, Size(), Size(), (), (1, 2, 3), False, 2)
    return dataclasses.replace(plan, **changes)


@pytest.mark.parametrize(
    "plans",
    [
        (small(), small()),
        (small(), small(takes_bytes=True, num_classes=3)),
        (small(calls=(KernelCall("pad", {"out": 3}),)),),
        (small(calls=(KernelCall("pad", {"pixels": 0.5}),)),),
    ],
)
def test_what_does_not_belong_together_is_refused(plans: tuple[Plan, ...]) -> None:
    with pytest.raises(ValueError):
        PlanSection(plans).to_bytes()


def test_bytes_are_those_of_the_description() -> None:
    call = KernelCall("pad", {"pixels": Count(0, 6), "channels": 3, "out": Address(Region.ARENA, 64, 128)}, 7)
    data = PlanSection((small(calls=(call,)),), "n", ("a", "b")).to_bytes()
    of_call = struct.pack("<HHI", 7, 3, 7) + struct.pack("<BBii", 0, 2, 0, 6) + struct.pack("<BBi", 1, 0, 3)
    assert data.endswith(struct.pack("<I", 1) + of_call + struct.pack("<BBII", 4, 32 + 2, 64, 128))
    assert data[:8] == b"BNNPLAN1"
    assert struct.unpack_from("<4I", data, 12) == (1, 2, 3, 2)
    assert data[28:46] == b"\1\0n\2\0\0\0\1\0a\1\0b" + bytes(5)


def test_infinite_bounds_and_wide_numbers() -> None:
    fields = {"low": -math.inf, "reach": 1 << 40, "images": Count(0, 1 << 33), "x": Address(Region.SIGNS, 1 << 40)}
    section = PlanSection((small(calls=(KernelCall("convolve", fields),)),))
    assert PlanSection.from_bytes(section.to_bytes(), b"") == section


def test_the_first_bytes_say_where_sections_lie() -> None:
    data = join_sections(b"header", b"plan!", bytes(range(70)))
    prefix = Prefix.from_bytes(data)
    for section, content in ((prefix.header, b"header"), (prefix.plan, b"plan!"), (prefix.constants, bytes(range(70)))):
        assert data[section.offset : section.offset + section.size] == content
        assert section.offset % 64 == 0
        assert section.crc == zlib.crc32(content)
    assert prefix.file_size == len(data)


@pytest.mark.parametrize("at", range(64))
def test_no_bit_of_the_first_bytes_may_change(at: int) -> None:
    data = bytearray(join_sections(b"header", b"plan!", bytes(70)))
    data[at] ^= 1 << at % 8
    with pytest.raises(ValueError):
        Prefix.from_bytes(data)


def test_an_older_version_names_the_command_that_makes_it_anew() -> None:
    data = bytearray(join_sections(b"header", b"", b""))
    data[7] = 3
    with pytest.raises(ValueError, match=r"bnn export ckpt=\.\.\. out="):
        Prefix.from_bytes(data)
