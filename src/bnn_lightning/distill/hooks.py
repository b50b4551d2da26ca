"""Hooks on the forward pass of a student, for any backbone of our binary layers."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from bnn_lightning.layers.binary import BinaryLayer, input_of
from bnn_lightning.layers.module_utils import replace_attribute


class Record(NamedTuple):
    """An output of a module, and the version of its memory when it was recorded."""

    module: Any
    value: Tensor | None
    version: int

    @property
    def intact(self) -> bool:
        """Whether the output is a tensor that nobody has changed in place since."""
        return self.value is not None and self.value._version == self.version


class Parts(NamedTuple):
    """The modules of a backbone that are watched or changed, found in one walk; shared ones once.

    Attributes:
        layers: The binary layers.
        tapped: The modules named by `feature_taps()`, or the binary layers of a backbone that names none.
        norms: torch's normalization layers that note running statistics now.
        compiled: Modules that `torch.compile` has replaced.
    """

    layers: list[BinaryLayer]
    tapped: list[nn.Module]
    norms: list[nn.Module]
    compiled: list[nn.Module]


def parts_of(backbone: nn.Module) -> Parts:
    """Find the parts of a backbone.

    Raises:
        ValueError: It has no binary layer.
    """
    modules = list(backbone.modules())
    layers = [m for m in modules if isinstance(m, BinaryLayer) and m.is_binary_layer]
    if not layers:
        raise ValueError(
            f"{type(backbone).__name__} has no binary layer, so that it cannot be its own teacher: "
            "set `alpha=0`, or build the network with `binary=True`."
        )
    declared: Any = getattr(backbone, "feature_taps", list)
    tapped: dict[int, nn.Module] = {id(m): m for m in map(backbone.get_submodule, declared())}
    tapped = tapped or {id(m): m for m in layers}
    norms: list[nn.Module] = [m for m in modules if isinstance(m, _NormBase) and m.training and m.track_running_stats]
    return Parts(layers, list(tapped.values()), norms, compiled_modules(modules))


def compiled_modules(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Return those of `modules` that `torch.compile` has replaced."""
    return [m for m in modules if m._compiled_call_impl is not None]


@dataclass(eq=False)
class Taps:
    """Records of one forward of a backbone.

    Attributes:
        backbone: The network, or None if nothing was recorded for a second stream.
        parts: Its parts, if they were asked for.
        call: Its positional and keyword arguments.
        features: The classifier's input, with its graph, or None if it was not asked for.
        tapped: The outputs of `Parts.tapped`, with their graph, in order of execution.
        products: The output before the bias of each binary layer, without graph, in order of execution.
        stem: Outputs, without graph, of the outermost modules that had finished before the first binary layer began.
        maps: Feature maps (N, C, H, W), with their graph, recorded by `record_maps`.
    """

    backbone: nn.Module | None = None
    parts: Parts | None = None
    call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    features: Tensor | None = None
    tapped: deque[Record] = field(default_factory=deque)
    products: deque[Record] = field(default_factory=deque)
    stem: deque[Record] = field(default_factory=deque)
    maps: dict[Any, Tensor] = field(default_factory=dict)


@contextmanager
def watch(backbone: nn.Module, *, penultimate: bool = False, stream: bool = False) -> Iterator[Taps]:
    """Record one call of `backbone`; on leaving, the backbone is as it was.

    While something is recorded, a compiled backbone runs as it was written: a compiled graph keeps the hooks that it
    was traced with, and calls no others.

    Args:
        backbone: Built from our binary layers. It may declare `feature_taps()` (names of the submodules whose outputs
            follow the binary layers; without, these are the layers' own outputs) and `classifier_name` (of the
            submodule whose input is the penultimate feature; without, it is the linear layer that gives the logits).
        penultimate: Record the classifier's input.
        stream: Record what `run_self_teacher` needs.

    Raises:
        ValueError: The backbone has no binary layer, or its logits come from no linear layer and it declares no
            `classifier_name`.
        RuntimeError: The backbone is called twice.
    """
    taps = Taps()
    with ExitStack() as stack:
        if stream:
            taps.parts = parts_of(backbone)
            run_eagerly(taps.parts.compiled, stack)
            _watch_stream(backbone, taps.parts, taps, stack)
        elif penultimate:
            run_eagerly(compiled_modules(backbone.modules()), stack)
        if penultimate:
            _watch_classifier(backbone, taps, stack)
        yield taps


def run_eagerly(compiled: list[nn.Module], stack: ExitStack) -> None:
    """Put what `torch.compile` made of the modules aside, until `stack` is closed."""
    for module in compiled:
        replace_attribute(module, "_compiled_call_impl", None, stack)


def record(module: object, value: Any) -> Record:
    """Record `value`, an output of `module`, without its graph."""
    if not isinstance(value, Tensor):
        return Record(module, None, 0)
    return Record(module, value.detach(), value._version)


def _watch_classifier(backbone: nn.Module, taps: Taps, stack: ExitStack) -> None:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        taps.features = input_of(args, kwargs)

    name = getattr(backbone, "classifier_name", None)
    if name is None:
        _find_classifier(backbone, taps, stack)
    else:
        stack.callback(backbone.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True).remove)


def _find_classifier(backbone: nn.Module, taps: Taps, stack: ExitStack) -> None:
    """Record the input of the linear layer whose output the backbone returns."""
    last: tuple[Any, Any] = (None, None)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        nonlocal last
        last = input_of(args, kwargs), output

    def end(module: nn.Module, args: tuple[Any, ...], logits: Any) -> None:
        features, output = last
        if output is None or output is not logits:
            raise ValueError(
                f"The logits of {type(backbone).__name__} are not the output of a linear layer, so that the cluster "
                "loss does not know their features: give the class the attribute `classifier_name`, the name of the "
                "module whose input they are, or set `gamma=0` or `cluster_on=logits`."
            )
        taps.features = features

    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            stack.callback(module.register_forward_hook(note, with_kwargs=True).remove)
    stack.callback(backbone.register_forward_hook(end).remove)


def _watch_stream(backbone: nn.Module, parts: Parts, taps: Taps, stack: ExitStack) -> None:
    def begin(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if taps.backbone is not None:
            raise RuntimeError("The backbone was called twice within one `watch`; open another for the second call.")
        taps.backbone, taps.call = backbone, (args, kwargs)

    def tap(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        if taps.products:  # before the first binary layer (a shared activation in the stem) there is nothing to match
            # An activation behind a layer may be in place.
            output = output.clone() if isinstance(module, BinaryLayer) else output
            taps.tapped.append(Record(module, output, output._version))

    stop_recording_stem = _watch_stem(backbone, taps, stack)
    stack.callback(backbone.register_forward_pre_hook(begin, with_kwargs=True).remove)
    for module in parts.tapped:
        stack.callback(module.register_forward_hook(tap).remove)
    for layer in parts.layers:
        replace_attribute(layer, "scaled_dot", _recording(layer, taps, stop_recording_stem), stack)


def _recording(layer: BinaryLayer, taps: Taps, stop_recording_stem: Callable[[], None]) -> Callable[[Tensor], Tensor]:
    scaled_dot = layer.scaled_dot

    def recording(x: Tensor) -> Tensor:
        if not taps.products:
            stop_recording_stem()
        y = scaled_dot(x)
        taps.products.append(record(layer, y))
        return y

    return recording


def _watch_stem(backbone: nn.Module, taps: Taps, stack: ExitStack) -> Callable[[], None]:
    """Record the modules that finish within `backbone`, outermost ones only, until the returned function is called."""
    started: list[int] = []  # for each module that runs: how many records there were when it began

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        if started or module is backbone:
            started.append(len(taps.stem))

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if started:
            first = started.pop()
            while len(taps.stem) > first:
                taps.stem.pop()
            taps.stem.append(record(module, output))

    # Hooks for all modules of the process at once: registering them one by one takes longer than a GPU's whole stem.
    recording = stack.enter_context(ExitStack())
    recording.callback(register_module_forward_pre_hook(enter).remove)
    recording.callback(register_module_forward_hook(leave).remove)
    return recording.close
