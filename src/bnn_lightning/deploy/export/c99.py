"""A packed network as C99: a source with its weights, and a header, for machines that have a compiler and no more."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnn_lightning.deploy.export.c99_text import (
    BODY,
    HEADER,
    C99Error,
    array,
    check_name,
    functions,
    number,
    plain,
    sign_words,
    size,
    window,
    word_size,
)
from bnn_lightning.deploy.format.container import read_container
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.format.layouts import to_layout
from bnn_lightning.deploy.format.packed_file import graph_of
from bnn_lightning.deploy.ir.graph import Array, Constant, ConstantRef, Graph, Input, Node, Value
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.planner.memory import Buffer, lay_out

_SAME_ORDER = ("reshape", "unsqueeze", "select", "squeeze", "transpose", "permute")


@dataclass(frozen=True)
class CSource:
    """A network in C.

    Attributes:
        source: Text of the .c file.
        header: Text of the .h file.
        flash: Bytes of its constants.
        ram: Bytes of its working memory; it takes no more than that and a small stack.
    """

    source: str
    header: str
    flash: int
    ram: int


def to_c99(path: str | Path, name: str = "bnn_net") -> CSource:
    """Write a packed file as C99 that needs `stdint.h` alone: no allocation, no mathematics library, no threads.

    It computes one image at a time, straightforwardly: exact sums of signs, floats elsewhere, added up in another order
    than torch does.

    Args:
        path: A packed file.
        name: Prefix of its functions, and name of its files.

    Raises:
        C99Error: An operation that is not known in C, or images that are not square maps of channels.
        ValueError: `name` is not a name of C.
        PackedFileError: The file is damaged.
    """
    check_name(name)
    container = read_container(path)
    info = PackedInfo.from_plain(container.header.get("info"))
    graph = graph_of(container)
    shapes = [item.for_images(1) for item in types_of(graph, info.shape)]
    return _Writer(name, graph, info, shapes).write()


class _Writer:
    def __init__(self, name: str, graph: Graph, info: PackedInfo, shapes: list[tuple[int, ...]]) -> None:
        self.name, self.graph, self.info, self.shapes = name, graph, info, shapes
        self.used: set[str] = {"sizes", "window"}
        self.constants: dict[str, str] = {}
        self.flash = 0
        self.calls: list[str] = []
        self.aliases: dict[int, int] = {}
        self.buffers: dict[Any, Buffer] = {0: Buffer(4 * math.prod(shapes[0]), 0, 0)}

    def write(self) -> CSource:
        for place, node in enumerate(self.graph.nodes, start=1):
            for value in node.values():
                self.buffers[self._root(value)].end = place
            self._node(place, node)
        last = self._root(len(self.graph.nodes))
        ram = lay_out(list(self.buffers.values()))
        calls = "\n".join(self._placed(call) for call in self.calls)
        classes = self.shapes[-1][-1]
        facts = {
            "name": self.name,
            "guard": f"{self.name.upper()}_H",
            "pixels": math.prod(self.shapes[0]),
            "shape": " x ".join(map(str, self.shapes[0][1:])),
            "classes": classes,
            "what": plain(self.info.name),
        }
        body = BODY.format(
            **facts,
            functions=functions(self.used),
            constants="\n".join(self.constants.values()),
            words=-(-ram // 4),
            image=self._placed("@0@"),
            calls=calls,
            logits=self._placed(f"@{last}@"),
        )
        return CSource(body, HEADER.format(**facts), self.flash, ram)

    def _root(self, value: int) -> int:
        return self.aliases.get(value, value)

    def _result(self, place: int, *, over: int | None = None) -> str:
        """Return where a node writes: over its input where nothing else needs that, or in a place of its own."""
        last = all(over not in [self._root(value) for value in node.values()] for node in self.graph.nodes[place:])
        if over is not None and last and over != 0:
            self.aliases[place] = over
            self.buffers[over].end = place
        else:
            self.buffers[place] = Buffer(4 * math.prod(self.shapes[place]), place, place)
        return f"@{self._root(place)}@"

    def _value(self, item: Input) -> tuple[str, tuple[int, ...], int]:
        if not isinstance(item, Value):
            raise C99Error(f"{self.graph.constants[item.index].name} is no result of a node.")
        root = self._root(item.number)
        return f"@{root}@", self.shapes[item.number], root

    def _tensor(self, item: Input | None) -> str:
        """Return the name of a constant in C, 0 for none."""
        if item is None:
            return "0"
        ref, constant = self._ref(item), self._stored(item)
        if constant.dtype not in ("f32", "bits"):
            raise C99Error(f"`{constant.name}` is {constant.dtype}; C takes floats and signs.")
        return self._constant(f"t{ref.index}", "float", constant.array.astype("f4"), constant.name)

    def _ref(self, item: Input) -> ConstantRef:
        if not isinstance(item, ConstantRef):
            raise C99Error(f"{item!r:.60} is no constant of the file.")
        return item

    def _stored(self, item: Input) -> Constant:
        return self.graph.constants[self._ref(item).index]

    def _constant(self, key: str, kind: str, values: Array, comment: str) -> str:
        if key not in self.constants:
            self.constants[key] = array(key, kind, values, comment)
            self.flash += values.nbytes
        return key

    def _node(self, place: int, node: Node) -> None:
        method = getattr(self, f"_do_{node.operation}", None)
        if node.operation in _SAME_ORDER:
            self._same_order(place, node)
        elif method is None:
            raise C99Error(f"`{node.operation}` is not known in C.")
        else:
            method(place, node)

    def _same_order(self, place: int, node: Node) -> None:
        _, shape, root = self._value(node.inputs[0])
        before = [size for size in shape if size != 1]
        after = [size for size in self.shapes[place] if size != 1]
        if math.prod(before) != math.prod(after) or not (node.operation == "reshape" or before == after):
            raise C99Error("A change of the order of elements is not known in C.")
        self.aliases[place] = root

    def _do_conv2d(self, place: int, node: Node) -> None:
        source, shape, _ = self._value(node.inputs[0])
        kernel = self._stored(node.inputs[1]).shape[2:]
        moves = window(kernel, node["stride"], node["padding"], node["dilation"])
        names = f"{self._tensor(node.inputs[1])}, {self._tensor(node.input(2))}"
        self.used |= {"conv2d"}
        self.calls.append(
            f"bnn_conv2d({source}, {size(shape)}, {names}, {moves}, {node['groups']}, {self._result(place)}, "
            f"{size(self.shapes[place])});"
        )

    def _do_byte_conv2d(self, place: int, node: Node) -> None:
        raise C99Error("A stem on bytes is not known in C: take a file with stem=fp32.")

    def _do_linear(self, place: int, node: Node) -> None:
        source, shape, _ = self._value(node.inputs[0])
        if math.prod(shape) != shape[-1]:
            raise C99Error("A linear layer of more than one row is not known in C.")
        weight = node.inputs[1]
        constant = self._stored(weight)
        if constant.dtype == "bits":
            function, key = "sign_linear", f"b{self._ref(weight).index}"
            name = self._constant(key, "uint8_t", to_layout(constant.array, "bits", "bits"), constant.name)
        else:
            function, name = "linear", self._tensor(weight)
        self.used |= {function}
        self.calls.append(
            f"bnn_{function}({source}, {shape[-1]}, {name}, {self._tensor(node.input(2))}, "
            f"{self._result(place)}, {self.shapes[place][-1]});"
        )

    def _do_affine(self, place: int, node: Node) -> None:
        source, shape, root = self._value(node.inputs[0])
        names = ", ".join(self._tensor(item) for item in node.inputs[1:])
        self.used |= {"affine"}
        sizes = f"{shape[1]}, {math.prod(shape[2:])}"
        self.calls.append(f"bnn_affine({source}, {sizes}, {names}, {self._result(place, over=root)});")

    def _do_prelu(self, place: int, node: Node) -> None:
        source, shape, root = self._value(node.inputs[0])
        slopes = math.prod(self._stored(node.inputs[1]).shape)
        self.used |= {"prelu"}
        self.calls.append(
            f"bnn_prelu({source}, {shape[1]}, {math.prod(shape[2:])}, {self._tensor(node.inputs[1])}, {slopes}, "
            f"{self._result(place, over=root)});"
        )

    def _do_clamp(self, place: int, node: Node) -> None:
        source, shape, root = self._value(node.inputs[0])
        if node["low"] is None or node["high"] is None:
            raise C99Error("A clamp is known in C with two bounds only.")
        self.used |= {"clamp"}
        bounds = f"{number(node['low'])}, {number(node['high'])}"
        self.calls.append(f"bnn_clamp({source}, {math.prod(shape)}, {bounds}, {self._result(place, over=root)});")

    def _do_relu(self, place: int, node: Node) -> None:
        source, shape, root = self._value(node.inputs[0])
        self.used |= {"relu"}
        self.calls.append(f"bnn_relu({source}, {math.prod(shape)}, {self._result(place, over=root)});")

    def _do_add(self, place: int, node: Node) -> None:
        if not isinstance(node.input(1), Value):
            self._channels(place, node, "+")
            return
        (first, shape, root), (second, other, _) = (self._value(item) for item in node.inputs)
        if shape != other:
            raise C99Error(f"An addition of {shape} and {other} is not known in C.")
        self.used |= {"add"}
        self.calls.append(f"bnn_add({first}, {second}, {math.prod(shape)}, {self._result(place, over=root)});")

    def _do_sub(self, place: int, node: Node) -> None:
        self._channels(place, node, "-")

    def _do_mul(self, place: int, node: Node) -> None:
        self._channels(place, node, "*")

    def _do_div(self, place: int, node: Node) -> None:
        self._channels(place, node, "/")

    def _channels(self, place: int, node: Node, sign: str) -> None:
        """Compute with a value a channel, as the normalization of the images does."""
        source, shape, root = self._value(node.inputs[0])
        values = node.input(1)
        if not isinstance(values, ConstantRef):
            raise C99Error(f"`{sign}` is known in C with a value a channel only.")
        given = self._stored(values).shape
        if len(shape) != 4 or given[-3:] != (shape[1], 1, 1) or math.prod(given) != shape[1]:
            raise C99Error(f"`{sign}` of {shape} and {given} is not known in C, only that of a value a channel.")
        self.used |= {"channels"}
        sizes = f"{shape[1]}, {math.prod(shape[2:])}"
        result = self._result(place, over=root)
        self.calls.append(f"bnn_channels({source}, {sizes}, {self._tensor(values)}, '{sign}', {result});")

    def _do_mean(self, place: int, node: Node) -> None:
        if sorted(dim % 4 for dim in node["dims"]) != [2, 3]:
            raise C99Error(f"A mean over {node['dims']} is not known in C, only over rows and columns.")
        self._global_mean(place, node)

    def _do_adaptive_avg_pool2d(self, place: int, node: Node) -> None:
        if node["output_size"] != [1, 1]:
            raise C99Error(f"Adaptive pooling to {node['output_size']} is not known in C, only to 1.")
        self._global_mean(place, node)

    def _global_mean(self, place: int, node: Node) -> None:
        source, shape, _ = self._value(node.inputs[0])
        self.used |= {"mean"}
        sizes = f"{shape[1]}, {shape[2] * shape[3]}"
        self.calls.append(f"bnn_mean({source}, {sizes}, {self._result(place)});")

    def _do_avg_pool2d(self, place: int, node: Node) -> None:
        uncounted = not node["count_include_pad"] and node["padding"] != [0, 0]
        if node["ceil_mode"] or node["divisor_override"] is not None or uncounted:
            raise C99Error("Average pooling with `ceil_mode` or another divisor is not known in C.")
        self._pool(place, node, average=True)

    def _do_max_pool2d(self, place: int, node: Node) -> None:
        if node["ceil_mode"] or node["dilation"] != [1, 1]:
            raise C99Error("Maximum pooling with `ceil_mode` or dilation is not known in C.")
        self._pool(place, node, average=False)

    def _pool(self, place: int, node: Node, *, average: bool) -> None:
        source, shape, _ = self._value(node.inputs[0])
        moves = window(node["kernel_size"], node["stride"], node["padding"], (1, 1))
        self.used |= {"pool"}
        self.calls.append(
            f"bnn_pool({source}, {size(shape)}, {moves}, {int(average)}, {self._result(place)}, "
            f"{size(self.shapes[place])});"
        )

    def _do_pad(self, place: int, node: Node) -> None:
        source, shape, _ = self._value(node.inputs[0])
        if node["mode"] != "constant" or node["value"] not in (None, 0) or len(node["padding"]) > 6:
            raise C99Error("Padding with anything but zeros is not known in C.")
        left, _, top, _, front, _ = [*node["padding"], *[0] * 6][:6]
        self.used |= {"pad"}
        self.calls.append(
            f"bnn_pad({source}, {size(shape)}, {front}, {top}, {left}, {self._result(place)}, "
            f"{size(self.shapes[place])});"
        )

    def _do_binary_conv2d(self, place: int, node: Node) -> None:
        source, shape, _ = self._value(node.inputs[0])
        signs, groups = self._stored(node["signs"]), node["groups"]
        kernel = signs.shape
        word = word_size(kernel[1])
        packed = sign_words(signs.array, word)
        weight = self._constant(f"b{node['signs'].index}", f"uint{word}_t", packed, signs.name)
        words = groups * shape[2] * shape[3] * -(-kernel[1] // word)
        bits = ("bits", place)
        self.buffers[bits] = Buffer(words * word // 8, place, place)
        residual = node.input(1)
        top, _, left, _ = node["padding"]
        moves = window(kernel[2:], node["stride"], (top, left), node["dilation"])
        bounds = (node["low"], node["high"])
        epilogue = ", ".join(
            [
                *(self._tensor(node[part]) for part in EPILOGUE),
                "0" if residual is None else self._value(residual)[0],
                *("0" if bound is None else number(bound) for bound in bounds),
                *(str(int(bound is not None)) for bound in bounds),
            ]
        )
        self.used |= {"count", "binary", f"pack {word}", f"binary {word}"}
        # The input is not needed any more once it is packed, nor is the addend at a place once it is added there.
        self.calls.append(
            f"bnn_pack_{word}({source}, {size(shape)}, {groups}, {self._tensor(node['threshold'])}, "
            f"(uint{word}_t *)@{bits}@);\n"
            f"  bnn_binary_conv_{word}((const uint{word}_t *)@{bits}@, {size(shape)}, {weight}, {moves}, {groups}, "
            f"{node['pad_value']}, (struct bnn_epilogue){{{epilogue}}}, {self._result(place)}, "
            f"{size(self.shapes[place])});"
        )

    def _placed(self, call: str) -> str:
        """Put the places of the buffers, in floats from the begin of the memory, for their names."""
        for key, buffer in self.buffers.items():
            call = call.replace(f"@{key}@", f"(memory + {buffer.offset // 4})")
        return call
