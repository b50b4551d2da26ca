"""Let packed layers absorb what follows them: batch norm, an addition, shifts, PReLU, Hardtanh."""

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from bnn_lightning.deploy.frontend.layers import PackedConv2d
from bnn_lightning.deploy.frontend.recording import first_difference
from bnn_lightning.layers.activation import Hardtanh, LearnableBias, PReLU
from bnn_lightning.layers.binary import BinaryLayer

_ADDITIONS = (operator.add, operator.iadd, torch.add)
# Errors of tracing where Python looks at values or shapes.
_UNTRACEABLE = (fx.proxy.TraceError, AttributeError, NotImplementedError, RuntimeError, TypeError, ValueError)
# Stages of a layer's epilogue; each step may follow those before it.
_AFFINE, _RESIDUAL, _LIFT, _SLOPE, _SHIFT, _CLAMP = range(6)
_NO_PLACE = "there is no place for it behind what was folded before"


@dataclass(frozen=True)
class Fused:
    """The result of `fuse`.

    Attributes:
        network: The network to use.
        folded: Names of the operations that packed layers compute now.
        unfolded: Names of the operations behind packed layers that could be folded and are not, and why.
        unfused: Why nothing was folded, or an empty text.
    """

    network: nn.Module
    folded: tuple[str, ...] = ()
    unfolded: dict[str, str] = field(default_factory=dict)
    unfused: str = ""


def fuse(model: nn.Module, example: Tensor) -> Fused:
    """Fold the operations behind packed layers into them.

    Folded is what has no other user and stands in the order that kernels have: affine maps, one addition, a shift,
    PReLU, a shift, clamp. Each keeps its rounding; what has no place for it is not folded. The network must be one that
    can be traced: the trace must run the same operations on the same tensors as the network itself (`recording`), so
    that the folded network has its bits.

    Args:
        model: In evaluation mode, with `PackedConv2d` layers in it. Its packed layers are changed.
        example: Images, (N, C, H, W), to learn shapes from. A single one is taken twice: what is added to each image
            alike is not a map of these images.
    """
    try:
        graph = _Tracer().trace(model)
        traced = fx.GraphModule(model, graph)
        images = example if len(example) > 1 else torch.cat([example, example])
        with torch.no_grad():
            ShapeProp(traced).propagate(images.clone())
        difference = first_difference(traced, model, images)
    except _UNTRACEABLE as error:
        return Fused(model, unfused=f"The network cannot be traced: {error}")
    if difference:  # `view += y`, which tracing takes for `view + y`, or a choice that tracing does not see
        return Fused(model, unfused=f"The network cannot be traced: in the trace, {difference}.")
    calls = Counter(id(_module(traced, node)) for node in graph.nodes if node.op == "call_module")
    chains = [_Chain.starting_at(traced, node, calls) for node in list(graph.nodes)]
    for chain in chains:
        chain.absorb()
    graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    folded = [name for chain in chains for name in chain.folded]
    unfolded = {name: reason for chain in chains for name, reason in chain.stopped.items() if name not in folded}
    return Fused(traced, tuple(folded), unfolded)


def batch_norm_affine(
    mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift that torch's batch norm computes with in evaluation, to the bit.

    Args:
        mean: Running mean, (channels,).
        variance: Running variance, (channels,).
        weight: Shape (channels,), or None.
        bias: Shape (channels,), or None.
        eps: Added to the variance.

    Example:
        >>> batch_norm_affine(torch.tensor([2.0]), torch.tensor([3.0]), None, torch.tensor([5.0]), eps=1.0)
        (tensor([0.5000]), tensor([4.]))
    """
    # It is asked for them: where nothing is subtracted it returns the scale of a one, and the shift of a zero. That of
    # the CPU: on a GPU it subtracts first.
    device, mean, variance = mean.device, mean.detach().cpu(), variance.detach().cpu()
    weight, bias = (None if item is None else item.detach().cpu() for item in (weight, bias))
    zeros, ones = torch.zeros_like(mean)[None], torch.ones_like(mean)[None]
    scale = F.batch_norm(ones, zeros[0], variance, weight, None, eps=eps)[0]
    return scale.to(device), F.batch_norm(zeros, mean, variance, weight, bias, eps=eps)[0].to(device)


class _Tracer(fx.Tracer):
    """Looks into whatever has layers within, and calls layers as they are."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A binary layer that stays in torch computes what no trace shows: autograd functions.
        return isinstance(m, BinaryLayer) or not any(True for _ in m.children())


@dataclass
class _Chain:
    """A packed layer's call in a graph, and how far its epilogue has come.

    Attributes:
        traced: The network.
        node: The call, or the last operation that was folded into it.
        layer: The packed layer; None for any other call.
        again: Whether the layer is called elsewhere, too: these calls have other followers.
        stage: Last stage of its epilogue.
        folded: Names of what it computes besides.
        stopped: Names of what follows and cannot be folded into it, and why.
    """

    traced: fx.GraphModule
    node: fx.Node
    layer: PackedConv2d | None
    again: bool
    stage: int = _AFFINE
    folded: list[str] = field(default_factory=list)
    stopped: dict[str, str] = field(default_factory=dict)

    @classmethod
    def starting_at(cls, traced: fx.GraphModule, node: fx.Node, calls: Mapping[int, int]) -> "_Chain":
        layer = _module(traced, node)
        return cls(traced, node, layer if isinstance(layer, PackedConv2d) else None, calls[id(layer)] > 1)

    def absorb(self) -> None:
        """Fold what follows, as far as it goes."""
        while self.layer is not None:
            followers = [node for node in self.node.users if self._can_be_folded(node)]
            if len(self.node.users) != 1 or not followers:  # floats that are read anyway
                return
            (follower,) = followers
            reason = "its layer is called more than once" if self.again else self._fold(follower)
            name = str(follower.target) if follower.op == "call_module" else follower.name
            if reason:
                self.stopped[name] = reason
                return
            self.folded.append(name)

    def _can_be_folded(self, node: fx.Node) -> bool:
        return _is_addition(node) or isinstance(_module(self.traced, node), tuple(_STEPS))

    def _fold(self, follower: fx.Node) -> str:
        """Fold an operation; say why not, or nothing."""
        return self._add(follower) if _is_addition(follower) else self._apply(follower)

    def _apply(self, follower: fx.Node) -> str:
        """Fold a module that maps one tensor."""
        module = _module(self.traced, follower)
        assert module is not None
        assert self.layer is not None
        if not is_plain(module, *_STEPS):
            return "it has a `forward` or hooks of its own"
        if module.training:
            return "it is in training mode"
        step = next(step for kind, step in _STEPS.items() if isinstance(module, kind))
        stage = step(module, self.layer, self.stage)
        if stage is None:
            return _NO_PLACE
        self.stage = stage
        follower.replace_all_uses_with(self.node)
        self.traced.graph.erase_node(follower)
        return ""

    def _add(self, follower: fx.Node) -> str:
        """Fold the addition of a tensor of the same shape: the layer is called where the sum stood."""
        left, right = (*follower.args, None, None)[:2]
        other = right if left is self.node else left
        if self.stage != _AFFINE:
            return _NO_PLACE
        if (
            follower.kwargs
            or not isinstance(other, fx.Node)
            or other is self.node
            or _shape(other) != _shape(self.node)
        ):
            return "it does not add two maps of one shape"
        # A sum in place overwrites a tensor that may be read again, by this name or as a view.
        overwrites = follower.target in (operator.iadd, "add_") and left is other
        if overwrites or _writes_between(self.traced, self.node, follower):
            return "a map is changed in place"
        call = self.node
        with self.traced.graph.inserting_before(follower):
            self.node = self.traced.graph.call_module(str(call.target), (call.args[0], other))
        self.node.meta = dict(follower.meta)
        follower.replace_all_uses_with(self.node)
        self.traced.graph.erase_node(follower)
        self.traced.graph.erase_node(call)
        self.stage = _RESIDUAL
        return ""


# The steps: what a module does to the layer's epilogue, and the stage after it; None where the order forbids it.


def _batch_norm(module: nn.Module, layer: PackedConv2d, stage: int) -> int | None:
    assert isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
    if stage != _AFFINE or module.running_mean is None or module.running_var is None:
        return None
    norm = batch_norm_affine(module.running_mean, module.running_var, module.weight, module.bias, module.eps)
    return _AFFINE if layer.fold_affine_(*norm) else None


def _prelu(module: nn.Module, layer: PackedConv2d, stage: int) -> int | None:
    assert isinstance(module, nn.PReLU)
    if stage > _LIFT:
        return None
    layer.slope = layer.spread(module.weight.expand(layer.out_channels))
    return _SLOPE


def _shift(module: nn.Module, layer: PackedConv2d, stage: int) -> int | None:
    assert isinstance(module, LearnableBias)
    if stage == _AFFINE and layer.fold_affine_(torch.ones_like(module.bias), module.bias):
        return _AFFINE
    if stage > _SLOPE:
        return None
    if stage > _RESIDUAL:
        layer.shift = layer.spread(module.bias)
        return _SHIFT
    layer.lift = layer.spread(module.bias)
    return _LIFT


def _hardtanh(module: nn.Module, layer: PackedConv2d, stage: int) -> int | None:
    assert isinstance(module, nn.Hardtanh)
    if stage > _SHIFT:
        return None
    layer.low, layer.high = float(module.min_val), float(module.max_val)
    return _CLAMP


def _identity(module: nn.Module, layer: PackedConv2d, stage: int) -> int | None:
    return stage


_STEPS: dict[type[nn.Module], Callable[[nn.Module, PackedConv2d, int], int | None]] = {
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    LearnableBias: _shift,
    PReLU: _prelu,
    nn.PReLU: _prelu,
    Hardtanh: _hardtanh,
    nn.Hardtanh: _hardtanh,
    nn.Identity: _identity,
    nn.Dropout: _identity,
}


def is_plain(module: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a module computes what one of these classes does: no `forward` of its own, no hooks.

    Example:
        >>> class Loud(nn.PReLU):
        ...     def forward(self, input: Tensor) -> Tensor:
        ...         return 2 * super().forward(input)
        >>> is_plain(nn.PReLU(), nn.PReLU), is_plain(Loud(), nn.PReLU)
        (True, False)
    """
    return not (module._forward_hooks or module._forward_pre_hooks) and any(
        isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds
    )


def _is_addition(node: fx.Node) -> bool:
    if node.op == "call_function":
        return node.target in _ADDITIONS
    return node.op == "call_method" and node.target in ("add", "add_")


def _module(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    return traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _shape(node: fx.Node) -> torch.Size | None:
    return getattr(node.meta.get("tensor_meta"), "shape", None)


def _writes_between(traced: fx.GraphModule, first: fx.Node, last: fx.Node) -> bool:
    """Whether something is changed in place between two nodes: the first one's input must not."""
    node = first.next
    while node is not last:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        method = node.op == "call_method" and name.endswith("_") and not name.endswith("__")
        function = node.op == "call_function" and (name.endswith("_") or node.target in (operator.iadd, operator.imul))
        module = _module(traced, node)
        if method or function or node.kwargs.get("inplace") or getattr(module, "inplace", False):
            return True
        node = node.next
    return False
