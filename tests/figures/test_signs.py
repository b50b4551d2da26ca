"""Pictures of signs: surrogates, statistics, feature maps, the bank and embeddings, by their numbers."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bnn_lightning.analysis import embedding, feature_maps, signs, surrogates
from bnn_lightning.binarizers import SignSTE, WeightSign, binarizer_factory, list_binarizers
from bnn_lightning.figures import plot_embedding, plot_feature_maps, plot_signs, plot_surrogates, soft_label_heatmap
from bnn_lightning.figures.feature_maps import telling_channels
from bnn_lightning.layers import BinaryConv2d
from bnn_lightning.models import create_backbone

# x, value, gradient by the formulae of the papers, at a progress where there is one.
FORMULAE: dict[str, Any] = {
    "SignSTE": lambda x, p: 1.0 if abs(x) <= 1 else 0.0,
    "SignIdentity": lambda x, p: 1.0,
    "WeightSign": lambda x, p: 1.0,
    "TemperatureSign": lambda x, p: 1.0,
    "XNORScale": lambda x, p: 1.0 if abs(x) <= 1 else 0.0,
    "ApproxSign": lambda x, p: max(2 - 2 * abs(x), 0.0),
    "RSign": lambda x, p: max(2 - 2 * abs(x), 0.0),
    "SwishSign": lambda x, p: 5 * (2 - 5 * x * math.tanh(2.5 * x)) / (1 + math.cosh(5 * x)),
    "SignEDE": lambda x, p: ede(x, 10 ** (-3 + 4 * p)),
    "Libra": lambda x, p: ede(x, 10 ** (-3 + 4 * p)),
    "ReSTE": lambda x, p: reste(x, 1 + 2 * p),
    "AdaBinInput": lambda x, p: max(2 - 2 * abs(x), 0.0),
    "AdaBinWeights": lambda x, p: ede(x, 10 ** (-3 + 4 * p)),
    "ReCUInput": lambda x, p: max(2 - 2 * abs(x), 0.0),  # in evaluation
    "ReCUWeights": lambda x, p: 1.0,
    "DoReFaInput": lambda x, p: 3.0 if 0 <= x <= 1 else 0.0,
    "DoReFaWeights": lambda x, p: 3.0 if abs(x) <= 1 else 0.0,
    "TernaryWeights": lambda x, p: 1.0 if abs(x) <= 1 else 0.0,
}
# Values of those that are no signs; x runs from -2 to 2, so that 0.7 mean|x| is 0.7 * 42 / 41.
VALUES: dict[str, Any] = {
    "DoReFaInput": lambda x: round(3 * min(max(x, 0.0), 1.0)),
    "DoReFaWeights": lambda x: 2 * round(3 * (min(max(round(x, 6), -1.0), 1.0) / 2 + 0.5)) - 3,
    "TernaryWeights": lambda x: 0 if abs(x) <= 0.7 * 42 / 41 else math.copysign(1, x),
}


def ede(x: float, t: float) -> float:
    return max(1 / t, 1) * t * (1 - math.tanh(t * x) ** 2)


def reste(x: float, o: float) -> float:
    return max(abs(x), 0.1) ** ((1 - o) / o) / o if abs(x) <= 1.5 else 0.0


@pytest.mark.parametrize("name", list_binarizers())
def test_surrogates_are_the_formulae(name: str) -> None:
    for one in surrogates.surrogates_of([name], progresses=(0.0, 0.5, 1.0), points=41):
        progress = 0.0 if one.progress is None else one.progress
        expected = [FORMULAE[name](x, progress) for x in one.x.tolist()]
        assert torch.allclose(one.gradient, torch.tensor(expected), atol=1e-4)
        exact = torch.where(one.x >= 0, 1.0, -1.0)
        if name == "TemperatureSign" and progress < 0.2988:
            exact = one.x.clamp(-1, 1)  # T is 1 at the start
        if name in VALUES:
            exact = torch.tensor([float(VALUES[name](x)) for x in one.x.tolist()])
        assert torch.equal(one.value, exact)
    annealed = name in ("AdaBinWeights", "Libra", "ReCUWeights", "ReSTE", "SignEDE", "TemperatureSign")
    assert len(surrogates.surrogates_of([name], progresses=(0.0, 1.0))) == (2 if annealed else 1)


def test_table_and_picture_of_surrogates() -> None:
    found = surrogates.surrogates_of(["SignSTE", "SignEDE"], progresses=(0.0, 1.0), points=3)
    header, rows = surrogates.surrogate_rows(found)
    assert header == ["binarizer", "of", "progress", "x", "value", "gradient"]
    assert rows[0] == ["SignSTE", "inputs", None, -2.0, -1.0, 0.0]
    assert len(rows) == 9
    figure = plot_surrogates(found)
    assert [len(ax.lines) for ax in figure.axes] == [1, 1, 2, 2]
    assert np.array_equal(figure.axes[1].lines[0].get_ydata(), found[0].gradient)
    for wrong, message in (({"points": 1}, "`points`"), ({"limit": 0.0}, "`limit`")):
        with pytest.raises(ValueError, match=message):
            surrogates.surrogates_of(["SignSTE"], **wrong)


class Two(nn.Module):
    """Two layers, the first with a real input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = BinaryConv2d(1, 3, 1, bias=False, weight_binarizer=WeightSign())
        self.second = BinaryConv2d(3, 2, 1, bias=False, input_binarizer=SignSTE(), weight_binarizer=WeightSign())
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([1.0, -1.0, 2.0]).view(3, 1, 1, 1))
            self.second.weight.copy_(torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, -1.0]]).view(2, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))  # type: ignore[no-any-return]


def test_statistics_of_signs_by_hand() -> None:
    network = Two().train()
    images = torch.tensor([1.0, 2.0, -1.0, 3.0]).view(1, 1, 2, 2)
    # Inputs of `second`: +x, -x and +x, of x = 1, 2, -1, 3.
    first, second = signs.sign_statistics(network, [images, images[:, :, :1]])
    assert network.training
    assert (first.layer, first.weights, first.input_share, first.dead_inputs) == ("first", 3, None, None)
    assert first.weight_share == pytest.approx(2 / 3)
    positive = (5 + 1 + 5) / 18  # of the three channels over six places
    assert second.input_share == pytest.approx(positive)
    entropy = -sum(p * math.log2(p) for p in (positive, 1 - positive))
    assert second.input_entropy == pytest.approx(entropy)
    assert second.dead_inputs == 0.0
    assert second.weight_entropy == pytest.approx(-sum(p * math.log2(p) for p in (5 / 6, 1 / 6)))
    _, without_negative = signs.sign_statistics(network, [images.abs()])
    assert without_negative.dead_inputs == 1.0
    assert without_negative.input_share == pytest.approx(2 / 3)
    assert float(second.histogram.sum()) == pytest.approx(1.0)


def test_statistics_refuse_what_has_no_signs() -> None:
    with pytest.raises(ValueError, match="Linear has no binary layer"):
        signs.sign_statistics(nn.Linear(1, 1), [torch.zeros(1, 1)])
    with pytest.raises(ValueError, match="no images"):
        signs.sign_statistics(Two(), [])


def test_picture_of_signs() -> None:
    statistics = signs.sign_statistics(Two(), [torch.randn(2, 1, 3, 3)])
    header, rows = signs.sign_rows(statistics)
    assert header[0] == "layer"
    assert [row[0] for row in rows] == ["first", "second"]
    figure = plot_signs(statistics, limit=signs.HISTOGRAM_LIMIT)
    shares = figure.axes[0].lines
    assert list(shares[0].get_xdata()) == pytest.approx([100 * one.weight_share for one in statistics])
    assert list(shares[1].get_ydata()) == [1]  # the first layer's inputs are real


def test_feature_maps_are_what_the_layer_sees() -> None:
    network = create_backbone("resnet20", num_classes=3, image_size=16, width=4)
    image = torch.rand(3, 20, 12)
    maps = feature_maps.record_maps(network, image)
    assert len(maps) == 18
    assert network.training
    network.eval()
    with torch.no_grad():
        x = network.act(network.bn1(network.conv1(network.normalize(image[None]))))  # type: ignore[operator]
    assert torch.equal(maps["layer1.0.conv1"].real, x[0])
    for one in maps.values():
        assert torch.equal(one.signs, torch.where(one.real >= 0, 1.0, -1.0))
    assert maps["layer3.0.conv2"].signs.shape == (16, 5, 3)
    figure = plot_feature_maps(image, {"a": maps["layer1.0.conv1"], "b": maps["layer3.0.conv2"]}, channels=3)
    assert sum(len(ax.images) for ax in figure.axes) == 1 + 2 * 2 * 3


def test_channels_that_tell_most() -> None:
    maps = torch.ones(4, 2, 2)
    maps[1, 0] = -1  # half
    maps[3, 0, 0] = -1  # a quarter
    assert telling_channels(maps, 2) == [1, 3]
    assert telling_channels(maps, 9) == [0, 1, 2, 3]
    assert feature_maps.spread_over(list("abcdef"), 1) == ["a"]


def test_feature_maps_refuse() -> None:
    network = create_backbone("vgg_small", num_classes=2, image_size=8, width=4)
    with pytest.raises(ValueError, match=r"`layers`: `conv9` is no layer with binary inputs\. There are: conv1"):
        feature_maps.record_maps(network, torch.rand(3, 8, 8), ["conv9"])
    with pytest.raises(ValueError, match="cannot work with an image of 24×24"):
        feature_maps.record_maps(network, torch.rand(3, 24, 24))
    mlp = create_backbone("mlp", num_classes=2, image_size=4, width=4, in_channels=1)
    with pytest.raises(ValueError, match="no binary layer whose input is a binary map"):
        feature_maps.record_maps(mlp, torch.rand(1, 4, 4))
    with pytest.raises(ValueError, match="the input of `fc2` is no map"):
        feature_maps.record_maps(mlp, torch.rand(1, 4, 4), ["fc2"])


def test_bank() -> None:
    bank = torch.tensor([[4.0, 0.0], [1.0, 1.0]])
    figure = soft_label_heatmap.plot_soft_labels(
        bank, temperature=2.0, class_names=["cat", "dog"], valid=torch.tensor([True, False])
    )
    logits, soft = (ax.images[0].get_array() for ax in figure.axes[:2])
    assert np.array_equal(np.asarray(logits)[0], [4.0, 0.0])
    share = 100 / (1 + math.exp(-2.0))
    assert np.asarray(soft)[0].tolist() == pytest.approx([share, 100 - share], abs=1e-4)
    assert np.isnan(np.ma.filled(soft, np.nan)[1]).all()
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["cat", "dog"]
    assert [text.get_text() for text in figure.axes[0].texts] == ["4.0", "0.0"]
    for wrong, message in (
        ({"bank": torch.zeros(2, 3)}, r"`bank` must have shape \(C, C\)"),
        ({"bank": bank, "temperature": 0.0}, "`temperature`"),
        ({"bank": bank, "class_names": ["cat"]}, "a name for each of 2 classes, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            soft_label_heatmap.plot_soft_labels(**wrong)


def test_penultimate_features_are_the_classifiers_inputs() -> None:
    network = create_backbone("resnet20", num_classes=3, image_size=8, width=4)
    images = torch.rand(6, 3, 8, 8)
    features, logits = embedding.penultimate_features(network, images.split(4))
    assert network.training
    network.eval()
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        assert torch.allclose(features, expected, atol=1e-5)
        assert torch.allclose(logits, network(images), atol=1e-5)
    with pytest.raises(ValueError, match="no images"):
        embedding.penultimate_features(network, [])


def test_embedding_repeats_and_keeps_clusters() -> None:
    pytest.importorskip("sklearn")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 8, generator=generator) + 12 * torch.nn.functional.one_hot(labels, 8)
    points = embedding.embed(features, seed=3, perplexity=10)
    assert torch.equal(points, embedding.embed(features, seed=3, perplexity=10))
    assert points.shape == (60, 2)
    assert embedding.neighbor_accuracy(points, labels) == embedding.neighbor_accuracy(features, labels) == 1.0
    figure = plot_embedding(points, labels, class_names=["a", "b", "c"])
    assert [len(scatter.get_offsets()) for scatter in figure.axes[0].collections] == [20, 20, 20]
    for wrong, message in (
        ({"method": "pca"}, r"`method` must be one of \['tsne', 'umap'\]"),
        ({"perplexity": 60.0}, "below the number of images, 60, got 60"),
        ({"method": "umap", "neighbors": 1}, "`neighbors` must be at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            embedding.embed(features, **wrong)
    with pytest.raises(ValueError, match="a name for label 2, got 2"):
        plot_embedding(points, labels, class_names=["a", "b"])


def test_binarizer_by_name_is_tested_here() -> None:
    assert sorted(FORMULAE) == list_binarizers()
    assert all(binarizer_factory(name)(1) is not None for name in FORMULAE)
