"""Networks that view the results of packed layers, and write into views, compute what the trained ones do."""

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.binarizers import SignSTE, WeightSign
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.deploy.frontend import layers
from bnn_lightning.deploy.frontend.layers import PackedConv1d, PackedConv2d
from bnn_lightning.layers import BinaryConv1d, BinaryConv2d

BINARY: dict[str, Any] = {"input_binarizer": SignSTE(), "weight_binarizer": WeightSign()}


def writes_into_rows(y: Tensor) -> Tensor:
    y.reshape(y.shape[0], -1).add_(1)
    return y.amax((2, 3))


def writes_into_pixels(y: Tensor) -> Tensor:
    y.flatten(2).mul_(2)
    return y.mean((2, 3))


def views_pixels(y: Tensor) -> Tensor:
    return y.flatten(2).mean(2)


def writes_into_itself(y: Tensor) -> Tensor:
    y.contiguous().mul_(3)
    return y.mean((2, 3))


def writes_into_a_copy(y: Tensor) -> Tensor:
    pixels = y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, 8)
    pixels.add_(1)
    return y.mean((2, 3)) + pixels.mean(1)


def writes_into_a_part(y: Tensor) -> Tensor:
    y.view(y.shape[0], 2, 4, -1)[:, 0].mul_(2)
    return y.mean((2, 3))


def views_rows(y: Tensor) -> Tensor:
    return y.view(y.size(0), -1)[:, :8]


def folds_the_batch(y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return torch.relu(y.view(n * 2, c // 2, h, w)).view(n, c, h, w).mean((2, 3))


def folds_the_batch_in_one_free_size(y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return torch.relu(y.reshape(-1, c // 2, h, w)).reshape(n, c, h, w).mean((2, 3))


class Viewing(nn.Module):
    """A binary convolution, something that views its result, and a classifier."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, 8, 3, padding=1, **BINARY)
        self.view, self.head = view, nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.view(self.conv(x)))
        return logits


@torch.no_grad()
@pytest.mark.parametrize(
    "view",
    [
        writes_into_rows,
        writes_into_pixels,
        writes_into_itself,
        writes_into_a_copy,
        writes_into_a_part,
        views_rows,
        folds_the_batch,
        folds_the_batch_in_one_free_size,
    ],
)
def test_views_mean_what_they_mean_in_the_trained_network(view: Callable[[Tensor], Tensor]) -> None:
    torch.manual_seed(0)
    network, images = Viewing(view).eval(), torch.rand(3, 3, 6, 6)
    packed = pack(network, images)
    for layout in (torch.contiguous_format, torch.channels_last):
        given = images.contiguous(memory_format=layout)
        try:
            wanted = network(given)
        except RuntimeError:  # no view of this layout
            continue
        torch.testing.assert_close(packed.run_layers(given), wanted)
    torch.testing.assert_close(packed(images), network(images))


class ReadsRowsOfImages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = BinaryConv2d(3, 8, 4, **BINARY), nn.Linear(3 * 16, 8)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(x.view(x.shape[0], -1)) + self.conv(x).view(x.shape[0], -1)
        return logits


@torch.no_grad()
def test_images_keep_their_layout_where_torch_runs_the_layers() -> None:
    network, images = ReadsRowsOfImages().eval(), torch.rand(2, 3, 4, 4)
    torch.testing.assert_close(pack(network, images).run_layers(images), network(images))
    double = pack(network, images).double()
    torch.testing.assert_close(double(images.double()).float(), network(images))


@torch.no_grad()
@pytest.mark.parametrize("view", [writes_into_pixels, writes_into_itself, writes_into_a_copy])
def test_images_of_another_format_than_the_plans_are_written_into_as_torch_does(
    view: Callable[[Tensor], Tensor],
) -> None:
    torch.manual_seed(0)
    network, images = Viewing(view).eval(), torch.rand(3, 3, 6, 6)
    packed, last = pack(network, images), images.contiguous(memory_format=torch.channels_last)
    assert packed.report.unplanned == ""
    torch.testing.assert_close(packed(images), network(images))
    try:
        wanted = network(last)
    except RuntimeError:  # no view of this layout
        return
    torch.testing.assert_close(packed(last), wanted)


@torch.no_grad()
@pytest.mark.parametrize(("network", "planned"), [(Viewing(views_pixels), True), (Viewing(writes_into_itself), False)])
def test_plans_run_images_of_every_format_unless_a_network_writes_in_place(
    network: nn.Module, planned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(3, 3, 6, 6)
    packed, last = pack(network.eval(), images), images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(packed(images), network(images))
    torch.testing.assert_close(packed(last), network(last))
    by_layers = Mock(wraps=packed.run_layers)
    monkeypatch.setattr(packed, "run_layers", by_layers)
    packed(images), packed(last)
    assert by_layers.call_count == (0 if planned else 1)


@torch.no_grad()
@pytest.mark.parametrize("of_weight", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("channels", "kernel"), [((4, 6), 3), ((4, 1), 3), ((1, 6), 3), ((4, 1), 1), ((4, 6), (7, 10))]
)
@pytest.mark.parametrize("in_torch", [False, True])
def test_layers_have_the_memory_format_of_torch(
    of_weight: torch.memory_format, channels: tuple[int, int], kernel: Any, in_torch: bool, monkeypatch: Any
) -> None:
    if in_torch:
        monkeypatch.setattr(layers, "current_kernel", lambda: None)
    layer = BinaryConv2d(*channels, kernel, padding=1, **BINARY).to(memory_format=of_weight)
    packed = PackedConv2d.from_layer(layer)
    x = torch.randn(2, channels[0], 5, 8)
    last = x.clone(memory_format=torch.channels_last)
    both = (x, last, x.transpose(2, 3), last[..., ::2], x[..., ::2], x[:1], last[:1])
    for given in both if kernel != (7, 10) else (x, last, x[:1], last[:1]):
        assert packed(given).stride() == layer(given).stride()


@torch.no_grad()
def test_layers_behind_one_channel_see_what_they_see_in_torch() -> None:
    layer, behind = BinaryConv2d(4, 1, 3, **BINARY), nn.Conv2d(1, 8, 3)
    packed, x = PackedConv2d.from_layer(layer), torch.randn(2, 4, 8, 8)
    y = behind(packed(x))
    y.view(len(y), -1).add_(1)
    torch.testing.assert_close(y, behind(layer(x)) + 1)


@torch.no_grad()
def test_copied_layers_have_the_memory_format_of_their_source(tmp_path: Any) -> None:
    layer, x = BinaryConv2d(4, 6, 3, **BINARY), torch.randn(2, 4, 5, 8)
    packed = PackedConv2d.from_layer(layer)
    packed.copy_(layer.to(memory_format=torch.channels_last))
    assert packed(x).stride() == layer(x).stride()
    vars(packed).pop("_of_channels_last")  # as in layers of older versions
    torch.save(packed, tmp_path / "layer.pt")
    torch.testing.assert_close(torch.load(tmp_path / "layer.pt", weights_only=False)(x), layer(x))


@torch.no_grad()
def test_sequences_have_the_memory_format_of_torch() -> None:
    for channels in (6, 1):
        layer = BinaryConv1d(4, channels, 3, padding=1, **BINARY)
        packed = PackedConv1d.from_layer(layer)
        for given in (torch.randn(2, 4, 9), torch.randn(2, 9, 4).transpose(1, 2)):
            assert packed(given).stride() == layer(given).stride()


@torch.no_grad()
def test_rows_of_packed_results_are_planned(tmp_path: Any) -> None:
    network, images = Viewing(views_rows).eval(), torch.rand(3, 3, 6, 6)
    packed = pack(network, images)
    assert (packed.report.unplanned, packed.report.in_torch) == ("", {})
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, 6))
    torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images))


@pytest.mark.parametrize("view", [writes_into_rows, writes_into_a_part])
def test_results_may_be_overwritten_while_gradients_are_recorded(view: Callable[[Tensor], Tensor]) -> None:
    network, images = Viewing(view).eval(), torch.rand(3, 3, 6, 6)
    images.requires_grad_()
    logits = pack(network, images).run_layers(images)
    torch.testing.assert_close(logits.detach(), network(images).detach())
    with pytest.raises(RuntimeError, match="no gradients"):
        logits.sum().backward()


class Sequences(nn.Module):
    """A 1-d network that stacks what it pools."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = BinaryConv1d(3 * 5, 8, 3, padding=1, **BINARY), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.flatten(1, 2) - 0.5)
        pooled = F.avg_pool1d(y, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False)
        logits: Tensor = self.head(torch.stack([pooled.mean(2), F.max_pool1d(y, 2).amax(2)], 2).flatten(1))
        return logits


@torch.no_grad()
def test_stacks_and_pools_of_sequences_are_captured(tmp_path: Any) -> None:
    torch.manual_seed(0)
    network, images = Sequences().eval(), torch.rand(3, 3, 5, 9)
    packed = pack(network, images)
    assert packed.report.unplanned == ""
    save(packed, tmp_path / "net.bnn", PackedInfo("net", 3, (5, 9)))
    torch.testing.assert_close(load(tmp_path / "net.bnn")(images), network(images))
