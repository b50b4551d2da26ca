"""Packed networks in torch: `pack` a trained one. It runs by a plan, as its file does."""

import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Self

import torch
from torch import Tensor, nn

from bnn_lightning.deploy.format.dry_run import dry_run
from bnn_lightning.deploy.format.info import PackedInfo
from bnn_lightning.deploy.frontend.capture import Trace
from bnn_lightning.deploy.frontend.finite import check_images
from bnn_lightning.deploy.frontend.fresh import CPU, pixels
from bnn_lightning.deploy.frontend.inputs import (
    check_range,
    check_tensor,
    refuse_jit,
    refuse_tangents,
    without_gradient,
)
from bnn_lightning.deploy.frontend.layers import is_channels_last
from bnn_lightning.deploy.frontend.pack import PackedLayers, example_images, pack_layers
from bnn_lightning.deploy.ir.graph import Graph, GraphError
from bnn_lightning.deploy.ir.shapes import types_of
from bnn_lightning.deploy.ir.types import ShapeError, text_of
from bnn_lightning.deploy.kernels.library import current_kernel
from bnn_lightning.deploy.passes.channels_first import channels_first
from bnn_lightning.deploy.passes.fold_epilogue import Folded, fold_epilogue
from bnn_lightning.deploy.passes.rows_as_maps import rows_as_maps
from bnn_lightning.deploy.passes.sequences import sequences_as_maps
from bnn_lightning.deploy.runtime.network import LoadedNetwork, are_for_kernels, can_be_planned
from bnn_lightning.deploy.runtime.on_demand import OnDemand, Watch
from bnn_lightning.models.backbone import Backbone
from bnn_lightning.utils.text import number_of

_TRAINING = "it, or a module in it, is in training mode: call eval()"


@dataclass(frozen=True, repr=False)
class PackReport:
    """The result of `pack`, layer by layer; its text names what is slower than it could be.

    Attributes:
        packed: Names of the layers that run on bits.
        folded: Names of the operations that these layers compute besides.
        left: Names of binary layers that are not packed, and why.
        unfolded: Names of the operations behind packed layers that could be folded and are not, and why.
        in_torch: Names of the operations of the plan that torch computes, and why.
        unplanned: Why there is no plan, so that torch runs the network layer by layer; or empty.

    Example:
        >>> PackReport(("conv",), (), {}, {"act": "there is no place for it"})
        1 binary layer packed, 0 operations folded into it
          NOT FOLDED: act: there is no place for it
    """

    packed: tuple[str, ...]
    folded: tuple[str, ...]
    left: dict[str, str]
    unfolded: dict[str, str] = field(default_factory=dict)
    in_torch: dict[str, str] = field(default_factory=dict)
    unplanned: str = ""

    def __repr__(self) -> str:
        packed, folded = number_of(len(self.packed), "binary layer"), number_of(len(self.folded), "operation")
        lines = [
            f"{packed} packed, {folded} folded into {'it' if len(self.packed) == 1 else 'them'}",
            *(f"  {name} is not packed: {reason}" for name, reason in self.left.items()),
            *(f"  {name} stays in torch: {reason}" for name, reason in self.in_torch.items()),
            *(f"  NOT FOLDED: {name}: {reason}" for name, reason in self.unfolded.items()),
        ]
        if self.unplanned:
            lines.append(f"  NO PLAN, torch runs it layer by layer, which is slower: {self.unplanned}")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Compiled:
    """Forms of a packed network: its trace and its folded graph.

    Attributes:
        trace: Its operations; None where it cannot be traced.
        folded: Its graph; None where the operations are none of a graph's.
        program: Runs the plan; None where there is none.
        reason: Why there is no plan.
        trained: A parameter that requires a gradient, if one does.
    """

    trace: Trace | None = None
    folded: Folded | None = None
    program: LoadedNetwork | None = None
    reason: str = ""
    trained: nn.Parameter | None = None


class PackedNetwork(OnDemand):
    """A network whose binary layers run on bits.

    It is captured at the first call in evaluation on a CPU, and runs by a plan then, with the bits of its file. What
    cannot be captured, images of another size than the example's, other devices and precisions, compilers that trace
    it, and, where it writes in place, images of another memory format run layer by layer in torch. Where parameters
    or buffers are changed, the plan is made anew; copies make their own.

    Args:
        layers: From `pack_layers`.
        shape: Shape of an image that it takes.
        takes_images: Whether its input is images in [0, 1], as that of every `Backbone`: others are refused at the
            first call. The input of a module of one's own may be anything.
    """

    network: nn.Module

    def __init__(self, layers: PackedLayers, shape: torch.Size, *, takes_images: bool = False) -> None:
        super().__init__()
        self._hide()
        self.__dict__["_hidden"] = layers.network  # not among the modules before these are asked for
        self._packed, self._left, self._shape = layers.packed, layers.left, shape
        self.takes_images = takes_images
        self._range_is_known = not takes_images
        self._compiled: _Compiled | None = None
        modules = layers.network.modules()
        self._hooked = any(module._forward_hooks or module._forward_pre_hooks for module in modules)

    def _made(self) -> tuple[dict[str, Tensor | None], dict[str, nn.Module | None]]:
        return {}, {"network": self._layers()}

    def _layers(self) -> nn.Module:
        """Return the network; unlike `network` this shows it to nobody, so that it need not be watched."""
        hidden: nn.Module | None = self.__dict__.get("_hidden")
        return self.network if hidden is None else hidden

    def _show(self) -> None:
        super()._show()
        self.__dict__.pop("_hidden", None)  # another one may take its place

    def _watched(self) -> Iterable[Tensor]:
        traced = None if self._compiled is None else self._compiled.trace
        return () if traced is None else traced.constants.values()

    def train(self, mode: bool = True) -> Self:
        """As of `nn.Module`."""
        if mode:
            self._show()  # a forward in training writes statistics
        self._layers().train(mode)
        return super().train(mode)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_watch": None, "_compiled": None}

    @property
    def report(self) -> PackReport:
        """Layers that were packed, and operations that were folded: the network is captured for it."""
        unplanned = self._refused()
        if self._is_training():  # a trace would be of training
            return PackReport(self._packed, (), self._left, unplanned=unplanned)
        compiled = self._compile()
        folded, program = compiled.folded, compiled.program
        unplanned = unplanned or compiled.reason
        if folded is None:
            return PackReport(self._packed, (), self._left, unplanned=unplanned)
        in_torch: dict[str, str] = {}
        if program is not None:
            types = program.typed_graph(takes_bytes=False).types
            for number in program.plan().torch_nodes:
                node = program.graph.nodes[number - 1]
                in_torch[node.name] = f"no kernel computes `{node.operation}` to {text_of(types[number])}"
        return PackReport(self._packed, folded.folded, self._left, folded.unfolded, in_torch, unplanned)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, num_classes).

        Args:
            images: Shape (N, C, H, W): floating, in [0, 1], or uint8, which count as their 255th part.

        Raises:
            TypeError: No tensor.
            ValueError: Images hold NaN or infinite values, or the first ones values beyond [0, 1].
        """
        refuse_jit()
        check_tensor(images)
        refuse_tangents(images)
        check_images(images)
        if not self._range_is_known:
            self._range_is_known = check_range(images)
        program = self._program_for(images)
        if program is None:
            return self.run_layers(images)
        logits = program.run(images)
        trained = None if self._compiled is None else self._compiled.trained
        return without_gradient(logits, trained) if trained is not None and torch.is_grad_enabled() else logits

    def run_layers(self, images: Tensor) -> Tensor:
        """Compute logits layer by layer in torch: what torch traces."""
        if images.dtype == torch.uint8:
            layers = self._layers()
            known = (item.dtype for item in (*layers.parameters(), *layers.buffers()) if item.is_floating_point())
            images = pixels(images).to(next(known, torch.float32))
        logits: Tensor = self._layers()(images)
        return logits

    def _program_for(self, images: Tensor) -> LoadedNetwork | None:
        """Return the network that runs the plan for these images; None where torch runs it layer by layer."""
        if torch.compiler.is_dynamo_compiling():  # knows no locks
            return None
        with _LOCK:  # while another thread traces, torch says so in this one, too, and replaces tensors of the layers
            program = self.program() if self._can_be_planned(images) else None
            trace = None if program is None or _is_in_order(images) else self._compile().trace
            return None if trace is not None and trace.writes_in_place else program

    def _can_be_planned(self, images: Tensor) -> bool:
        if not can_be_planned(images):
            return False
        return images.shape[1:] == self._shape and current_kernel() is not None

    def program(self) -> LoadedNetwork | None:
        """Return the network of its graph, which runs the plan; None where torch runs it layer by layer."""
        return None if self._refused() else self._compile().program

    def graph(self, shape: tuple[int, int, int]) -> Graph:
        """Return its graph, folded, for images of a shape.

        Raises:
            GraphError: It cannot be traced, computes with operations that graphs do not know, is in training mode or
                has modules that are, or has hooks of its own (those of modules within are traced).
        """
        if self._is_training():
            raise GraphError(f"A graph is of evaluation: {_TRAINING}.")
        if self._forward_hooks or self._forward_pre_hooks:
            raise GraphError("A graph does not hold hooks of the packed network itself: remove them.")
        own = shape == tuple(self._shape) and (self._watch is None or self._watch.counts)
        compiled = self._compile() if own else _compile(self._layers(), torch.Size(shape))
        if compiled.folded is None:
            raise GraphError(compiled.reason)
        return compiled.folded.graph

    def _refused(self) -> str:
        """Say why it cannot run by a plan whatever it computes, or nothing."""
        watch = self._watch
        if self._hooked if watch is None else watch.has_hooks():
            return "modules in it have hooks, which a plan does not call"
        if watch is not None and not watch.counts:
            return "it has tensors of inference mode, whose changes nobody counts"
        return _TRAINING if self._is_training() else ""

    def _is_training(self) -> bool:
        return self._watch is not None and self._watch.is_training()

    def _compile(self) -> _Compiled:
        """Return what it became, with the tensors that it has now."""
        compiled = self._compiled
        if compiled is not None and (self._watch is None or not self._watch.has_changed()):
            return compiled
        with _LOCK:
            self._update()
            if self._compiled is None:
                self._compiled = _compile(self._layers(), self._shape)
                self._watch = Watch(self, self._watched()) if self.is_shown else None
            return self._compiled

    def _update(self) -> None:
        if self._watch is None or self._compiled is None or not self._watch.has_changed():
            return
        trace = self._compiled.trace
        if self._watch.has_replaced():
            self._compiled = None
        elif trace is not None:
            self._compiled = _compile(self._layers(), self._shape, trace)
        self._watch = Watch(self, self._watched())


def _compile(network: nn.Module, shape: torch.Size, trace: Trace | None = None) -> _Compiled:
    """Capture a network for images of a shape, and fold and plan its graph.

    Args:
        network: With packed layers in it.
        shape: Shape of an image.
        trace: Its operations, if they are known: only the values of its tensors are new.
    """
    trained = next((parameter for parameter in network.parameters() if parameter.requires_grad), None)
    compiled = _Compiled(trace, trained=trained)
    if len(shape) != 3:
        return replace(compiled, reason=f"it takes {('N', *shape)}, and plans take images, (N, C, H, W)")
    if not are_for_kernels(network):
        return replace(compiled, reason="its tensors are not all on the CPU, with floats in float32")
    images = (shape[0], shape[1], shape[2])
    try:
        trace = trace or Trace(network, torch.full((2, *shape), 0.5, dtype=torch.float32, device=CPU))
        graph = trace.graph()
        graph = sequences_as_maps(graph, types_of(graph, images))
        graph = channels_first(graph, types_of(graph, images))
        folded = fold_epilogue(graph, types_of(graph, images))
        folded = replace(folded, graph=rows_as_maps(folded.graph, types_of(folded.graph, images)))
    except (GraphError, ShapeError) as error:
        return replace(compiled, trace=trace, reason=str(error))
    compiled = replace(compiled, trace=trace, folded=folded)
    try:
        types = dry_run(folded.graph, images)
        program = LoadedNetwork(folded.graph, PackedInfo("", shape[0], images[1:]), takes_images=False, types=types)
        program.plan()
    except ValueError as error:
        return replace(compiled, reason=str(error))
    return replace(compiled, program=program)


def _is_in_order(images: Tensor) -> bool:
    """Whether images have the memory format of the example that a network is traced with."""
    return images.is_contiguous() and not is_channels_last(images)


def pack(model: nn.Module, example: Tensor | None = None) -> PackedNetwork:
    """Pack a trained network: its binary layers compute on bits, and what follows them in the same pass.

    The outputs are those of `model` in evaluation, but for the order in which averages, linear layers and layer norms
    add, and for GELU and softmax, which are within 5e-7 of torch's: a sign behind these may turn where its input lies
    that near to the threshold. What has no kernel stays in torch, and so does a `BinaryConv3d`, a
    `BinaryConvTranspose2d` whose stride does not divide its kernel, or a layer that computes otherwise (a `forward` or
    hooks of its own, a binarizer that is no `threshold()`): the report says why.

    Args:
        model: A backbone, or any network built from our layers. It is not changed.
        example: Images that it takes; None takes the network's own `in_channels` and `image_size`. Plans are for images
            of this size, and for any number of them.

    Raises:
        ValueError: It is not binary (an unfinished annealing, or weights that are neither -1 nor +1), it has no binary
            layers or other weights than float32, a tensor holds NaN, it cannot be copied, or there is no example.
        TypeError: The model is no module, or the example no tensor.

    Example:
        >>> from bnn_lightning.models import create_backbone
        >>> network = create_backbone("resnet20", num_classes=10, image_size=32).eval()
        >>> images = torch.rand(2, 3, 32, 32)
        >>> packed = pack(network)
        >>> len(packed.report.packed), packed.report.left
        (18, {})
        >>> torch.allclose(packed(images), network(images), atol=1e-3)
        True
    """
    if example is not None:
        check_tensor(example)
    layers = pack_layers(model)
    example = example_images(model) if example is None else example
    return PackedNetwork(layers, example.shape[1:], takes_images=isinstance(model, Backbone)).eval()


def _begin() -> None:
    global _LOCK
    _LOCK = threading.RLock()


# Networks are traced one at a time; a forked process begins with a lock that no thread of its parent holds.
_LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_begin)
