"""Draw small graphs of packed files, odd ones too, that torch can run: what plans are compared with."""

import math
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.ir.graph import Array, AttributeValue, Constant, ConstantRef, Graph, Input, Node, Value
from bnn_lightning.deploy.ir.operations import EPILOGUE
from bnn_lightning.deploy.runtime.network import LoadedNetwork

_ERRORS = (AssertionError, ValueError, TypeError, LookupError, RuntimeError, ArithmeticError)
_MOST = 1 << 16  # elements of a result


class Drawer:
    """Draws nodes one by one, and keeps those that torch can run for two images and for one.

    Numbers are multiples of 1/4, so that most sums are exact and signs do not depend on the order of additions.

    Args:
        seed: Seed of all choices.
    """

    def __init__(self, seed: int) -> None:
        self.r = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.size = self.r.choice([4, 5, 8, 9])
        self.nodes: list[Node] = []
        self.constants: list[Constant] = []
        images = torch.from_numpy(self.numbers.integers(0, 5, (2, 3, self.size, self.size)).astype(np.float32) / 4)
        self.images = images
        self.values = [(images, images[:1])]

    def stored(self, *shape: int, odd: float = 0.0) -> ConstantRef:
        """Store a drawn tensor; `odd` moves it off the grid."""
        values = self.numbers.integers(-4, 5, shape) / 4 + odd
        return self._add("f32", np.asarray(values, np.float32))

    def signs(self, *shape: int) -> ConstantRef:
        """Store drawn signs."""
        return self._add("bits", self.numbers.choice([-1, 1], shape).astype(np.int8))

    def _add(self, dtype: str, values: Array) -> ConstantRef:
        self.constants.append(Constant.of(str(len(self.constants)), dtype, values))
        return ConstantRef(len(self.constants) - 1)

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return the shape of a value for two images."""
        return tuple(self.values[value.number][0].shape)

    def network(self, *nodes: Node) -> LoadedNetwork:
        """Return the network of these nodes, without any of all so far."""
        graph = Graph(nodes or tuple(self.nodes), tuple(self.constants))
        return LoadedNetwork(graph, PackedInfo("drawn", 3, self.size)).eval()

    def call(self, operation: str, *inputs: Input | None, **attributes: AttributeValue | None) -> Value | None:
        """Add a node, unless torch cannot run it; what is None is left out."""
        given = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(Node(operation, tuple(item for item in inputs if item is not None), given))
        number = len(self.nodes)
        try:
            network = self.network(self.nodes[-1])
            with torch.no_grad():
                results = [network.run_node(1, dict(enumerate(v[i] for v in self.values))) for i in (0, 1)]
            fits = all(isinstance(result, Tensor) and 0 < result.numel() < _MOST for result in results)
            if fits and all(bool(result.isfinite().all()) and result.abs().max() < 1e4 for result in results):
                self.values.append((results[0], results[1]))
                return Value(number)
        except _ERRORS:
            pass
        self.nodes.pop()
        return None

    def any_value(self, dims: int = 4) -> Value:
        """Return a value, the later ones more often."""
        fitting = [n for n, value in enumerate(self.values) if value[0].dim() == dims]
        return Value(self.r.choice(fitting[-3:] if self.r.random() < 0.7 else fitting))

    def step(self) -> None:
        """Draw one thing that networks do, or nearly do."""
        kinds = (self.convolve, self.binary, self.binary, self.pointwise, self.pool, self.constant, self.join)
        self.r.choice((*kinds, self.move, self.gate, self.average, self.normalize))()

    def convolve(self) -> None:
        x = self.any_value()
        outputs, kernel = self.r.choice([1, 5, 16, 24, 33, self.size]), self.r.choice([1, 1, 2, 3])
        weight = self.stored(outputs, self.shape(x)[1], kernel, self.r.choice([kernel, kernel, 1]))
        stride, padding = self.r.choice([[1, 1], [2, 2], [1, 2]]), self.r.choice([[0, 0], [1, 1], [2, 1]])
        bias = self.r.choice([None, self.stored(outputs)])
        y = self.call("conv2d", x, weight, bias, stride=stride, padding=padding)
        if y is not None and self.r.random() < 0.5:
            self.call("affine", y, self.stored(outputs), self.stored(outputs))

    def binary(self) -> None:
        x, r = self.any_value(), self.r
        inputs = self.shape(x)[1]
        groups = r.choice([1, 1, *[g for g in (2, 3, 4) if inputs % g == 0]])
        outputs, kernel = groups * r.choice([1, 3, 8, 16, 24, 32]), r.choice([1, 2, 3])
        added = r.choice([None, None, self.any_value()])
        if added is not None and r.random() < 0.7:
            times = r.choice([1, 2, 3])
            added = self.call("cat", *[added] * times, dim=1) if times > 1 else added
            outputs = outputs if added is None else self.shape(added)[1]
            kernel = 1 if added is not None and self.shape(added)[2:] == self.shape(x)[2:] else kernel
        if outputs % groups:
            groups = 1
        given: dict[str, AttributeValue | None] = {"signs": self.signs(outputs, inputs // groups, kernel, kernel)}
        given |= {name: self.stored(outputs) for name in EPILOGUE if r.random() < 0.4}
        given |= {"threshold": self.stored(inputs, odd=r.choice([0.1, -0.1])), "groups": groups}
        given |= {"padding": [r.choice([0, 1]) for _ in range(4)] if kernel > 1 else [0] * 4}
        given |= {
            "stride": r.choice([[1, 1], [2, 2]]),
            "pad_value": r.choice([0, 1, -1]),
            "low": r.choice([None, -2.0]),
        }
        self.call("binary_conv2d", x, added, **given)

    def pointwise(self) -> None:
        x = self.any_value()
        channels = self.shape(x)[1]
        name = self.r.choice(["relu", "prelu", "clamp", "clamp", "affine"])
        more: list[Input] = []
        bounds: dict[str, AttributeValue | None] = {}
        if name == "prelu":
            more = [self.stored(self.r.choice([1, channels]))]
        elif name == "affine":
            count = self.r.choice([channels, channels, 1, 5])
            more = [self.stored(count), self.stored(count)]
        elif name != "relu":
            bounds = {"low": self.r.choice([-1.0, 0.0, -math.inf]), "high": self.r.choice([0.5, 1.0])}
        self.call(name, x, *more, **bounds)

    def pool(self) -> None:
        r, kernel = self.r, self.r.choice([[2, 2], [3, 3], [2, 3], [2, 2]])
        name, stride = r.choice(["max_pool2d", "avg_pool2d", "avg_pool2d", ""]), r.choice([[2, 2], [1, 1], [3, 2]])
        if not name:
            sizes = [r.choice([1, 1, 2, 3, 4]), r.choice([1, 2, 4])]
            self.call(r.choice(["adaptive_avg_pool2d", "adaptive_max_pool2d"]), self.any_value(), output_size=sizes)
            return
        pad, ceil = r.choice([[0, 0], [1, 1]]), r.random() < 0.5
        given: dict[str, AttributeValue | None] = {"kernel_size": kernel, "stride": stride, "padding": pad}
        if name == "avg_pool2d":
            given |= {"count_include_pad": r.random() < 0.5, "divisor_override": r.choice([None, None, 3])}
        self.call(name, self.any_value(), ceil_mode=ceil, **given)

    def constant(self) -> None:
        x = self.any_value(self.r.choice([4, 4, 4, 2]) if any(v[0].dim() == 2 for v in self.values) else 4)
        shape = self.shape(x)
        channels, last = shape[1], shape[-1]
        shapes = [(channels, 1, 1), (1, channels, 1, 1), (last,), (channels,), (1,), (), (3, 1, 1), (1, 1, 1, last)]
        values = self.stored(*self.r.choice(shapes), odd=self.r.choice([0.0, 2.0]))
        self.call(self.r.choice(["add", "sub", "mul", "div"]), x, values)

    def join(self) -> None:
        x, y = self.any_value(), self.any_value()
        if self.r.random() < 0.4:
            self.call("cat", x, y if self.r.random() < 0.7 else x, dim=1)
        else:
            z = self.call(self.r.choice(["add", "sub", "mul"]), x, y)
            if z is not None and self.r.random() < 0.5:
                self.call("add", z, y)

    def move(self) -> None:
        x, r = self.any_value(), self.r
        _, channels, height, width = self.shape(x)
        drawn: list[tuple[str, dict[str, AttributeValue | None]]] = [
            ("pad", {"padding": [0, 0, 0, 0, r.choice([0, 3]), r.choice([0, 16])]}),
            ("expand", {"shape": [-1, r.choice([channels, 3, 16]), height, width]}),
            ("expand", {"shape": [-1, channels, max(height, 4), max(width, 4)]}),
            ("slice", {"dim": r.choice([0, 1, 2, 3]), "start": 0, "end": r.choice([1, 2, 3])}),
            ("permute", {"dims": [0, *r.sample([1, 2, 3], 3)]}),
            ("reshape", {"shape": [-1, r.choice([channels, height]), width, height]}),
            ("reshape", {"shape": [-1, channels * height * width]}),
            ("reshape", {"shape": [-1, channels, height * width]}),
            ("slice", {"dim": r.choice([1, 2, 3]), "start": 1, "step": 2}),
            ("select", {"dim": r.choice([1, 2, 3]), "index": -1}),
        ]
        name, attributes = r.choice(drawn)
        self.call(name, x, **attributes)

    def average(self) -> None:
        r, x = self.r, self.any_value(self.r.choice([4, 4, 4, 3]) if any(v[0].dim() == 3 for v in self.values) else 4)
        dims = r.choice([[2, 3], [2, 3], [-2, -1], [1], [0], [3]] if len(self.shape(x)) == 4 else [[1], [2], [-1]])
        name = r.choice(["mean", "mean", "sum", "amax"])
        y = self.call(name, x, dims=dims, keepdim=r.random() < 0.7)
        if y is not None and r.random() < 0.5:
            self.call(r.choice(["sub", "mul", "add"]), x, y)

    def normalize(self) -> None:
        x, r = self.any_value(self.r.choice([4, 4, 2]) if any(v[0].dim() == 2 for v in self.values) else 4), self.r
        shape = self.shape(x)
        dims = r.choice([[1], [1], [len(shape) - 1], [1, 2, 3][: len(shape) - 1]])
        values = [self.stored(*(shape[dim] for dim in dims)) for _ in range(r.choice([0, 1, 2, 2]))]
        self.call("layer_norm", x, *values, dims=dims, eps=r.choice([1e-5, 0.1]))

    def gate(self) -> None:
        r, averages = self.r, [n for n, v in enumerate(self.values) if v[0].dim() == 4 and v[0].shape[2:] == (1, 1)]
        for _ in range(2):
            if len(averages) < 2:
                made = self.call("mean", self.any_value(), dims=[2, 3], keepdim=True)
                averages += [] if made is None else [made.number]
        if not averages:
            return
        own, other = Value(r.choice(averages)), Value(r.choice(averages))
        blended = own
        if r.random() < 0.6:
            channels = self.shape(own)[1]
            difference = self.call("sub", other, own)
            mix = self.stored(*r.choice([(channels, 1, 1), (1, channels, 1, 1), (1,)]))
            product = None if difference is None else self.call("mul", mix, difference)
            total = None if product is None else self.call("add", own, product)
            blended = own if total is None else total
        channels, hidden = self.shape(blended)[1], r.choice([2, 16, 20])
        outputs = self.shape(maps := self.any_value())[1]
        squeezed = self.call("conv2d", blended, self.stored(hidden, channels, 1, 1), self.stored(hidden))
        active = None if squeezed is None else self.call("relu", squeezed)
        excited = None if active is None else self.call("conv2d", active, self.stored(outputs, hidden, 1, 1))
        gates = None if excited is None else self.call("sigmoid", excited)
        if gates is not None:
            self.call("mul", maps, gates)

    def end(self) -> None:
        """Draw logits: of a map's averages or of rows."""
        x: Value | None = Value(len(self.values) - 1)
        assert x is not None
        if len(self.shape(x)) == 4:
            x = self.call("mean", x, dims=[2, 3]) or x
        if len(self.shape(x)) == 2 and self.r.random() < 0.8:
            inputs = self.shape(x)[1]
            self.call("linear", x, self.stored(5, inputs), self.r.choice([None, self.stored(5)]))


def drawn_graph(seed: int, *, steps: int = 12) -> tuple[LoadedNetwork, Tensor]:
    """Return a drawn network, and two images for it.

    Args:
        seed: Seed of all choices.
        steps: Things that are drawn; those that torch refuses are left out.
    """
    drawer = Drawer(seed)
    for _ in range(steps):
        drawer.step()
    drawer.end()
    if not drawer.nodes:
        drawer.call("relu", Value(0))
    return drawer.network(), drawer.images


def differs(seed: int, **options: Any) -> str:
    """Compare the plan of a drawn graph with torch, node by node; return what differs, or nothing."""
    network, images = drawn_graph(seed, **options)
    for batch in (images, images[:1].contiguous(memory_format=torch.channels_last)):
        with torch.no_grad():
            wanted = network.run_nodes(batch)
            for found in (network(batch), network(batch)):  # the second call finds memory that was used
                if found.shape != wanted.shape:
                    return f"seed {seed}: {tuple(found.shape)} instead of {tuple(wanted.shape)}"
                if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * (1 + float(wanted.abs().max()))):
                    return f"seed {seed}: off by {float((found - wanted).abs().max()):g}"
    return ""
