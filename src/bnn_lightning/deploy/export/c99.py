"""A packed network as C99: a source with its weights, and a header, for machines that have a compiler and no more."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch._subclasses.fake_tensor import FakeTensorMode

from bnn_lightning.deploy.export.c99_text import (
    BODY,
    HEADER,
    C99Error,
    array,
    check_name,
    filled,
    functions,
    number,
    plain,
    sign_words,
    size,
    two,
    window,
    word_size,
)
from bnn_lightning.deploy.format.container import Array, Container, read_container
from bnn_lightning.deploy.frontend.fresh import floats
from bnn_lightning.deploy.ir.graph import Argument, Program, Step, Stored, Value
from bnn_lightning.deploy.planner.memory import Buffer, lay_out
from bnn_lightning.deploy.runtime.network import LoadedNetwork, PackedInfo

_SAME_ORDER = ("reshape", "t", "unsqueeze", "select.int", "squeeze.dim", "squeeze.dims", "transpose.int", "permute")


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
        name: What its functions and files are called.

    Raises:
        C99Error: An operation that is not known in C, or images that are not square maps of channels.
        ValueError: `name` is not a name of C.
        PackedFileError: The file is damaged.
    """
    check_name(name)
    container = read_container(path)
    info = PackedInfo.from_plain(container.header.get("info"))
    program = Program.from_plain(container.header.get("program"), num_tensors=len(container.entries))
    shapes = _shapes(program, container, info)
    return _Writer(name, program, container, info, shapes).write()


def _shapes(program: Program, container: Container, info: PackedInfo) -> list[tuple[int, ...]]:
    """Return the shapes of the images and of all results, for one image."""
    network = LoadedNetwork(program, container, info)
    shapes: list[tuple[int, ...]] = []
    with FakeTensorMode(allow_non_fake_inputs=True):
        image = floats(1, *info.shape)
        network.run_steps(image, watch=lambda value: shapes.append(tuple(value.shape)))
    return [tuple(image.shape), *shapes]


class _Writer:
    def __init__(
        self, name: str, program: Program, container: Container, info: PackedInfo, shapes: list[tuple[int, ...]]
    ) -> None:
        self.name, self.program, self.container, self.info, self.shapes = name, program, container, info, shapes
        self.used: set[str] = {"sizes", "window"}
        self.constants: dict[str, str] = {}
        self.flash = 0
        self.calls: list[str] = []
        self.aliases: dict[int, int] = {}
        self.buffers: dict[Any, Buffer] = {0: Buffer(4 * math.prod(shapes[0]), 0, 0)}

    def write(self) -> CSource:
        for place, step in enumerate(self.program.steps, start=1):
            self._touch(step, place)
            self._step(place, step)
        last = self._root(len(self.program.steps))
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

    def _touch(self, step: Step, place: int) -> None:
        """Note that a step needs its inputs."""
        for argument in step.arguments:
            for item in argument if isinstance(argument, list) else [argument]:
                if isinstance(item, Value):
                    self.buffers[self._root(item.number)].end = place

    def _result(self, place: int, *, over: int | None = None) -> str:
        """Return where a step writes: over its input where nothing else needs that, or in a place of its own."""
        last = all(
            not any(isinstance(a, Value) and self._root(a.number) == over for a in _flat(step))
            for step in self.program.steps[place:]
        )
        if over is not None and last and over != 0:
            self.aliases[place] = over
            self.buffers[over].end = place
        else:
            self.buffers[place] = Buffer(4 * math.prod(self.shapes[place]), place, place)
        return f"@{self._root(place)}@"

    def _value(self, argument: Argument) -> tuple[str, tuple[int, ...], int]:
        if not isinstance(argument, Value):
            raise C99Error(f"{argument!r:.60} is no result of a step.")
        root = self._root(argument.number)
        return f"@{root}@", self.shapes[argument.number], root

    def _tensor(self, argument: Argument, *, optional: bool = False) -> str:
        if argument is None and optional:
            return "0"
        if not isinstance(argument, Stored):
            raise C99Error(f"{argument!r:.60} is no tensor of the file.")
        key = f"t{argument.index}"
        entry = self.container.entries[argument.index]
        if entry.dtype not in ("f32", "bits"):
            raise C99Error(f"`{entry.name}` is {entry.dtype}; C takes floats and signs.")
        return self._constant(key, "float", self.container.array(argument.index).astype("f4"), entry.name)

    def _constant(self, key: str, kind: str, values: Array, comment: str) -> str:
        if key not in self.constants:
            self.constants[key] = array(key, kind, values, comment)
            self.flash += values.nbytes
        return key

    def _bits(self, argument: Argument) -> bool:
        return isinstance(argument, Stored) and self.container.entries[argument.index].dtype == "bits"

    def _step(self, place: int, step: Step) -> None:
        operation, arguments = step.operation, list(step.arguments)
        method = getattr(self, f"_do_{operation.partition('.')[0].strip('_')}", None)
        if operation in _SAME_ORDER:
            self._same_order(place, arguments)
        elif method is None:
            raise C99Error(f"`{operation}` is not known in C.")
        else:
            method(place, *arguments)

    def _same_order(self, place: int, arguments: list[Argument]) -> None:
        _, shape, root = self._value(arguments[0])
        before = [size for size in shape if size != 1]
        after = [size for size in self.shapes[place] if size != 1]
        reshaped = self.program.steps[place - 1].operation == "reshape"
        if math.prod(before) != math.prod(after) or not (reshaped or before == after):
            raise C99Error("A change of the order of elements is not known in C.")
        self.aliases[place] = root

    def _do_conv2d(
        self,
        place: int,
        x: Argument,
        weight: Argument,
        bias: Argument = None,
        stride: Argument = 1,
        padding: Argument = 0,
        dilation: Argument = 1,
        groups: Argument = 1,
    ) -> None:
        source, shape, _ = self._value(x)
        assert isinstance(weight, Stored)
        kernel = self.container.entries[weight.index].shape[2:]
        moves = window(kernel, two(stride), two(padding), two(dilation))
        names = f"{self._tensor(weight)}, {self._tensor(bias, optional=True)}"
        self.used |= {"conv2d"}
        self.calls.append(
            f"bnn_conv2d({source}, {size(shape)}, {names}, {moves}, {groups}, {self._result(place)}, "
            f"{size(self.shapes[place])});"
        )

    def _do_byte_conv2d(self, place: int, *arguments: Argument) -> None:
        raise C99Error("A stem on bytes is not known in C: take a file with stem=fp32.")

    def _do_linear(self, place: int, x: Argument, weight: Argument, bias: Argument = None) -> None:
        source, shape, _ = self._value(x)
        if math.prod(shape) != shape[-1]:
            raise C99Error("A linear layer of more than one row is not known in C.")
        signs = self._bits(weight)
        assert isinstance(weight, Stored)
        if signs:
            values = self.container.raw(weight.index)
            name = self._constant(f"b{weight.index}", "uint8_t", values, self.container.entries[weight.index].name)
        else:
            name = self._tensor(weight)
        function = "sign_linear" if signs else "linear"
        self.used |= {function}
        self.calls.append(
            f"bnn_{function}({source}, {shape[-1]}, {name}, {self._tensor(bias, optional=True)}, "
            f"{self._result(place)}, {self.shapes[place][-1]});"
        )

    def _do_affine(self, place: int, x: Argument, scale: Argument, shift: Argument) -> None:
        source, shape, root = self._value(x)
        names = f"{self._tensor(scale)}, {self._tensor(shift)}"
        self.used |= {"affine"}
        sizes = f"{shape[1]}, {math.prod(shape[2:])}"
        self.calls.append(f"bnn_affine({source}, {sizes}, {names}, {self._result(place, over=root)});")

    def _do_prelu(self, place: int, x: Argument, slope: Argument) -> None:
        source, shape, root = self._value(x)
        assert isinstance(slope, Stored)
        slopes = math.prod(self.container.entries[slope.index].shape)
        self.used |= {"prelu"}
        self.calls.append(
            f"bnn_prelu({source}, {shape[1]}, {math.prod(shape[2:])}, {self._tensor(slope)}, {slopes}, "
            f"{self._result(place, over=root)});"
        )

    def _do_hardtanh(self, place: int, x: Argument, low: Argument = -1.0, high: Argument = 1.0) -> None:
        source, shape, root = self._value(x)
        self.used |= {"clamp"}
        bounds = f"{number(low)}, {number(high)}"
        self.calls.append(f"bnn_clamp({source}, {math.prod(shape)}, {bounds}, {self._result(place, over=root)});")

    def _do_relu(self, place: int, x: Argument) -> None:
        source, shape, root = self._value(x)
        self.used |= {"relu"}
        self.calls.append(f"bnn_relu({source}, {math.prod(shape)}, {self._result(place, over=root)});")

    def _do_add(self, place: int, a: Argument, b: Argument) -> None:
        if isinstance(b, Stored):
            self._channels(place, a, b, "+")
            return
        (first, shape, root), (second, other, _) = self._value(a), self._value(b)
        if shape != other:
            raise C99Error(f"An addition of {shape} and {other} is not known in C.")
        self.used |= {"add"}
        self.calls.append(f"bnn_add({first}, {second}, {math.prod(shape)}, {self._result(place, over=root)});")

    def _do_sub(self, place: int, x: Argument, values: Argument) -> None:
        self._channels(place, x, values, "-")

    def _do_mul(self, place: int, x: Argument, values: Argument) -> None:
        self._channels(place, x, values, "*")

    def _do_div(self, place: int, x: Argument, values: Argument) -> None:
        self._channels(place, x, values, "/")

    def _channels(self, place: int, x: Argument, values: Argument, sign: str) -> None:
        """Compute with a value a channel, as the normalisation of the images does."""
        source, shape, root = self._value(x)
        if not isinstance(values, Stored):
            raise C99Error(f"`{sign}` is known in C with a value a channel only.")
        given = self.container.entries[values.index].shape
        if len(shape) != 4 or given[-3:] != (shape[1], 1, 1) or math.prod(given) != shape[1]:
            raise C99Error(f"`{sign}` of {shape} and {given} is not known in C, only that of a value a channel.")
        self.used |= {"channels"}
        sizes = f"{shape[1]}, {math.prod(shape[2:])}"
        result = self._result(place, over=root)
        self.calls.append(f"bnn_channels({source}, {sizes}, {self._tensor(values)}, '{sign}', {result});")

    def _do_mean(self, place: int, x: Argument, dims: Argument, keepdim: Argument = False) -> None:
        source, shape, _ = self._value(x)
        if not isinstance(dims, list) or sorted(int(d) % 4 for d in dims) != [2, 3]:  # type: ignore[arg-type]
            raise C99Error(f"A mean over {dims} is not known in C, only over rows and columns.")
        self._global_mean(place, source, shape)

    def _do_adaptive_avg_pool2d(self, place: int, x: Argument, to: Argument) -> None:
        source, shape, _ = self._value(x)
        if two(to) != (1, 1):
            raise C99Error(f"Adaptive pooling to {to} is not known in C, only to 1.")
        self._global_mean(place, source, shape)

    def _global_mean(self, place: int, source: str, shape: tuple[int, ...]) -> None:
        self.used |= {"mean"}
        sizes = f"{shape[1]}, {shape[2] * shape[3]}"
        self.calls.append(f"bnn_mean({source}, {sizes}, {self._result(place)});")

    def _do_avg_pool2d(self, place: int, x: Argument, kernel: Argument, *rest: Argument) -> None:
        stride, padding, ceil, counted, divisor = filled(rest, [], 0, False, True, None)
        if ceil or divisor is not None or not (counted or two(padding) == (0, 0)):
            raise C99Error("Average pooling with `ceil_mode` or another divisor is not known in C.")
        self._pool(place, x, kernel, stride, padding, average=True)

    def _do_max_pool2d(self, place: int, x: Argument, kernel: Argument, *rest: Argument) -> None:
        stride, padding, dilation, ceil = filled(rest, [], 0, 1, False)
        if ceil or two(dilation) != (1, 1):
            raise C99Error("Maximum pooling with `ceil_mode` or dilation is not known in C.")
        self._pool(place, x, kernel, stride, padding, average=False)

    def _pool(
        self, place: int, x: Argument, kernel: Argument, stride: Argument, padding: Argument, *, average: bool
    ) -> None:
        source, shape, _ = self._value(x)
        moves = window(two(kernel), two(stride if stride else kernel), two(padding), (1, 1))
        self.used |= {"pool"}
        self.calls.append(
            f"bnn_pool({source}, {size(shape)}, {moves}, {int(average)}, {self._result(place)}, "
            f"{size(self.shapes[place])});"
        )

    def _do_pad(
        self, place: int, x: Argument, padding: Argument, mode: Argument = "constant", fill: Argument = None
    ) -> None:
        source, shape, _ = self._value(x)
        if mode != "constant" or fill not in (None, 0) or not isinstance(padding, list) or len(padding) > 6:
            raise C99Error("Padding with anything but zeros is not known in C.")
        left, _, top, _, front, _ = filled(padding, *[0] * 6)
        self.used |= {"pad"}
        self.calls.append(
            f"bnn_pad({source}, {size(shape)}, {front}, {top}, {left}, {self._result(place)}, "
            f"{size(self.shapes[place])});"
        )

    def _do_binary_conv2d(self, place: int, x: Argument, residual: Argument, *rest: Argument) -> None:
        signs, gain, offset, scale, bias, lift, slope, shift, threshold, *geometry = rest
        stride, padding, dilation, groups, pad_value, low, high = geometry
        source, shape, _ = self._value(x)
        assert isinstance(signs, Stored)
        assert isinstance(groups, int)
        kernel = self.container.entries[signs.index].shape
        word = word_size(kernel[1])
        packed = sign_words(self.container.array(signs.index), word)
        weight = self._constant(f"b{signs.index}", f"uint{word}_t", packed, self.container.entries[signs.index].name)
        words = groups * shape[2] * shape[3] * -(-kernel[1] // word)
        bits = ("bits", place)
        self.buffers[bits] = Buffer(words * word // 8, place, place)
        more = "0" if residual is None else self._value(residual)[0]
        assert isinstance(padding, list)
        top, _, left, _ = padding
        moves = window(kernel[2:], two(stride), two([top, left]), two(dilation))
        epilogue = ", ".join(
            [
                *(self._tensor(part, optional=True) for part in (gain, offset, scale, bias)),
                more,
                *(self._tensor(part, optional=True) for part in (lift, slope, shift)),
                *("0" if bound is None else number(bound) for bound in (low, high)),
                *(str(int(bound is not None)) for bound in (low, high)),
            ]
        )
        self.used |= {"count", "binary", f"pack {word}", f"binary {word}"}
        limit = self._tensor(threshold, optional=True)
        # The input is not needed any more once it is packed, nor is the addend at a place once it is added there.
        self.calls.append(
            f"bnn_pack_{word}({source}, {size(shape)}, {groups}, {limit}, (uint{word}_t *)@{bits}@);\n"
            f"  bnn_binary_conv_{word}((const uint{word}_t *)@{bits}@, {size(shape)}, {weight}, {moves}, {groups}, "
            f"{int(pad_value)}, (struct bnn_epilogue){{{epilogue}}}, {self._result(place)}, "  # type: ignore[arg-type]
            f"{size(self.shapes[place])});"
        )

    def _placed(self, call: str) -> str:
        """Put the places of the buffers, in floats from the begin of the memory, for their names."""
        for key, buffer in self.buffers.items():
            call = call.replace(f"@{key}@", f"(memory + {buffer.offset // 4})")
        return call


def _flat(step: Step) -> list[Argument]:
    return [inner for item in step.arguments for inner in (item if isinstance(item, list) else [item])]
