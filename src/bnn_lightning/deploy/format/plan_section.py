"""The plan section of a packed file: plans as bytes that C reads without a parser (runtime/csrc/loader.c).

Numbers are little-endian and follow upon each other without gaps; nothing is compressed.

    header       8 bytes b"BNNPLAN1"; u32 version of the kernels' structures (`abi.VERSION`);
                 u32 channels, height, width of an image; u32 classes; text name of the network
    class names  u32 number (0: unknown, or one a class); texts
    preparation  u8 0: unknown; 1: bilinear, 2: bicubic, and then u32 height, width of the box that a picture covers,
                 u32 black border. The other values of `data.preparation.Preparation` are those of the images.
    derived      u64 bytes of the region; u32 number; for each: u8 kind (a place in `DERIVED_KINDS`), address of the
                 source, address of the result, u8 number of arguments, u32 arguments
    plans        u8 number, 1 or 2: of images as floats, as bytes, or both; and for each:
      images     u8 0: floats, 1: bytes, 2: floats in [0, 1]
      memory     u64 fixed and u64 an image: bytes of the arena, and the same of signs
      fills      u32 number; for each: address, u64 fixed and u64 an image of the size, u16 length of the pattern, bytes
      calls      u32 number; for each:
        of a kernel  u16 kernel (a place in `abi.KERNELS`), u16 number of fields, u32 node; fields
        of torch     u16 65535, u16 number of values that are read, u32 node; text of the operation; address of the
                     result; for each value: u32 number, address
        the same     u16 65534, u16 0, u32 number of a call of a kernel in the first plan: it is the same in the second

    text     u16 bytes, UTF-8
    address  u8 region, and 16 more where offsets are wide; u32 offset and u32 an image, or u64 each where wide
    field    u8 place in the kernel's structure, with structures in it laid flat (`flat_fields`); u8 kind; value:
             kind 0   i32 whole number
             kind 1   i64 whole number
             kind 2   i32 fixed and i32 an image of a whole number
             kind 3   i64 fixed and i64 an image of a whole number
             kind 4   f32 number
             kind 16 + region   address, u32 offset
             kind 32 + region   address, u32 offset and u32 an image
             kind 48 + region   address, u64 offset and u64 an image

Fields that are absent are 0 or point nowhere. Both plans share the constants of the file and what is derived of them.
"""

import ctypes
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeGuard

from bnn_lightning.data.preparation import Interpolation, Preparation
from bnn_lightning.deploy.kernels.abi import KERNELS, VERSION
from bnn_lightning.deploy.kernels.derive import KINDS
from bnn_lightning.deploy.planner.plan import (
    Address,
    Count,
    Derived,
    Field,
    Fill,
    KernelCall,
    Plan,
    Region,
    Size,
    TorchCall,
)

MAGIC = b"BNNPLAN1"
DERIVED_KINDS = tuple(KINDS)
_TORCH, _SAME = 0xFFFF, 0xFFFE
_FLOATS, _BYTES, _UNIT_FLOATS = range(3)  # images of a plan
_WIDE = 16  # of a region
_INT32, _INT64, _COUNT32, _COUNT64, _FLOAT, _OFFSET, _PLACE, _WIDE_PLACE = 0, 1, 2, 3, 4, 16, 32, 48
_INTERPOLATIONS: tuple[Interpolation, ...] = ("bilinear", "bicubic")
_NAMES = tuple(KERNELS)


@dataclass(frozen=True)
class PlanSection:
    """The plans of a network, and what C needs to know beside them.

    Attributes:
        plans: For images as floats, as bytes, or both; they share constants and what is derived.
        name: Name of the network.
        class_names: One a class; empty where they are unknown.
        preparation: Preparation of pictures; None where it is unknown.
        operations: Names of the operations of the nodes that torch computes.
        takes_images: Whether floats are images in [0, 1]; others are of any range.
    """

    plans: tuple[Plan, ...]
    name: str = ""
    class_names: tuple[str, ...] = ()
    preparation: Preparation | None = None
    operations: Mapping[int, str] = field(default_factory=dict)
    takes_images: bool = False

    def to_bytes(self) -> bytes:
        """Return the bytes of the section; constants are a section of their own.

        Raises:
            ValueError: The plans do not belong together, or hold what the section cannot.
        """
        first = self.plans[0]
        shared = [(p.in_shape, p.num_classes, p.derived, p.derived_size) for p in self.plans]
        kinds = [plan.takes_bytes for plan in self.plans]
        if len(set(kinds)) < len(kinds) or any(item != shared[0] for item in shared):
            raise ValueError("Plans of one file must be of one network, and of different types of images.")
        if len(self.class_names) not in (0, first.num_classes):
            raise ValueError(f"There are {len(self.class_names)} names for {first.num_classes} classes.")
        parts = [MAGIC, struct.pack("<5I", VERSION, *first.in_shape, first.num_classes), _text(self.name)]
        parts += [struct.pack("<I", len(self.class_names)), *map(_text, self.class_names), self._preparation()]
        parts += [struct.pack("<QI", first.derived_size, len(first.derived)), *map(_derived, first.derived)]
        parts.append(struct.pack("<B", len(self.plans)))
        for plan in self.plans:
            images = _BYTES if plan.takes_bytes else _UNIT_FLOATS if self.takes_images else _FLOATS
            parts += [struct.pack("<B", images), _plan(plan, first, self.operations)]
        return b"".join(parts)

    def _preparation(self) -> bytes:
        preparation = self.preparation
        if preparation is None:
            return bytes(1)
        channels, *size = self.plans[0].in_shape
        if (preparation.channels, *preparation.size) != (channels, *size):
            raise ValueError(f"`preparation` makes images of another shape than {self.plans[0].in_shape}.")
        kind = 1 + _INTERPOLATIONS.index(preparation.interpolation)
        return struct.pack("<B3I", kind, *preparation.resize, preparation.border)

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, constants: bytes | bytearray | memoryview) -> "PlanSection":
        """Read a section.

        Args:
            data: Bytes of the section.
            constants: Section of constants of the same file.

        Raises:
            ValueError: It is no plan section, or of another version: the error names both, and what to do.
        """
        version = _version_of(data)
        if version != VERSION:
            raise ValueError(
                f"The plan is for version {version} of the kernels, this package has version {VERSION}: "
                f"{'install a newer bnn-lightning, or ' if version > VERSION else ''}"
                "make it anew: bnn export ckpt=... out=..."
            )
        read = _Reader(memoryview(data))
        read.bytes(12)
        *shape, classes = (read.number("I") for _ in range(4))
        name = read.text()
        class_names = tuple(read.text() for _ in range(read.number("I")))
        preparation = read.preparation((shape[0], shape[1], shape[2]))
        derived_size = read.number("Q")
        derived = tuple(read.derived() for _ in range(read.number("I")))
        common = {
            "constants": constants,
            "derived": derived,
            "derived_size": derived_size,
            "in_shape": (shape[0], shape[1], shape[2]),
            "num_classes": classes,
        }
        plans: list[Plan] = []
        for _ in range(read.number("B")):
            plans.append(read.plan(common, plans[0].calls if plans else ()))
        if read.at != len(data) or not plans:
            raise ValueError("The plan section has another length than it says.")
        return cls(tuple(plans), name, class_names, preparation, read.operations, read.takes_images)


def is_current(data: bytes | memoryview) -> bool:
    """Whether a plan section is there, and of the kernels' version; others are planned again.

    Raises:
        ValueError: It is no plan section.
    """
    return len(data) > 0 and _version_of(data) == VERSION


def _version_of(data: bytes | memoryview) -> int:
    if bytes(data[:8]) != MAGIC or len(data) < 12:
        raise ValueError("It is no plan section.")
    version: int = struct.unpack("<I", data[8:12])[0]
    return version


@cache
def flat_fields(kernel: str) -> tuple[tuple[str, Any], ...]:
    """Return name and type of the fields of a kernel's structure, with those of structures in it in their place.

    Example:
        >>> [name for name, _ in flat_fields("pad")]
        ['pixels', 'channels', 'first', 'inner', 'out']
        >>> flat_fields("pool")[3][0]
        'windows.height'
    """

    def flat(structure: Any, prefix: str) -> list[tuple[str, Any]]:
        fields: list[tuple[str, Any]] = []
        for name, kind in structure._fields_:
            inner = issubclass(kind, ctypes.Structure)
            fields += flat(kind, f"{prefix}{name}.") if inner else [(prefix + name, kind)]
        return fields

    return tuple(flat(KERNELS[kernel], ""))


@cache
def _places(kernel: str) -> dict[str, int]:
    return {name: place for place, (name, _) in enumerate(flat_fields(kernel))}


def _text(text: str) -> bytes:
    data = text.encode("utf-8")
    return struct.pack("<H", len(data)) + data


def _address(address: Address) -> bytes:
    wide = max(address.offset, address.per_image) >= 1 << 32
    return struct.pack("<BQQ" if wide else "<BII", address.region + _WIDE * wide, address.offset, address.per_image)


def _derived(item: Derived) -> bytes:
    ends = _address(item.source) + _address(item.address)
    count = len(item.arguments)
    return struct.pack("<B", DERIVED_KINDS.index(item.kind)) + ends + struct.pack(f"<B{count}I", count, *item.arguments)


def _plan(plan: Plan, first: Plan, operations: Mapping[int, str]) -> bytes:
    sizes = (plan.arena.fixed, plan.arena.per_image, plan.signs.fixed, plan.signs.per_image)
    parts = [struct.pack("<4QI", *sizes, len(plan.fills))]
    for fill in plan.fills:
        size = struct.pack("<QQH", fill.size.fixed, fill.size.per_image, len(fill.pattern))
        parts.append(_address(fill.address) + size + fill.pattern)
    parts.append(struct.pack("<I", len(plan.calls)))
    known = {} if plan is first else {_call(call): i for i, call in enumerate(first.calls) if _is_kernel(call)}
    for call in plan.calls:
        data = _torch_call(call, operations) if isinstance(call, TorchCall) else _call(call)
        parts.append(struct.pack("<HHI", _SAME, 0, known[data]) if data in known else data)
    return b"".join(parts)


def _is_kernel(call: KernelCall | TorchCall) -> TypeGuard[KernelCall]:
    return isinstance(call, KernelCall)


def _call(call: KernelCall) -> bytes:
    places, kinds = _places(call.kernel), flat_fields(call.kernel)
    fields = sorted((places[name], value) for name, value in call.fields.items())
    parts = [struct.pack("<HHI", _NAMES.index(call.kernel), len(fields), call.node)]
    for place, value in fields:
        _check_type(call.kernel, *kinds[place], value)
        kind, layout, numbers = _value(value, is_float=kinds[place][1] is ctypes.c_float)
        parts.append(struct.pack(f"<BB{layout}", place, kind, *numbers))
    return b"".join(parts)


def _check_type(kernel: str, name: str, kind: Any, value: Field) -> None:
    types: dict[Any, Any] = {ctypes.c_void_p: Address, ctypes.c_float: (float, int), ctypes.c_int64: (int, Count)}
    if not isinstance(value, types[kind]):
        raise ValueError(f"Field `{name}` of `{kernel}` cannot be {value!r:.60}.")


def _value(value: Field, *, is_float: bool) -> tuple[int, str, tuple[Any, ...]]:
    """Return the kind of a field, the layout of its value and the value's numbers."""
    small = 1 << 31
    if isinstance(value, Address):
        numbers = (value.offset, value.per_image)
        if max(numbers) >= 1 << 32:
            return _WIDE_PLACE + value.region, "QQ", numbers
        if value.per_image:
            return _PLACE + value.region, "II", numbers
        return _OFFSET + value.region, "I", numbers[:1]
    if isinstance(value, Count):
        wide = not all(-small <= number < small for number in (value.fixed, value.per_image))
        return (
            (_COUNT64, "qq", (value.fixed, value.per_image))
            if wide
            else (_COUNT32, "ii", (value.fixed, value.per_image))
        )
    if is_float:
        return _FLOAT, "f", (value,)
    return (_INT32, "i", (value,)) if -small <= value < small else (_INT64, "q", (value,))


def _torch_call(call: TorchCall, operations: Mapping[int, str]) -> bytes:
    head = struct.pack("<HHI", _TORCH, len(call.reads), call.node) + _text(operations.get(call.node, ""))
    reads = [struct.pack("<I", number) + _address(address) for number, address in call.reads.items()]
    return head + _address(call.writes) + b"".join(reads)


class _Reader:
    """Reads values one after the other; what is missing is a `ValueError`."""

    def __init__(self, data: memoryview) -> None:
        self.data, self.at = data, 0
        self.operations: dict[int, str] = {}
        self.takes_images = False

    def bytes(self, count: int) -> bytes:
        if self.at + count > len(self.data):
            raise ValueError("The plan section is truncated.")
        self.at += count
        return self.data[self.at - count : self.at].tobytes()

    def number(self, kind: str) -> Any:
        layout = struct.Struct(f"<{kind}")
        return layout.unpack(self.bytes(layout.size))[0]

    def text(self) -> str:
        return self.bytes(self.number("H")).decode("utf-8")

    def address(self) -> Address:
        region = self.number("B")
        kind = "Q" if region & _WIDE else "I"
        return Address(Region(region & ~_WIDE), self.number(kind), self.number(kind))

    def preparation(self, shape: tuple[int, int, int]) -> Preparation | None:
        kind = self.number("B")
        if not kind:
            return None
        if kind > len(_INTERPOLATIONS):
            raise ValueError(f"{kind} is no interpolation.")
        height, width, border = (self.number("I") for _ in range(3))
        return Preparation(
            size=shape[1:],
            channels=shape[0],
            resize=(height, width),
            interpolation=_INTERPOLATIONS[kind - 1],
            border=border,
        )

    def derived(self) -> Derived:
        kind = self.number("B")
        if kind >= len(DERIVED_KINDS):
            raise ValueError(f"{kind} is no kind of derived constants.")
        source, address = self.address(), self.address()
        arguments = tuple(self.number("I") for _ in range(self.number("B")))
        return Derived(DERIVED_KINDS[kind], source, address, arguments)

    def plan(self, common: Mapping[str, Any], first: tuple[KernelCall | TorchCall, ...]) -> Plan:
        images = self.number("B")
        if images > _UNIT_FLOATS:
            raise ValueError(f"{images} is no type of images.")
        self.takes_images |= images == _UNIT_FLOATS
        arena, signs = (Size(self.number("Q"), self.number("Q")) for _ in range(2))
        fills = tuple(self.fill() for _ in range(self.number("I")))
        calls = tuple(self.call(first) for _ in range(self.number("I")))
        return Plan(calls, arena=arena, signs=signs, fills=fills, takes_bytes=images == _BYTES, **common)

    def fill(self) -> Fill:
        address, size = self.address(), Count(self.number("Q"), self.number("Q"))
        return Fill(address, size, self.bytes(self.number("H")))

    def call(self, first: tuple[KernelCall | TorchCall, ...]) -> KernelCall | TorchCall:
        number, count = self.number("H"), self.number("H")
        node: int = self.number("I")
        if number == _SAME:
            if count or node >= len(first) or not _is_kernel(first[node]):
                raise ValueError(f"Call {node} is none of the first plan's.")
            return first[node]
        if number == _TORCH:
            self.operations[node] = self.text()
            writes = self.address()
            return TorchCall(node, {self.number("I"): self.address() for _ in range(count)}, writes)
        if number >= len(_NAMES):
            raise ValueError(f"{number} is no kernel.")
        fields = flat_fields(_NAMES[number])
        values: dict[str, Field] = {}
        for _ in range(count):
            place: int = self.number("B")
            if place >= len(fields):
                raise ValueError(f"`{_NAMES[number]}` has no field {place}.")
            values[fields[place][0]] = self.field()
            _check_type(_NAMES[number], *fields[place], values[fields[place][0]])
        return KernelCall(_NAMES[number], values, node)

    def field(self) -> Field:
        kind = self.number("B")
        plain: dict[int, Callable[[], Field]] = {
            _INT32: lambda: int(self.number("i")),
            _INT64: lambda: int(self.number("q")),
            _COUNT32: lambda: Count(self.number("i"), self.number("i")),
            _COUNT64: lambda: Count(self.number("q"), self.number("q")),
            _FLOAT: lambda: float(self.number("f")),
        }
        if kind in plain:
            return plain[kind]()
        region, kind = Region(kind % 16), kind - kind % 16
        match kind:
            case 16:
                return Address(region, self.number("I"))
            case 32:
                return Address(region, self.number("I"), self.number("I"))
            case 48:
                return Address(region, self.number("Q"), self.number("Q"))
        raise ValueError(f"{kind} is no kind of fields.")
