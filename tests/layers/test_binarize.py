"""`binarize`: which layer becomes what, and that nothing else changes."""

import copy
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm

import bnn_lightning
from bnn_lightning.binarizers import ApproxSign, Libra, RSign, SignSTE, XNORScale, binarizer_factory
from bnn_lightning.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryConvTranspose2d,
    BinaryLinear,
    Hardtanh,
    PReLU,
)
from bnn_lightning.metrics import profile_network

binarize = bnn_lightning.binarize


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, 3, padding=1, groups=2, bias=False),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )


def test_layers_are_binary_and_share_their_weights():
    net = small()
    before = dict(net.named_parameters())
    report = binarize(net, example=torch.rand(1, 3, 6, 6))
    assert report.binary == ("2", "6")
    assert report.real == {"0": "first", "8": "last"}
    assert type(net[2]) is BinaryConv2d
    assert type(net[6]) is BinaryLinear
    assert all(net.get_parameter(name) is parameter for name, parameter in before.items())
    assert [type(net[i]) for i in (1, 3, 7)] == [PReLU] * 3
    x = torch.randn(2, 4, 5, 5)
    w = before["2.weight"]
    signs = torch.where(x >= 0, 1.0, -1.0)
    expected = nn.functional.conv2d(signs, torch.where(w >= 0, 1.0, -1.0), padding=1, groups=2)
    expected = expected * w.abs().mean((1, 2, 3)).view(-1, 1, 1)
    torch.testing.assert_close(net[2](x), expected)


def test_a_dry_run_changes_nothing_and_reports_the_same():
    net = small()
    modules = list(net.modules())
    dry = binarize(net, dry_run=True)
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    real = binarize(net)
    assert (dry.layers, dry.activations) == (real.layers, real.activations)
    assert dry.dry_run


def test_without_binarizers_and_activations_the_network_computes_the_same():
    net = small()
    x = torch.rand(2, 3, 6, 6)
    expected = net(x)
    binarize(net, input_binarizer=None, weight_binarizer=None, activation=None)
    assert torch.equal(net(x), expected)


def test_a_report_counts_no_weights_that_stay_real():
    report = binarize(small(), weight_binarizer=None, rules={"6": {"weight_binarizer": "Libra"}}, dry_run=True)
    assert report.binary == ("2", "6")
    assert [change.real_weights for change in report.layers if change.after] == [True, False]
    assert repr(report).splitlines()[0].endswith(f"{6 * 5:,} of {4 * 27 + 6 * 18 + 30 + 10:,} weights (11.7 %)")


def test_rules_prevail_over_kinds_and_later_ones_over_earlier_ones():
    net = small()
    rules = {"*": {"weight_binarizer": "Libra", "pad_value": -1}, "6": False, "7": False}
    report = binarize(net, rules=rules, activation="Hardtanh")
    assert report.binary == ("0", "2", "8")
    assert isinstance(net[2].weight_binarizer, Libra)
    assert isinstance(net[2].input_binarizer, ApproxSign)
    assert net[2].pad_value == -1
    assert [type(net[i]) for i in (1, 3, 7)] == [Hardtanh, Hardtanh, nn.ReLU]


def test_a_rule_for_a_container_that_would_decide_about_nothing_is_an_error():
    net = nn.Sequential(small())
    with pytest.raises(ValueError, match=r"'MODULE\.\*'"):
        binarize(net, rules={"0": False})
    assert binarize(net, rules={"0.*": False}).binary == ()


def test_kinds_that_are_not_kept_become_binary():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Linear(4, 2))
    assert binarize(copy.deepcopy(net)).binary == ()
    assert binarize(copy.deepcopy(net), keep=["first", "last"]).binary == ("1",)
    assert binarize(net, keep=[]).binary == ("0", "1", "2")


@pytest.mark.parametrize(
    "choice, kinds",
    [("SignSTE", SignSTE), (SignSTE(clip=0.5), SignSTE), (binarizer_factory("RSign"), RSign), (RSign, RSign)],
)
def test_binarizers_by_name_object_and_function(choice, kinds):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 1))
    binarize(net, input_binarizer=choice, weight_binarizer=XNORScale())
    own = [net[1].input_binarizer, net[2].input_binarizer]
    assert all(isinstance(binarizer, kinds) for binarizer in own)
    assert own[0] is not own[1]
    net(torch.rand(1, 3, 4, 4))


def test_one_dimension_three_and_transposed():
    layers = [nn.Conv1d(4, 4, 3), nn.Conv3d(4, 4, 3), nn.ConvTranspose2d(4, 4, 3)]
    net = nn.ModuleList([nn.Linear(2, 2), *layers, nn.Linear(2, 2)])
    binarize(net)
    assert [type(net[i]) for i in (1, 2, 3)] == [BinaryConv1d, BinaryConv3d, BinaryConvTranspose2d]


class Shared(nn.Module):
    """One layer under two names, two layers with one weight, and one activation that is called twice."""

    def __init__(self):
        super().__init__()
        self.stem, self.a, self.c, self.fc = (nn.Linear(4, 4) for _ in range(4))
        self.b = self.a
        self.c.weight = self.a.weight
        self.act = nn.ReLU()

    def forward(self, x):
        x = self.act(self.a(self.stem(x)))
        return self.fc(self.act(self.c(self.b(x))))


def test_shared_modules_and_tied_parameters_stay_so():
    net = Shared()
    report = binarize(net, example=torch.rand(2, 4))
    assert net.a is net.b
    assert net.a.weight is net.c.weight
    assert report.binary == ("a", "c")
    net(torch.rand(2, 4)).sum().backward()
    assert net.act.weight.grad is not None
    assert binarize(Shared(), rules={"b": False}).binary == ("c",)  # a rule holds for all names of a module


def normed() -> nn.Module:
    return parametrizations.weight_norm(nn.Conv2d(4, 4, 1))


def old_normed() -> nn.Module:
    with pytest.warns(FutureWarning):
        return weight_norm(nn.Conv2d(4, 4, 1))


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    "make, reason",
    [
        (normed, "weight norm"),
        (old_normed, "weight norm"),
        (lambda: Doubled(4, 4, 1), "Doubled"),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "'reflect'"),
        (lambda: nn.LazyConv2d(4, 1), "LazyConv2d"),
        (lambda: nn.ConvTranspose1d(4, 4, 1), "ConvTranspose1d"),
        (hooked, "hooks"),
        (lambda: torch.ao.nn.qat.Linear(4, 4, qconfig=torch.ao.quantization.default_qat_qconfig), "quantized"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*Lazy modules.*")
def test_a_layer_that_cannot_be_binary_is_named_and_nothing_changes(make, reason):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), make(), nn.Linear(4, 2))
    modules = list(net.modules())
    with pytest.raises(ValueError, match=r"`2` cannot become binary") as caught:
        binarize(net)
    assert reason in str(caught.value)
    assert all(a is b for a, b in zip(net.modules(), modules, strict=True))
    assert binarize(net, rules={"2": False}).binary == ("1",)


def test_scripts_and_quantized_networks_are_refused():
    with pytest.warns(FutureWarning):
        script = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(TypeError, match="script"):
        binarize(script)
    with pytest.raises(ValueError, match="quantized"):
        binarize(nn.Sequential(torch.ao.nn.quantized.Linear(2, 2)))
    with pytest.raises(TypeError, match="str"):
        binarize("resnet18")


def test_attention_reads_weights_itself_and_stays_real():
    net = nn.Sequential(nn.Linear(4, 4), nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 2))
    report = binarize(net)
    assert report.binary == ()
    inner = {name: reason for name, reason in report.real.items() if name.startswith("1.")}
    assert list(inner) == ["1.self_attn.out_proj", "1.linear1", "1.linear2"]
    assert all("TransformerEncoderLayer" in reason for reason in inner.values())
    with pytest.raises(ValueError, match=r"`1.linear1` .* TransformerEncoderLayer computes it itself"):
        binarize(net, rules={"1.linear1": True})


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.act, self.fc = nn.ReLU(), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return x * self.fc(self.act(x.mean((2, 3), keepdim=True))).sigmoid()


def test_rules_prevail_in_gates_for_layers_and_for_relu():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), SqueezeExcite(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(4, 2))
    kept = binarize(net, dry_run=True)
    assert (kept.binary, kept.activations) == (("2",), ())
    assert binarize(net, rules={"1.*": True}).binary == ("1.fc", "2")
    assert type(net[1].act) is PReLU


def test_encoder_layers_compute_the_same_in_training_and_evaluation():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, activation=nn.ReLU(), batch_first=True)
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), encoder, nn.Linear(4, 2))
    report = binarize(net)
    assert [change.name for change in report.activations] == ["1"]
    with pytest.raises(ValueError, match=r"`3.activation` .* TransformerEncoderLayer computes it itself"):
        binarize(net, rules={"3.activation": True})
    assert binarize(net, rules={"3.*": False}).activations == ()
    x = torch.randn(2, 3, 4)
    trained = net.train()(x)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(x), trained)


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.qkv, self.fc = (nn.Linear(4, 4) for _ in range(3))

    def forward(self, x):
        return self.fc(nn.functional.linear(self.stem(x), self.qkv.weight))


def test_an_example_finds_layers_that_are_never_called_and_inputs_of_one_sign():
    with pytest.raises(ValueError, match="never calls `qkv`"):
        binarize(Reader(), example=torch.rand(1, 4))
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Linear(4, 2))
    assert binarize(net, activation=None, example=torch.randn(8, 4), dry_run=True).constant == ("2",)
    assert binarize(net, example=torch.randn(8, 4)).constant == ()


class ByName(nn.Sequential):
    def forward(self, x):
        for layer in self:
            x = layer(input=x)
        return x


def test_layers_that_are_called_by_name_are_tried_and_counted():
    net = ByName(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    assert binarize(net, example=torch.randn(8, 4)).constant == ()
    assert profile_network(net, (4,)).totals()["binary_macs"] == 16


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_network_whose_weight_is_a_result_is_tried_with_an_example():
    net = nn.Sequential(nn.Linear(4, 4), weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4), nn.Linear(4, 2))
    net(torch.rand(1, 4))  # its weight is a result now
    weight = net[1].weight
    report = binarize(net, rules={"1": False}, example=torch.rand(1, 4))
    assert (report.binary, report.constant) == (("2",), ())
    assert net[1].weight is weight


def test_a_network_that_cannot_be_copied_is_refused_with_an_example_alone():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    net.lock = threading.Lock()
    with pytest.raises(ValueError, match="cannot be copied"):
        binarize(net, example=torch.rand(1, 4))
    assert binarize(net).binary == ("1",)


@pytest.mark.parametrize(
    "options, error, words",
    [
        ({"keep": ["frist"]}, ValueError, "'frist'"),
        ({"keep": "first"}, TypeError, "list"),
        ({"activation": "GELU"}, ValueError, "'GELU'"),
        ({"rules": {"layer9.*": True}}, ValueError, "'layer9"),
        ({"rules": {"4": False}}, ValueError, "'4'"),  # a pool: nothing of it becomes binary
        ({"rules": {"2": {"weights": "Libra"}}}, ValueError, "'weights'"),
        ({"rules": {"2": 1}}, TypeError, "got 1"),
        ({"rules": ["2"]}, TypeError, "mapping"),
        ({"pad_value": 2}, ValueError, "got 2"),
        ({"input_binarizer": "Libra"}, TypeError, "Libra"),
        ({"input_binarizer": "SignSTF"}, ValueError, "SignSTE"),
        ({"input_binarizer": SignSTE}, TypeError, "SignSTE"),
        ({"input_binarizer": RSign(7)}, ValueError, "7 channels"),
    ],
)
def test_wrong_options_are_named(options, error, words):
    net = small()
    with pytest.raises(error, match=words):
        binarize(net, **options)
    assert type(net[2]) is nn.Conv2d


def test_one_layer_alone_is_refused():
    with pytest.raises(ValueError, match="from_"):
        binarize(nn.Linear(2, 2), keep=[])


def test_thresholds_of_channels_need_channels_in_dimension_one():
    layer = BinaryLinear(4, 2, input_binarizer=RSign(4), weight_binarizer=XNORScale())
    assert layer(torch.rand(3, 4)).shape == (3, 2)
    with pytest.raises(ValueError, match="last dimension"):
        layer(torch.rand(3, 4, 4))


def test_dtype_device_mode_and_frozen_parameters_stay():
    net = small().double().eval()
    net[2].weight.requires_grad_(False)
    binarize(net, input_binarizer="RSign")
    assert not net[2].weight.requires_grad
    assert not any(module.training for module in net.modules())
    assert net(torch.rand(1, 3, 6, 6, dtype=torch.float64)).dtype == torch.float64
