"""The self-teacher stream."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import Binarizer, Libra, SignEDE, SignSTE, WeightSign
from bnn_lightning.distill import run_self_teacher, watch
from bnn_lightning.distill.self_teacher import latent_dot
from bnn_lightning.layers import BinaryConv2d, BinaryLayer, BinaryLinear, binary_layers
from bnn_lightning.models import create_backbone

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import BACKBONES, small_options


class Tapped(nn.Sequential):
    """A chain whose taps are named when it is built."""

    def __init__(self, *modules: nn.Module, taps: list[str]) -> None:
        super().__init__(*modules)
        self.taps = taps

    def feature_taps(self) -> list[str]:
        return self.taps


def small(name: str) -> nn.Module:
    options = small_options(name, **({"width": 16, "dropout": 0.0} if name == "mlp" else {"width": 4}))
    torch.manual_seed(0)
    return create_backbone(name, num_classes=3, in_channels=2, image_size=32, **options)


def images(size: int = 32, channels: int = 2) -> Tensor:
    return torch.rand(4, channels, size, size, generator=torch.Generator().manual_seed(1))


def stream(
    backbone: nn.Module, *args: Tensor, prepare: Callable[..., None] = lambda taps: None, **options: object
) -> tuple[list[Tensor], list[Tensor]]:
    with watch(backbone, stream=True) as taps:
        backbone(*args)
    prepare(taps)
    student: list[Tensor] = []
    teacher: list[Tensor] = []

    def take(a: Tensor, b: Tensor) -> None:
        student.append(a)
        teacher.append(b.clone())

    run_self_teacher(taps, take, **options)
    return student, teacher


def test_published_vector_of_the_swapped_product() -> None:
    """Vector A7: the student's input and the teacher's differ."""
    weight_binarizer, input_binarizer = Libra(), SignEDE()
    conv = BinaryConv2d(2, 2, 2, bias=False, input_binarizer=input_binarizer, weight_binarizer=weight_binarizer)
    conv.weight.data = torch.tensor(
        [[1, 2, -3, 4, 0.5, -1, 2, -2], [3, 3, 3, -1, 0.1, 0.2, 0.3, 0.4]], dtype=torch.float64
    ).view(2, 2, 2, 2)
    x = torch.linspace(-1, 1, 18, dtype=torch.float64).view(1, 2, 3, 3)
    teacher_input = torch.arange(18, dtype=torch.float64).cos().view(1, 2, 3, 3)

    def swap_input(taps) -> None:
        taps.call = ((teacher_input,), {})

    (student,), (teacher,) = stream(Tapped(conv, nn.Identity(), taps=["1"]), x, prepare=swap_input)
    assert student.flatten().tolist() == [-2, -2, -2, -2, -6, -6, -6, -6]
    assert teacher.flatten().tolist() == [2, 2, -2, -2, 6, -6, -6, 6]


@pytest.mark.parametrize("name", BACKBONES)
def test_the_stem_that_is_not_computed_again_changes_nothing(name: str) -> None:
    backbone = small(name)
    _, replayed = stream(backbone, images())
    _, recomputed = stream(backbone, images(), prepare=lambda taps: taps.stem.clear())
    assert len(replayed) == len(recomputed) == len(binary_layers(backbone))
    for a, b in zip(replayed, recomputed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


# AlexNet's head is binary.
@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "binary_alexnet"])
def test_one_run_of_every_layer_but_stem_and_head(name: str) -> None:
    backbone = small(name)
    calls: dict[str, int] = {}
    for path, module in backbone.named_modules():
        if isinstance(module, BinaryLayer) or not (list(module.children()) or isinstance(module, Binarizer)):

            def count(module: nn.Module, args: object, path: str = path) -> None:
                calls[path] = calls.get(path, 0) + 1

            module.register_forward_pre_hook(count)
    backbone(images())
    once = dict(calls)
    calls.clear()
    stream(backbone, images())
    again = dict(calls)
    calls.clear()
    backbone.forward_features(images())
    before_head = dict(calls)
    head = [path for path in once if path not in before_head]
    first = next(iter(binary_layers(backbone)))
    order = list(once)
    assert backbone.classifier_name in head
    assert all(again[path] == once[path] for path in head)
    for path in order[order.index(first) :]:
        if path not in head and not path.startswith("last"):  # which follows the last feature
            assert again[path] == 2 * once[path], path


def test_stem_convolution_runs_once() -> None:
    for name in ("resnet20", "resnet18", "vgg_small"):
        backbone = small(name)
        stem = next(m for m in backbone.modules() if isinstance(m, nn.Conv2d))
        assert not getattr(stem, "is_binary_layer", False)
        runs = []
        forward = stem.forward
        stem.forward = lambda x, runs=runs, forward=forward: (runs.append(1), forward(x))[1]  # type: ignore[method-assign]
        stream(backbone, images())
        assert len(runs) == 1, name


class InPlaceStem(nn.Module):
    """Outputs of stem modules that are changed in place by functions and by modules, before and after they are used."""

    classifier_name = "top"

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.inner = nn.Sequential(nn.BatchNorm2d(4), nn.Hardtanh(inplace=True))
        self.binary = BinaryConv2d(4, 4, 3, padding=1, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
        self.act = nn.Hardtanh()
        self.top = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        doubled = x * 2
        x = F.hardtanh_(x)
        x = self.inner(x + doubled)
        x = x.mul_(1.5)
        y = self.act(self.binary(x) * 0.1 + x)
        return self.top(y.mean((2, 3)))

    def feature_taps(self) -> list[str]:
        return ["act"]


def test_stem_outputs_changed_in_place_are_computed_again() -> None:
    torch.manual_seed(0)
    backbone = InPlaceStem()
    _, replayed = stream(backbone, images(8))
    _, recomputed = stream(backbone, images(8), prepare=lambda taps: taps.stem.clear())
    torch.testing.assert_close(replayed[0], recomputed[0], rtol=0, atol=1e-6)


def test_home_made_backbone(home_made: nn.Module) -> None:
    """Its stream, written down by hand."""
    x = images(8)
    student, teacher = stream(home_made, x)
    assert len(student) == len(teacher) == 4  # the shared activation twice behind binary layers, and not in the stem

    m = home_made
    with torch.no_grad():

        def both(layer: nn.Module, a: Tensor, b: Tensor, pad: float = 0.0) -> tuple[Tensor, Tensor]:
            def dot(v: Tensor, w: Tensor) -> Tensor:
                if v.ndim == 2:
                    return F.linear(v, w)
                p = layer.padding[0]
                return F.conv2d(F.pad(v, (p, p, p, p), value=pad), w)

            def signs(v: Tensor) -> Tensor:
                return torch.where(v >= 0, 1.0, -1.0)

            y = dot(signs(a), signs(layer.weight))
            if layer is m.left:
                y = y * layer.weight.abs().mean((1, 2, 3)).view(-1, 1, 1)
            bias = 0.0 if layer.bias is None else layer.bias.view(-1, *[1] * (y.ndim - 2))
            return y + bias, y.abs() * signs(dot(b, layer.weight)) + bias

        def norm(bn: nn.BatchNorm2d, v: Tensor) -> Tensor:
            return F.batch_norm(v, None, None, bn.weight, bn.bias, training=True)

        a = b = m.act(norm(m.stem[1], m.stem[0](x)))
        expected = []
        for bn in m.bn:
            y, swapped = both(m.twice, a, b)
            a, b = m.act(norm(bn, y) + a), m.act(norm(bn, swapped) + b)
            expected.append((a, b))
        left, right = both(m.left, a, b), both(m.right, a, b, pad=-1.0)
        a, b = (m.act(u * 0.1 + v * 0.2) for u, v in zip(left, right, strict=True))
        expected.append((a, b))
        a, b = (m.last(v) for v in both(m.after, a.mean((2, 3)), b.mean((2, 3))))
        expected.append((a, b))
    for s, t, (es, et) in zip(student, teacher, expected, strict=True):
        torch.testing.assert_close(s, es, rtol=0, atol=1e-5)
        torch.testing.assert_close(t, et, rtol=0, atol=1e-5)
    assert (student[1] - teacher[1]).abs().max() > 0.1


def test_a_backbone_without_taps_compares_the_outputs_of_its_binary_layers(home_made: nn.Module) -> None:
    home_made.feature_taps = list
    x = images(8)
    student, teacher = stream(home_made, x)
    assert len(student) == len(teacher) == 5
    layer, seen = home_made.twice, home_made.act(home_made.stem(x))
    y, bias = layer.scaled_dot(seen), layer.bias.view(-1, 1, 1)
    torch.testing.assert_close(student[0], y + bias, rtol=0, atol=1e-5)
    swapped = y.abs() * torch.where(F.conv2d(seen, layer.weight, padding=1) >= 0, 1, -1) + bias
    torch.testing.assert_close(teacher[0], swapped, rtol=0, atol=1e-5)


def test_an_activation_in_place_behind_a_compared_layer_changes_nothing() -> None:
    torch.manual_seed(0)
    linear = BinaryLinear(8, 5, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    found = [stream(nn.Sequential(linear, nn.Hardswish(inplace)), images(8) - 0.5) for inplace in (False, True)]
    for expected, value in zip(*found, strict=True):
        assert torch.equal(expected[0], value[0])


def test_features_of_linear_layers_come_with_channels_second() -> None:
    linear = BinaryLinear(8, 5, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    (student,), (teacher,) = stream(nn.Sequential(nn.Tanh(), linear), images(8))
    assert student.shape == teacher.shape == (len(student), 5, 2, 8)
    assert torch.equal(student, linear(images(8).tanh()).movedim(-1, 1))


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_network_is_left_as_it_was(name: str, momentum: float | None) -> None:
    """Running statistics, gradients, the student's graph and every attribute."""
    reference, backbone = small(name), small(name)
    for module in (*reference.modules(), *backbone.modules()):
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = momentum
    attributes = {path: dict(vars(m)) for path, m in backbone.named_modules()}
    expected = reference(images())
    with watch(backbone, stream=True) as taps:
        logits = backbone(images())
    run_self_teacher(taps, lambda student, teacher: None)
    assert torch.equal(logits, expected)
    for (key, value), other in zip(backbone.state_dict().items(), reference.state_dict().values(), strict=True):
        assert torch.equal(value, other), key
    for path, module in backbone.named_modules():
        assert vars(module).keys() == attributes[path].keys(), path
    logits.sum().backward()
    expected.sum().backward()
    for (key, value), other in zip(backbone.named_parameters(), reference.parameters(), strict=True):
        assert torch.equal(value.grad, other.grad), key


def test_batch_norm_in_evaluation_uses_its_running_statistics(home_made: nn.Module) -> None:
    home_made(images(8))
    home_made.eval()
    _, teacher = stream(home_made, images(8))
    bn = home_made.bn[0]
    assert bn.track_running_stats
    x = home_made.act(home_made.stem(images(8)))
    y = home_made.twice.scaled_dot(x).abs() * torch.where(F.conv2d(x, home_made.twice.weight, padding=1) >= 0, 1, -1)
    expected = home_made.act(bn(y + home_made.twice.bias.view(-1, 1, 1)) + x)
    torch.testing.assert_close(teacher[0], expected, rtol=0, atol=1e-5)


def test_dropout_in_the_stem_keeps_its_mask_and_further_on_draws_its_own(home_made_with_dropout: nn.Module) -> None:
    masks: list[Tensor] = []
    home_made_with_dropout.stem.register_forward_hook(lambda module, args, output: masks.append(output))
    stream(home_made_with_dropout, images(8))
    assert len(masks) == 2  # the hook runs, the stem does not
    assert torch.equal(masks[0], masks[1])

    drop = nn.Dropout(0.5)
    linear = BinaryLinear(2 * 8 * 8, 64, input_binarizer=None, weight_binarizer=WeightSign())
    (student,), (teacher,) = stream(Tapped(nn.Flatten(), linear, drop, taps=["2"]), images(8))
    assert ((student == 0) != (teacher == 0)).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [1, 3, 16, 65])
def test_products_of_zeros_are_positive_zeros(dtype: torch.dtype, size: int) -> None:
    """`copysign` can stand for our sign."""
    binarizer = WeightSign()
    for layer in (
        BinaryLinear(size, size, weight_binarizer=binarizer),
        BinaryConv2d(size, size, 3, padding=1, weight_binarizer=binarizer),
        BinaryConv2d(size, size, 1, groups=size, weight_binarizer=binarizer),
        BinaryConv2d(size, size, 3, padding=1, groups=size, weight_binarizer=binarizer),
    ):
        shape = (2, size) if isinstance(layer, BinaryLinear) else (2, size, 5, 5)
        for sign in (1.0, -1.0):
            layer.weight.data.uniform_(0.5, 1.0).mul_(-sign)
            product = latent_dot(layer, torch.zeros(shape) * sign, dtype)
            assert not torch.signbit(product).any()


def test_zero_counts_as_positive() -> None:
    linear = BinaryLinear(2, 2, bias=False, weight_binarizer=WeightSign())
    linear.weight.data = torch.tensor([[-1.0, -1.0], [1.0, -2.0]])

    def swap_input(taps) -> None:
        taps.call = ((torch.tensor([[0.0, 0.0], [-0.0, -0.0], [2.0, 1.0]]),), {})

    student_input = torch.tensor([[1.0, 2.0]]).expand(3, 2)  # products -3 and -1
    _, (teacher,) = stream(Tapped(linear, nn.Identity(), taps=["1"]), student_input, prepare=swap_input)
    assert teacher.tolist() == [[3, 1], [3, 1], [-3, 1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("autocast", [False, True])
def test_precision_of_the_products(home_made: nn.Module, dtype: torch.dtype, autocast: bool) -> None:
    seen: list[torch.dtype] = []

    def dot(layer, x: Tensor) -> Tensor:
        y = latent_dot(layer, x, dtype)
        seen.append(y.dtype)
        return y

    with torch.autocast("cpu", dtype=torch.bfloat16) if autocast else nullcontext():
        student, teacher = stream(home_made, images(8), dot=dot)
    assert seen == [dtype] * 5
    for s, t in zip(student, teacher, strict=True):
        assert s.dtype == t.dtype
        assert torch.isfinite(t).all()


def test_gradient_survives_autocast_after_the_stream() -> None:
    """Weights that autocast keeps in half precision without gradient would cut the next forward's graph."""
    conv = BinaryConv2d(2, 2, 1, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    backbone = Tapped(conv, nn.Conv2d(2, 2, 1), nn.Hardtanh(), taps=["2"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with watch(backbone, stream=True) as taps:
            backbone(images(8))
        torch.clear_autocast_cache()
        run_self_teacher(taps, lambda student, teacher: None)
        loss = backbone(images(8)).sum()
    loss.backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_keyword_arguments_travel(home_made: nn.Module) -> None:
    with watch(home_made, stream=True) as taps:
        home_made(images(8), gain=0.5)
    teacher: list[Tensor] = []
    run_self_teacher(taps, lambda a, b: teacher.append(b))
    _, expected = stream(home_made, images(8) * 0.5)
    for a, b in zip(teacher, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


class Alternating(nn.Module):
    """Takes another way at every call."""

    classifier_name = "top"

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            BinaryLinear(4, 4, input_binarizer=SignSTE(), weight_binarizer=WeightSign()) for _ in range(2)
        )
        self.act = nn.Hardtanh()
        self.top = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.top(self.act(self.layers[self.calls % 2](x)))

    def feature_taps(self) -> list[str]:
        return ["act"]


def test_another_way_through_the_network_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="must take the same way"):
        stream(Alternating(), torch.rand(2, 4))


def test_a_product_that_is_changed_in_place_is_an_error() -> None:
    conv = BinaryConv2d(2, 2, 1, bias=False, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
    with pytest.raises(RuntimeError, match=r"binary product of BinaryConv2d\(2, 2, .*changed in place"):
        stream(Tapped(conv, nn.Hardtanh(inplace=True), nn.Identity(), taps=["2"]), images(8))


def test_errors_leave_the_network_as_it_was(home_made: nn.Module) -> None:
    class Boom(Exception):
        pass

    def take(student: Tensor, teacher: Tensor) -> None:
        raise Boom

    attributes = {path: dict(vars(m)) for path, m in home_made.named_modules()}
    with watch(home_made, stream=True) as taps:
        home_made(images(8))
    with pytest.raises(Boom):
        run_self_teacher(taps, take)
    for path, module in home_made.named_modules():
        assert vars(module).keys() == attributes[path].keys(), path
        assert getattr(module, "track_running_stats", True)
    assert not torch.nn.modules.module._global_forward_hooks
    assert torch.is_grad_enabled()


def test_nothing_recorded_is_an_error(home_made: nn.Module) -> None:
    with watch(home_made, stream=True) as taps:
        pass
    with pytest.raises(RuntimeError, match=r"call the backbone within `distiller.watch`"):
        run_self_teacher(taps, lambda a, b: None)
    with watch(home_made, stream=True) as taps:
        home_made(images(8))
    run_self_teacher(taps, lambda a, b: None)
    with pytest.raises(RuntimeError, match="Nothing was recorded"):
        run_self_teacher(taps, lambda a, b: None)
    untapped = Tapped(
        nn.Identity(), BinaryLinear(4, 4, input_binarizer=SignSTE(), weight_binarizer=WeightSign()), taps=["0"]
    )
    with pytest.raises(RuntimeError, match=r"`Tapped.feature_taps\(\)` names no module"):
        stream(untapped, torch.rand(2, 4))
