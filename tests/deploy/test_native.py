"""The C library by itself: fields of arguments, files, contexts, threads, errors."""

import ctypes
import dataclasses
import os
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bnn_lightning.data.preparation import Preparation
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.format.plan_section import PlanSection, flat_fields, is_current
from bnn_lightning.deploy.format.prefix import Prefix, join_sections
from bnn_lightning.deploy.kernels import abi
from bnn_lightning.deploy.kernels.abi import KERNELS
from bnn_lightning.deploy.kernels.constants import ConstantSection
from bnn_lightning.deploy.kernels.derive import compute
from bnn_lightning.deploy.kernels.layout import blocked
from bnn_lightning.deploy.kernels.weights import Source, blocked_weight
from bnn_lightning.deploy.planner.plan import Address, Count, Derived, KernelCall, Plan, Region, Size, TorchCall
from bnn_lightning.deploy.runtime import native
from bnn_lightning.deploy.runtime.contexts import MOST_IDLE, PATIENCE
from bnn_lightning.models import create_backbone

pytestmark = pytest.mark.skipif(not native.LIBRARY.exists(), reason="needs the compiled library")
SHAPE, CLASSES = (2, 3, 4), 5
FEATURES = 24
WEIGHT = np.arange(16 * FEATURES, dtype=np.float32).reshape(FEATURES, 16) % 7 - 3
BIAS = np.arange(16, dtype=np.float32)
CONSTANTS = WEIGHT.tobytes() + BIAS.tobytes()
INFINITE = {"after.low": -np.inf, "after.high": np.inf}


def linear(**changes: Any) -> KernelCall:
    """A linear layer from images to logits."""
    fields: dict[str, Any] = {
        "rows": Count(0, 1),
        "factors": FEATURES,
        "x_row": FEATURES,
        "x": Address(Region.INPUT),
        "weight": Address(Region.CONSTANTS),
        "bias": Address(Region.CONSTANTS, WEIGHT.nbytes),
        "after.height": 1,
        "after.width": Count(0, 1),
        "after.channels": CLASSES,
        "after.out_channels": CLASSES,
        "after.out": Address(Region.OUTPUT),
        **INFINITE,
    }
    return KernelCall("linear", {**fields, **changes})


def plan(*calls: KernelCall | TorchCall, **changes: Any) -> Plan:
    made = Plan(calls, CONSTANTS, (), 0, Size(), Size(), (), SHAPE, False, CLASSES)
    return dataclasses.replace(made, **changes)


def file_of(*plans: Plan, **more: Any) -> bytes:
    return join_sections(b"{}", PlanSection(plans, "net", **more).to_bytes(), plans[0].constants)


def logits_of(images: np.ndarray) -> np.ndarray:
    return (images.reshape(-1, FEATURES) @ WEIGHT[:, :CLASSES] + BIAS[:CLASSES]).astype(np.float32)


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 9, (7, *SHAPE)).astype(np.float32)


def test_fields_lie_where_python_has_them() -> None:
    library, at, kind, size = native.library(), ctypes.c_int64(), ctypes.c_int64(), ctypes.c_int64()
    library.bnn_field.restype = library.bnn_kernel_title.restype = ctypes.c_char_p
    given = ctypes.byref(at), ctypes.byref(kind), ctypes.byref(size)
    kinds = {ctypes.c_int64: 0, ctypes.c_float: 1, ctypes.c_void_p: 2}
    assert not library.bnn_kernel_title(len(KERNELS))
    for number, (name, structure) in enumerate(KERNELS.items()):
        assert library.bnn_kernel_title(number) == name.encode()
        fields = flat_fields(name)
        assert not library.bnn_field(number, len(fields), *given)
        for place, (field, of) in enumerate(fields):
            assert library.bnn_field(number, place, *given) == field.encode()
            assert (at.value, kind.value, size.value) == (offset(structure, field), kinds[of], ctypes.sizeof(structure))


def offset(structure: Any, path: str) -> int:
    first, _, rest = path.partition(".")
    inner = dict(structure._fields_)[first]
    begin: int = getattr(structure, first).offset
    return begin + (offset(inner, rest) if rest else 0)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_file_is_opened_from_path_and_memory(tmp_path: Path, images: np.ndarray, threads: int) -> None:
    data = file_of(plan(linear()), class_names=("a", "b", "ç", "d", "e"))
    (tmp_path / "nét.bnn").write_bytes(data)
    for source in (data, tmp_path / "nét.bnn", str(tmp_path / "nét.bnn")):
        network = native.load(source, threads=threads)
        assert network.facts.shape == SHAPE
        assert network.facts.class_names == ("a", "b", "ç", "d", "e")
        assert (network.facts.name, network.facts.num_calls) == ("net", 1)
        for number in (3, 1, 7, 0, 2):
            np.testing.assert_array_equal(network(images[:number]), logits_of(images[:number]))


def test_bytes_count_as_255ths_where_no_plan_takes_them(images: np.ndarray) -> None:
    network = native.load(file_of(plan(linear())))
    pixels = images.astype(np.uint8)
    np.testing.assert_array_equal(network(pixels), network(pixels / np.float32(255)))


def test_a_plan_of_its_own_takes_bytes(images: np.ndarray) -> None:
    strides = {"x_image": 24, "x_0": 12, "x_1": 4, "x_2": 1, "out_image": 24, "out_0": 12, "out_1": 4, "out_2": 1}
    sizes = {"images": Count(0, 1), "size_0": 2, "size_1": 3, "size_2": 4, "bytes": 1}
    ends = {"x": Address(Region.INPUT), "out": Address(Region.ARENA)}
    calls = KernelCall("copy", {**sizes, **strides, **ends}), linear(x=Address(Region.ARENA))
    of_bytes = plan(*calls, takes_bytes=True, arena=Size(0, 96))
    plain = plan(KernelCall("pad", {}), linear(x=Address(Region.ARENA)), arena=Size(0, 96))
    assert len(PlanSection((plain, of_bytes)).to_bytes()) < len(PlanSection((plan(linear()), of_bytes)).to_bytes())
    both = native.load(file_of(plan(linear()), of_bytes))
    pixels = images.astype(np.uint8)
    np.testing.assert_array_equal(both(pixels), both(pixels / np.float32(255)))
    with pytest.raises(ValueError, match="bnn_run_bytes"):
        native.load(file_of(of_bytes))(images)


def test_threads_share_a_network(images: np.ndarray) -> None:
    network = native.load(file_of(plan(linear())), threads=2)
    found: list[np.ndarray] = []

    def run() -> None:
        found.extend(network(images) for _ in range(50))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 200
    assert len(network._contexts.idle) <= MOST_IDLE
    for logits in found:
        np.testing.assert_array_equal(logits, logits_of(images))


def test_memory_follows_the_calls(images: np.ndarray) -> None:
    network = native.load(file_of(plan(linear())))
    many = np.repeat(images, 40, 0)
    for number in (1, 2, len(many), 3):
        np.testing.assert_array_equal(network(many[:number]), logits_of(many[:number]))
    assert [context.most for context in network._contexts.idle] == [len(many)]
    for _ in range(PATIENCE):
        np.testing.assert_array_equal(network(images[:1]), logits_of(images[:1]))
    assert [context.most for context in network._contexts.idle] == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_computes(images: np.ndarray) -> None:
    network = native.load(file_of(plan(linear())), threads=2)
    network(images)
    child = os.fork()
    if not child:
        os._exit(0 if (network(images) == logits_of(images)).all() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, 3, 4), np.float32),
        np.zeros(SHAPE, np.float32),
        np.zeros((1, *SHAPE), np.int64),
        np.full((1, *SHAPE), np.nan, np.float32),
        np.full((1, *SHAPE), -np.inf),
    ],
)
def test_wrong_images_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError):
        native.load(file_of(plan(linear())))(wrong)


ONE = Address(Region.CONSTANTS, 64)
WRONG: list[tuple[Plan, str]] = [
    (plan(linear(factors=FEATURES + 1)), "leaves its region"),
    (plan(linear(rows=Count(1, 1))), "leaves its region"),
    (plan(linear(rows=Count(0, 2))), "leaves its region"),
    (plan(linear(factors=Count(FEATURES, 1))), "may not depend"),
    (plan(linear(**{"after.out": Address(Region.CONSTANTS)})), "only read"),
    (plan(linear(**{"after.out": Address(Region.INPUT)})), "only read"),
    (plan(linear(**{"after.out": Address(Region.OUTPUT, 4)})), "leaves its region"),
    (plan(linear(**{"after.out": Address(Region.OUTPUT, 2)})), "none of its elements"),
    (plan(linear(x=Address(Region.INPUT, 0, 96))), "leaves its region"),
    (plan(linear(x=Address(Region.INPUT, 1 << 40))), "leaves its region"),
    (plan(linear(x_row=-1)), "not one thing"),
    (plan(linear(x_row=1 << 31)), "leaves its region"),
    (plan(linear(x_row=1 << 40)), "beyond any network"),
    (plan(linear(weight=Address(Region.ARENA))), "leaves its region"),
    (plan(linear(), in_shape=(2, 3, 3)), "leaves its region"),
    (plan(linear(), num_classes=4), "leaves its region"),
    (plan(linear(), in_shape=(1 << 20, 1 << 20, 1)), "beyond any network"),
    (plan(linear(), arena=Size(1 << 41, 0)), "beyond any network"),
    (plan(linear(), derived_size=1 << 40), "justify"),
    (
        plan(linear(), derived=(Derived("signs", ONE, Address(Region.DERIVED), (1, 1 << 30, 1 << 30, 9)),)),
        "computed from",
    ),
    (
        plan(
            linear(), derived=(Derived("tap_sums", ONE, Address(Region.DERIVED, 64), (1, 1, 1, 1)),), derived_size=127
        ),
        "elsewhere",
    ),
    (plan(linear(), derived=(Derived("signs", ONE, ONE, (1, 1, 1, 1)),)), "elsewhere"),
    (plan(linear(), derived=(Derived("signs", ONE, ONE, (1, 1, 1)),)), "no kind"),
    (plan(linear(), derived=(Derived("blocked_scaled", ONE, ONE, (1, 1, 1, 1)),)), "no kind"),
    (plan(linear(), derived=(Derived("blocked_bytes", ONE, ONE, (1, 1, 0, 1)),)), "of nothing"),
    (plan(linear(), derived=(Derived("blocked_floats", ONE, ONE, (1, 1 << 31, 1 << 31, 1, 0, 0)),)), "computed from"),
    (plan(linear(), derived=(Derived("blocked_scaled", ONE, ONE, (1, 1, 1, 1, 1 << 31, 0)),)), "computed from"),
    (
        plan(linear(), derived=(Derived("blocked_signs", ONE, Address(Region.DERIVED), (1, 1, 1, 1, 0, 0)),)),
        "elsewhere",
    ),
]


@pytest.mark.parametrize(("wrong", "rule"), WRONG)
def test_plans_that_leave_their_memory_are_refused(wrong: Plan, rule: str) -> None:
    with pytest.raises(native.RuntimeFileError, match=rule):
        native.load(file_of(wrong))


def test_what_is_derived_is_what_numpy_computes() -> None:
    signs, taps = np.random.default_rng(0).integers(0, 2, (2, 3, 37, 4), np.uint8), (2, 3, 37, 4)
    bits = np.packbits(signs, bitorder="little").tobytes()
    words = np.zeros((2, 1, 4, 2, 16, 32), np.uint8)
    padded = np.zeros((2, 16, 64, 4), np.uint8)
    padded[:, :3, :37] = signs
    words[:] = padded.reshape(2, 1, 16, 2, 32, 4).transpose(0, 1, 5, 3, 2, 4)
    expanded = np.packbits(words, axis=-1, bitorder="little").view("<u4").ravel()
    sums = np.zeros((4, 2, 16), np.int32)
    sums[:, :, :3] = (1 - 2 * signs.astype(np.int32)).sum(2).transpose(2, 0, 1)
    derived = (
        Derived("signs", Address(Region.CONSTANTS), Address(Region.DERIVED), taps),
        Derived("tap_sums", Address(Region.DERIVED), Address(Region.DERIVED, expanded.nbytes), taps),
    )
    size = expanded.nbytes + sums.nbytes
    words_as_floats = size // 4
    strides = {"images": 1, "size_0": 1, "size_1": 1, "size_2": words_as_floats, "x_2": 1, "out_2": 1}
    copy = KernelCall("copy", {**strides, "x": Address(Region.DERIVED), "out": Address(Region.OUTPUT)})
    made = plan(copy, constants=bits, derived=derived, derived_size=size, num_classes=words_as_floats)
    found = native.load(file_of(made))(np.zeros((1, *SHAPE), np.float32))
    np.testing.assert_array_equal(found.view("<u4").ravel(), np.concatenate([expanded, sums.view("<u4").ravel()]))


@pytest.mark.parametrize("kind", ["blocked_floats", "blocked_signs", "blocked_scaled", "blocked_bytes"])
@pytest.mark.parametrize("shape", [(1, 16, 3, 1), (1, 19, 5, 9), (3, 5, 7, 4), (2, 33, 2, 1)])
@pytest.mark.parametrize("scaled", [False, True])
def test_weights_are_laid_out_as_kernels_read_them(kind: str, shape: tuple[int, ...], scaled: bool) -> None:
    groups, outputs, inputs, taps = shape
    drawn, section = np.random.default_rng(0), ConstantSection()
    scale, factors = drawn.random((groups * outputs, 1, 1), np.float32), drawn.random((inputs, 1))
    values: np.ndarray = drawn.integers(-128, 128, (groups * outputs, inputs, taps)).astype(np.int8)
    dtype = {"blocked_floats": "f32", "blocked_signs": "bits"}.get(kind, "i8")
    if dtype == "f32":
        values = drawn.standard_normal(values.shape, np.float32)
    if dtype == "bits":
        values = np.where(values > 0, 1, -1)
    wanted = values.astype(np.int8 if kind == "blocked_bytes" else np.float32)
    source = Source(0, dtype, values)
    if kind != "blocked_bytes" and (scaled or dtype == "i8"):
        wanted = ((wanted * scale).astype(np.float64) * factors).astype(np.float32)
        source = Source(0, dtype, values, scale, factors)
    section.add(np.ones(3, np.float32))
    weight = blocked_weight(section, wanted, source, groups=groups)
    rows = wanted.transpose(0, 2, 1).reshape(groups, outputs, -1)
    expanded = np.concatenate([blocked(part) for part in rows]).tobytes()
    if weight.region == Region.CONSTANTS:  # mapped
        assert outputs % 16 == 0
        assert section.data[weight.offset : weight.offset + len(expanded)] == expanded
        return
    assert [item.kind for item in section.derived] == [kind]
    constants, derived, size = bytes(section.data), tuple(section.derived), section.derived_size
    memory = np.zeros(size, np.uint8)
    compute(derived, np.frombuffer(constants, np.uint8), memory)
    assert memory.tobytes()[: len(expanded)] == expanded
    strides = {"images": 1, "size_0": 1, "size_1": 1, "size_2": size // 4, "x_2": 1, "out_2": 1}
    copy = KernelCall("copy", {**strides, "x": Address(Region.DERIVED), "out": Address(Region.OUTPUT)})
    made = plan(copy, constants=constants, derived=derived, derived_size=size, num_classes=size // 4)
    assert native.load(file_of(made))(np.zeros((1, *SHAPE), np.float32)).tobytes() == memory.tobytes()


def test_operations_of_torch_are_named() -> None:
    made = plan(TorchCall(3, {0: Address(Region.INPUT)}, Address(Region.OUTPUT)))
    with pytest.raises(native.RuntimeFileError, match=r"without torch.*`aten\.erf`"):
        native.load(file_of(made, operations={3: "aten.erf"}))


@pytest.mark.parametrize(
    "change", [lambda d: d[:-1], lambda d: d + b"\0", lambda d: d[:63], lambda d: b"", lambda d: b"x" * 200]
)
def test_files_of_another_length_are_refused(change: Callable[[bytes], bytes]) -> None:
    with pytest.raises(native.RuntimeFileError):
        native.load(change(file_of(plan(linear()))))


def test_every_byte_but_the_digest_is_checked() -> None:
    data = file_of(plan(linear()))
    prefix = Prefix.from_bytes(data)
    for at in range(len(data) - 32):
        damaged = bytearray(data)
        damaged[at] ^= 1 << at % 8
        with pytest.raises(native.RuntimeFileError):
            native.load(bytes(damaged))
    assert prefix.file_size == len(data)


def for_version(version: int) -> bytes:
    """Return a file whose plan is for a version of the kernels."""
    section = bytearray(PlanSection((plan(linear()),), "net").to_bytes())
    section[8:12] = version.to_bytes(4, "little")
    return join_sections(b"{}", bytes(section), CONSTANTS)


@pytest.mark.parametrize("step", [-1, 1])
def test_plans_for_other_kernels_name_both_versions(step: int) -> None:
    data = for_version(abi.VERSION + step)
    again = rf"version {abi.VERSION + step} .* version {abi.VERSION}.* bnn export ckpt=\.\.\. out="
    with pytest.raises(native.RuntimeFileError, match=again) as refused:
        native.load(data)
    assert ("newer" in str(refused.value)) == (step > 0)
    prefix = Prefix.from_bytes(data)
    section = data[prefix.plan.offset : prefix.plan.offset + prefix.plan.size]
    assert not is_current(section)
    with pytest.raises(ValueError, match=again) as refused_in_python:
        PlanSection.from_bytes(section, CONSTANTS)
    assert ("newer" in str(refused_in_python.value)) == (step > 0)


def test_older_files_name_the_command() -> None:
    data = bytearray(file_of(plan(linear())))
    data[7] = 3
    with pytest.raises(native.RuntimeFileError, match=r"bnn export ckpt=\.\.\. out="):
        native.load(bytes(data))
    with pytest.raises(native.RuntimeFileError, match=r"bnn export ckpt=\.\.\. out="):
        native.load(join_sections(b"{}", b"", CONSTANTS))


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.bnn"):
        native.load(tmp_path / "none.bnn")
    (tmp_path / "empty.bnn").touch()
    with pytest.raises(native.RuntimeFileError, match="empty"):
        native.load(tmp_path / "empty.bnn")
    with pytest.raises(ValueError, match="threads"):
        native.load(tmp_path / "empty.bnn", threads=300)


def test_the_environment_chooses_kernels(monkeypatch: pytest.MonkeyPatch, images: np.ndarray) -> None:
    library = native.library()
    library.bnn_kernel_name.restype = ctypes.c_char_p
    names = [
        library.bnn_kernel_name(i).decode() for i in range(library.bnn_num_kernels()) if library.bnn_kernel_runs(i)
    ]
    assert names
    for name in names:
        monkeypatch.setenv("BNN_KERNEL", name)
        network = native.load(file_of(plan(linear())))
        assert network.facts.kernels == name
        np.testing.assert_array_equal(network(images), logits_of(images))
    monkeypatch.setenv("BNN_KERNEL", "other")
    with pytest.raises(OSError, match="BNN_KERNEL=other"):
        native.load(file_of(plan(linear())))


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_003])
def test_checksums_are_those_of_zlib(size: int) -> None:
    constants = np.random.default_rng(size).bytes(size + len(CONSTANTS))
    data = file_of(plan(linear(), constants=constants))
    assert Prefix.from_bytes(data).constants.crc == zlib.crc32(constants)
    native.load(data)


def test_a_file_that_was_saved_runs_without_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
    names = tuple("abcdefghij")
    preparation = Preparation(size=(32, 32), channels=3, resize=(36, 36))
    info = PackedInfo("resnet20", in_channels=3, image_size=32, class_names=names, preparation=preparation)
    sizes = save(pack(network), tmp_path / "net.bnn", info)
    alone, loaded = native.load(tmp_path / "net.bnn"), load(tmp_path / "net.bnn")
    assert alone.facts.class_names == names
    assert alone.facts.has_preparation
    for images in (torch.rand(3, 3, 32, 32), torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)):
        with torch.no_grad():
            np.testing.assert_array_equal(alone(images.numpy()), loaded(images).numpy())
    assert sizes.total < 44_864 + 15_000  # of a file without plans, and what plans may take
