"""SelfKD as a distiller: its terms, switches, state, and what it must not do."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bnn_lightning.distill import Batch, HardLabels, Outputs, SelfKD, SoftLabelBank
from bnn_lightning.layers import binary_layers
from bnn_lightning.models import create_backbone

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import BACKBONES, small_options

TERMS = ["hard", "feature", "label", "cluster"]


def small(name: str) -> nn.Module:
    options = small_options(name, **({"width": 16, "dropout": 0.0} if name == "mlp" else {"width": 4}))
    torch.manual_seed(0)
    return create_backbone(name, num_classes=3, in_channels=2, image_size=32, **options)


def batch(size: int = 32, count: int = 6) -> Batch:
    images = torch.rand(count, 2, size, size, generator=torch.Generator().manual_seed(1))
    return Batch(images, torch.arange(count) % 3)


def step(backbone: nn.Module, distiller, data: Batch) -> tuple[Tensor, dict[str, Tensor]]:
    with distiller.watch(backbone) as taps:
        logits = backbone(data.images)
    return logits, distiller(data, Outputs(logits, taps.features, taps))


@pytest.mark.parametrize("name", BACKBONES)
def test_every_backbone(name: str) -> None:
    backbone, distiller = small(name), SelfKD(3)
    optimizer = torch.optim.SGD(backbone.parameters(), 0.01)
    for _ in range(2):
        _, losses = step(backbone, distiller, batch())
        assert list(losses) == TERMS
        assert all(torch.isfinite(value) and value.ndim == 0 for value in losses.values())
        optimizer.zero_grad()
        distiller.total(losses).backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in backbone.parameters())
        optimizer.step()
        distiller.end_epoch()


@pytest.mark.parametrize("normalization", ["reference", "per_sample"])
@pytest.mark.parametrize("feature_pooling", ["channel_spatial", "none"])
@pytest.mark.parametrize("cluster_on", ["penultimate", "logits"])
def test_home_made_backbone(home_made: nn.Module, normalization: str, feature_pooling: str, cluster_on: str) -> None:
    distiller = SelfKD(3, normalization=normalization, feature_pooling=feature_pooling, cluster_on=cluster_on)
    _, losses = step(home_made, distiller, batch(8))
    distiller.total(losses).backward()
    assert list(losses) == TERMS
    assert losses["feature"] > 0
    assert all(torch.isfinite(p.grad).all() for p in home_made.parameters())


def test_label_loss_begins_with_the_second_epoch(home_made: nn.Module) -> None:
    distiller, data = SelfKD(3), batch(8)
    home_made.top.bias.data = torch.tensor([5.0, 0.0, 0.0])  # everything is of class 0
    for _ in range(2):
        _, losses = step(home_made, distiller, data)
        assert losses["label"].item() == 0.0
    distiller.end_epoch()
    assert distiller.bank.valid.tolist() == [True, False, False]
    home_made.top.bias.data = torch.tensor([0.0, 3.0, 0.0])
    logits, losses = step(home_made, distiller, data)
    q, z = torch.softmax(distiller.bank.bank[0] / 4, 0), torch.log_softmax(logits / 4, 1)
    expected = sum((q * (q.log() - z[n])).sum() for n in (0, 3)) * 16 / 6
    torch.testing.assert_close(losses["label"], expected)
    assert losses["label"] > 0


SWITCHES = {"alpha": "feature", "beta": "label", "gamma": "cluster"}


@pytest.mark.parametrize("weight", SWITCHES)
def test_a_weight_of_zero_leaves_the_term_out(home_made: nn.Module, weight: str) -> None:
    distiller = SelfKD(3, **{weight: 0.0})
    calls: list[nn.Module] = []
    home_made.after.register_forward_pre_hook(lambda module, args: calls.append(module))
    with distiller.watch(home_made) as taps:
        logits = home_made(batch(8).images)
    losses = distiller(batch(8), Outputs(logits, taps.features, taps))
    assert list(losses) == [t for t in TERMS if t != SWITCHES[weight]]
    assert losses.keys() == distiller.weights.keys()
    assert len(calls) == (1 if weight == "alpha" else 2)
    assert (taps.backbone is None) == (weight == "alpha")
    assert (taps.features is None) == (weight == "gamma")
    assert bool(distiller.bank.counts.any()) == (weight != "beta")


def test_weights_are_applied(home_made: nn.Module) -> None:
    weights = {"alpha": 3.0, "beta": 0.5, "gamma": 0.25}
    distiller = SelfKD(3, **weights)
    _, losses = step(home_made, distiller, batch(8))
    expected = losses["hard"] + sum(w * losses[SWITCHES[n]] for n, w in weights.items())
    torch.testing.assert_close(distiller.total(losses), expected)
    assert distiller.weights == {"hard": 1.0, "feature": 3.0, "label": 0.5, "cluster": 0.25}


def test_without_its_terms_it_is_cross_entropy(home_made: nn.Module) -> None:
    """The presence of the distiller, and of the stream, does not touch the student's own gradient."""
    gradients = []
    for distiller in (HardLabels(), SelfKD(3, alpha=0.0, beta=0.0, gamma=0.0), SelfKD(3)):
        backbone = copy.deepcopy(home_made)
        _, losses = step(backbone, distiller, batch(8))
        losses["hard"].backward()
        gradients.append([p.grad for p in backbone.parameters()])
    for expected, *others in zip(*gradients, strict=True):
        for other in others:
            assert torch.equal(expected, other)


def test_evaluation_does_no_work(home_made: nn.Module) -> None:
    distiller = SelfKD(3).eval()
    home_made.eval()
    calls: list[nn.Module] = []
    home_made.after.register_forward_pre_hook(lambda module, args: calls.append(module))
    before = {k: v.clone() for k, v in distiller.state_dict().items()}
    with distiller.watch(home_made) as taps:
        logits = home_made(batch(8).images)
    assert list(distiller(batch(8), Outputs(logits, taps.features, taps))) == ["hard"]
    assert len(calls) == 1
    assert taps.features is None
    assert not taps.products
    assert all(torch.equal(v, before[k]) for k, v in distiller.state_dict().items())
    assert list(distiller(batch(8), Outputs(logits))) == ["hard"]


class Synchronizations(TorchDispatchMode):
    """Refuses what makes the host wait for a device."""

    names = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "equal", "unique", "masked_select")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        assert name not in self.names, name
        if name == "index":
            assert all(i is None or i.dtype != torch.bool for i in args[1]), "boolean mask"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("normalization", ["reference", "per_sample"])
def test_no_host_synchronisation(home_made: nn.Module, normalization: str) -> None:
    distiller, data = SelfKD(3, normalization=normalization, teacher_dtype="bfloat16"), batch(8)
    with Synchronizations():
        for _ in range(2):
            _, losses = step(home_made, distiller, data)
            distiller.total(losses).backward()
            distiller.end_epoch()
    with pytest.raises(AssertionError, match="_local_scalar_dense"), Synchronizations():
        losses["hard"].item()


def test_nothing_is_copied_deeply(home_made: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("deepcopy")

    monkeypatch.setattr(copy, "deepcopy", refuse)
    step(home_made, SelfKD(3), batch(8))


def test_state_dict_resumes_in_mid_epoch(home_made: nn.Module) -> None:
    distillers = SelfKD(3), SelfKD(3)
    resumed = copy.deepcopy(home_made)
    step(home_made, distillers[0], batch(8))
    distillers[0].end_epoch()
    step(home_made, distillers[0], batch(8))
    distillers[1].load_state_dict(distillers[0].state_dict())
    resumed.load_state_dict(home_made.state_dict())
    losses = [step(b, d, batch(8, 9))[1] for b, d in zip((home_made, resumed), distillers, strict=True)]
    for key in TERMS:
        assert torch.equal(losses[0][key], losses[1][key]), key
    for distiller in distillers:
        distiller.end_epoch()
    states = [d.state_dict() for d in distillers]
    assert list(states[0]) == ["bank.bank", "bank.valid", "bank.sums", "bank.counts"]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype) -> None:
    backbone, distiller = small("resnet20"), SelfKD(3)
    for _ in range(2):
        with torch.autocast("cpu", dtype=dtype):
            _, losses = step(backbone, distiller, batch())
        assert all(value.dtype == torch.float32 and torch.isfinite(value) for value in losses.values())
        distiller.total(losses).backward()
        distiller.end_epoch()
    assert distiller.bank.bank.dtype == torch.float32


def test_half_precision_network(home_made: nn.Module) -> None:
    home_made.bfloat16()
    distiller = SelfKD(3).bfloat16()
    data = Batch(batch(8).images.bfloat16(), batch(8).labels)
    _, losses = step(home_made, distiller, data)
    distiller.total(losses).backward()
    assert all(torch.isfinite(p.grad).all() for p in home_made.parameters())


@pytest.mark.parametrize("teacher_dtype", [None, "float32", "bfloat16", "float16"])
def test_precision_of_the_teacher_moves_the_feature_loss_only_a_little(teacher_dtype) -> None:
    backbone = small("resnet20")
    expected = step(backbone, SelfKD(3), batch())[1]["feature"]
    found = step(backbone, SelfKD(3, teacher_dtype=teacher_dtype), batch())[1]["feature"]
    assert found.item() == pytest.approx(expected.item(), rel=0.0 if teacher_dtype in (None, "float32") else 0.2)


@pytest.mark.parametrize("name", ["resnet20", "mlp"])
def test_agreement_of_signs(name: str) -> None:
    backbone = small(name)
    state = {k: v.clone() for k, v in backbone.state_dict().items()}
    exact = SelfKD(3).sign_agreement(backbone, batch().images)
    assert list(exact) == list(binary_layers(backbone))
    assert all(value == 1.0 for value in exact.values())
    half = SelfKD(3, teacher_dtype="bfloat16").sign_agreement(backbone, batch().images)
    assert all(0.9 < value <= 1.0 for value in half.values()), half
    assert name == "mlp" or min(half.values()) < 1.0
    assert all(torch.equal(v, state[k]) for k, v in backbone.state_dict().items())
    assert all(p.grad is None for p in backbone.parameters())


@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_a_compiled_backbone_gives_the_same_losses(home_made: nn.Module, alpha: float) -> None:
    graphs: list[object] = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = copy.deepcopy(home_made)
    compiled.compile(backend=backend)
    for block in compiled.bn:
        block.compile(backend=backend)
    for _ in range(2):
        expected = step(home_made, SelfKD(3, alpha=alpha), batch(8))[1]
        found = step(compiled, SelfKD(3, alpha=alpha), batch(8))[1]
        for key, value in expected.items():
            assert torch.equal(found[key], value), key
        assert not graphs
    with torch.no_grad():
        compiled(batch(8).images)
    assert graphs


def test_infinite_and_missing_classes_give_no_nan(home_made: nn.Module) -> None:
    distiller = SelfKD(5)  # two classes never occur
    home_made.top = nn.Linear(5, 5)
    for _ in range(3):
        _, losses = step(home_made, distiller, batch(8))
        assert all(torch.isfinite(value) for value in losses.values())
        distiller.end_epoch()
    assert torch.isfinite(distiller.bank.bank).all()
    assert not distiller.bank.valid[3:].any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"alpha": -1.0}, "`alpha` must not be negative, got -1.0"),
        ({"gamma": -0.1}, "`gamma` must not be negative, got -0.1"),
        ({"temperature": 0.0}, "`temperature` must be positive, got 0.0"),
        ({"normalization": "none"}, r"`normalization` must be one of \['reference', 'per_sample'\], got 'none'"),
        ({"feature_pooling": "max"}, r"`feature_pooling` must be one of \['channel_spatial', 'none'\], got 'max'"),
        ({"cluster_on": "stem"}, r"`cluster_on` must be one of \['penultimate', 'logits'\], got 'stem'"),
        ({"teacher_dtype": "int8"}, r"`teacher_dtype` must be one of .*'float32'\], got 'int8'"),
        ({"bank_mode": "some"}, r"`mode` must be one of \['correct', 'all'\], got 'some'"),
        ({"label_smoothing": 2.0}, "`label_smoothing` must lie between 0 and 1, got 2.0"),
    ],
)
def test_bad_arguments(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfKD(3, **options)  # type: ignore[arg-type]


def test_forgotten_watch_is_an_error(home_made: nn.Module) -> None:
    logits = home_made(batch(8).images)
    with pytest.raises(RuntimeError, match=r"call the backbone within `distiller.watch`"):
        SelfKD(3)(batch(8), Outputs(logits))
    with pytest.raises(RuntimeError, match=r"pass `taps.features`"):
        SelfKD(3, alpha=0.0)(batch(8), Outputs(logits))
    with pytest.raises(ValueError, match=r"`logits` must have shape \(N, 4\), got \[6, 3\]"):
        SelfKD(4, alpha=0.0, gamma=0.0)(batch(8), Outputs(logits))


def test_hard_labels() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    for smoothing in (0.0, 0.1):
        distiller = HardLabels(smoothing)
        losses = distiller(Batch(torch.empty(4), labels), Outputs(logits))
        log_p = torch.log_softmax(logits, 1)
        expected = -(1 - smoothing) * log_p[range(4), labels].mean() - smoothing * log_p.mean()
        torch.testing.assert_close(losses["hard"], expected)
        torch.testing.assert_close(distiller.total(losses), expected)
        distiller.sync()
        distiller.end_epoch()
        assert not distiller.state_dict()
    with pytest.raises(ValueError, match=r"`label_smoothing` must lie between 0 and 1, got -0\.1"):
        HardLabels(-0.1)


def test_bank_is_created_once() -> None:
    """The reference's network for MNIST begins every epoch with an empty bank."""
    distiller, bank = SelfKD(2, alpha=0.0, gamma=0.0), SoftLabelBank(2)
    logits = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    for _ in range(3):
        distiller(Batch(torch.empty(2), torch.tensor([0, 1])), Outputs(logits))
        distiller.end_epoch()
        bank.update(logits, torch.tensor([0, 1]))
        bank.commit()
        assert torch.equal(distiller.bank.bank, logits)
        assert torch.equal(distiller.bank.bank, bank.bank)


class Trial(nn.Sequential):
    """A network that names no classifier, and counts the images that it sees, by device."""

    in_channels, image_size = 2, 8

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self.seen: list[torch.device] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.device)
        return super().forward(x)


@pytest.mark.parametrize(("weights", "tried"), [({}, 1), ({"gamma": 0.0}, 0), ({"cluster_on": "logits"}, 0)])
def test_only_a_classifier_that_is_read_is_looked_for(home_made: nn.Module, weights: dict, tried: int) -> None:
    network = Trial(home_made)
    SelfKD(3, **weights).prepare(network)
    assert len(network.seen) == tried


def test_the_trial_is_on_the_device_of_the_backbone(home_made: nn.Module) -> None:
    network = Trial(home_made).to("meta")
    SelfKD(3).prepare(network)
    assert network.seen == [torch.device("meta")]
