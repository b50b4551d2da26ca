"""Types of values without torch are torch's: of every network, and of every operation with drawn attributes."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.frontend.torch_ops import compute
from bnn_lightning.deploy.ir.graph import AttributeValue, Constant, ConstantRef, Graph, Input, Node, Value
from bnn_lightning.deploy.ir.operations import EPILOGUE, OPERATIONS
from bnn_lightning.deploy.ir.shapes import RULES, type_of, types_of
from bnn_lightning.deploy.ir.types import Images, ShapeError, Type
from bnn_lightning.deploy.runtime.network import LoadedNetwork
from bnn_lightning.models import create_backbone
from tests.deploy.test_convert import least_size, settled

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import ONE_OF_EACH, small_options, without_repeats

DTYPES = {torch.float32: "f32", torch.int8: "i8", torch.int32: "i32", torch.int64: "i64"}
ERRORS = (ValueError, TypeError, LookupError, RuntimeError, ZeroDivisionError)


def test_every_operation_has_a_rule() -> None:
    assert RULES.keys() | {"binary_conv2d"} == OPERATIONS.keys()


def shapes_of(network: LoadedNetwork, number: int) -> list[tuple[tuple[int, ...], str]]:
    found: list[torch.Tensor] = []
    network.state_dict()  # real tensors, which are made when they are first asked for
    with FakeTensorMode(allow_non_fake_inputs=True):
        found.append(torch.empty(number, *network.info.shape))
        network.run_nodes(found[0], found.append)
    return [(tuple(tensor.shape), DTYPES[tensor.dtype]) for tensor in found]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_types_of_every_network_are_those_of_torch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    size = least_size(name)
    images = torch.rand(2, 3, size, size)
    network = create_backbone(name, num_classes=7, image_size=size, **small_options(name, width=16))
    network = settled(without_repeats(network), images)
    save(pack(network, images), tmp_path / "net.bnn", PackedInfo("net", 3, size), rest="int8")
    loaded = load(tmp_path / "net.bnn")
    types = types_of(loaded.graph, loaded.info.shape)
    for number in (1, 4):
        assert [(item.for_images(number), item.dtype) for item in types] == shapes_of(loaded, number)
    larger = (3, 2 * size, 2 * size)  # the same nodes at another size: what flattens maps takes one size
    loaded.info = PackedInfo("net", *larger[:2])
    try:
        wanted = shapes_of(loaded, 2)
    except RuntimeError:
        with pytest.raises(ShapeError):
            types_of(loaded.graph, larger)
        return
    assert [(item.for_images(2), item.dtype) for item in types_of(loaded.graph, larger)] == wanted


SIZES = st.integers(0, 5)
SMALL = st.sampled_from([-2, -1, 0, 1, 2, 3, 4])
KINDS: dict[str, st.SearchStrategy[Any]] = {
    "int": SMALL,
    "number": st.sampled_from([-1, 0, 2, -0.5, 0.5]),
    "bool": st.booleans(),
    "ints": st.lists(SMALL, max_size=6),
    "pair": st.lists(st.sampled_from([1, 1, 2, 3, 0, -1]), min_size=2, max_size=2),
    "quad": st.lists(st.sampled_from([0, 0, 1, 2, -1]), min_size=4, max_size=4),
}


@st.composite
def dims_of(draw: st.DrawFn, x: tuple[int, ...], name: str, attribute: str) -> Any:
    """Attributes that often fit."""
    rank = len(x)
    if attribute == "mode":
        return draw(st.sampled_from(["constant", "reflect", "replicate", "circular", "mirror"]))
    if name == "permute":
        return draw(st.permutations(range(rank)))
    if name == "reshape":
        total = math.prod(x[1:])
        return draw(st.sampled_from([[-1, total], [-1, *x[1:]], [-1], [*x], [2, -1], [-1, 3], [x[0], -1], []]))
    if name == "expand":
        return [draw(st.sampled_from([-1, size, size, 3])) for size in x]
    if attribute == "padding" and name == "pad":
        return draw(st.lists(st.sampled_from([0, 0, 1, 2, -1]), max_size=2 * rank + 1))
    if attribute == "groups":
        return draw(st.sampled_from([1, 1, 2, 3, 0]))
    return draw(KINDS[OPERATIONS[name].attributes[attribute].kind])


@st.composite
def calls(draw: st.DrawFn) -> tuple[Graph, Node, tuple[int, ...]]:
    """A node of one operation, its constants, and the shape of its first input for one image."""
    name = draw(st.sampled_from(sorted(OPERATIONS)))
    usual = "conv2d" in name or "pool2d" in name
    ranks = (4, 4) if usual else (2, 4)
    x = (
        1,
        *draw(
            st.lists(
                st.integers(1, 5) if usual or name == "cat" else SIZES,  # torch leaves out empty rows of `cat`
                min_size=ranks[0] - 1,
                max_size=ranks[1] - 1,
            )
        ),
    )
    constants: list[Constant] = []

    def constant(*shape: int, dtype: str = "f32") -> ConstantRef:
        values = np.ones(shape, {"f32": np.float32, "i8": np.int8, "i64": np.int64, "bits": np.int8}[dtype])
        constants.append(Constant.of(str(len(constants)), dtype, values))
        return ConstantRef(len(constants) - 1)

    channels = x[1] if len(x) > 1 else 1
    outputs, kernel = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    inputs: list[Input] = [Value(0)]
    attributes: dict[str, AttributeValue] = {}
    for key, attribute in OPERATIONS[name].attributes.items():
        if attribute.kind != "constant" and (attribute.required or draw(st.booleans())):
            value = draw(dims_of(x, name, key))
            attributes[key] = value
    near = st.sampled_from([channels, channels, 1, 2])
    groups = attributes.get("groups", 1)
    width = max(1, channels // groups) if isinstance(groups, int) and groups else 1
    if name in ("conv2d", "byte_conv2d"):
        inputs.append(constant(outputs, width, kernel, kernel, dtype="i8" if name == "byte_conv2d" else "f32"))
        inputs += [constant(outputs), constant(draw(near))] if name == "byte_conv2d" else []
        inputs += [constant(draw(st.sampled_from([outputs, outputs, outputs + 1])))] if draw(st.booleans()) else []
    elif name == "binary_conv2d":
        attributes["signs"] = constant(outputs, width, kernel, kernel, dtype="bits")
        attributes |= {part: constant(outputs) for part in EPILOGUE if draw(st.booleans())}
    elif name == "linear":
        inputs.append(constant(outputs, x[-1]))
        inputs += [constant(draw(st.sampled_from([outputs, outputs, outputs + 1])))] if draw(st.booleans()) else []
    elif name == "prelu":
        inputs.append(constant(draw(near)))
    elif name == "affine":
        inputs += [constant(draw(near)), constant(draw(near))]
    elif name == "dequantize":
        inputs = [constant(3, 2, dtype="i8"), constant(draw(st.sampled_from([3, 3, 2])))]
    elif OPERATIONS[name].most > 1:
        shapes = st.sampled_from([x[1:], x[1:], x[2:], (1, *x), (), (x[-1],)])
        count = draw(st.integers(0, 2))
        inputs += [constant(*draw(shapes)) if draw(st.booleans()) else Value(0) for _ in range(count)]
    return Graph((Node(name, tuple(inputs), attributes),), tuple(constants)), Node(name, tuple(inputs), attributes), x


def of_torch(graph: Graph, node: Node, x: tuple[int, ...], number: int) -> Type | None:
    """Return the type of torch's result for a number of images; None: an error."""
    try:
        images = torch.zeros(number, *x[1:])
        if node.operation == "binary_conv2d":
            (top, bottom, left, right), signs = node["padding"], torch.ones(graph.constants[0].shape)
            if node["pad_value"] not in (-1, 0, 1) or min(top, bottom, left, right) < 0:
                return None
            padded = F.pad(images, (left, right, top, bottom))
            result = F.conv2d(padded, signs, None, node["stride"], 0, node["dilation"], node["groups"])
        else:
            tensors = [torch.from_numpy(constant.array) for constant in graph.constants]
            given = [images if isinstance(item, Value) else tensors[item.index] for item in node.inputs]
            result = compute(node, given)
    except ERRORS:
        return None
    return Type(tuple(result.shape), DTYPES[result.dtype])


def picks_images(node: Node, rank: int) -> bool:
    """Whether a node selects or mixes images, puts others beside them, or crops what it repeats."""
    if node.operation == "layer_norm":
        return any(dim % rank == 0 for dim in node["dims"])
    if node.operation == "squeeze":
        return any(dim % rank == 0 for dim in node["dims"])
    if node.operation == "pad":
        crops = node["mode"] != "constant" and min(node["padding"], default=0) < 0  # refused here: no network does it
        return crops or len(node["padding"]) == 2 * rank
    return node.operation in ("select", "slice", "cat") and node["dim"] % rank == 0


CIRCULAR = Node("pad", (Value(0),), {"padding": [0, 1, 0, 1], "mode": "circular"})
CUTTING = Node("pad", (Value(0),), {"padding": [2, -3]})


@settings(max_examples=1500, deadline=None, derandomize=True)
@example(call=(Graph((CIRCULAR,)), CIRCULAR, (1, 2, 3)))  # torch takes unbatched maps, too
@example(call=(Graph((CUTTING,)), CUTTING, (1, 2)))  # torch cuts off before it pads
@given(call=calls())
def test_drawn_calls_have_the_types_of_torch(call: tuple[Graph, Node, tuple[int, ...]]) -> None:
    """A node with a type has it in torch; one without a type fails there, or mixes images."""
    graph, node, x = call
    wanted = {number: of_torch(graph, node, x, number) for number in (1, 2, 3)}
    try:
        found = type_of(graph, node, [Type((Images(1), *x[1:]))])
    except ShapeError:
        assert None in wanted.values() or picks_images(node, len(x))
        return
    assert wanted == {number: Type(found.for_images(number), found.dtype) for number in wanted}
