"""Images that are not square: every registered network, trained and packed."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bnn_lightning.data import Preparation
from bnn_lightning.deploy import PackedInfo, load, pack, save
from bnn_lightning.layers.module_utils import annealed
from bnn_lightning.models import create_backbone

sys.path.insert(0, str(Path(__file__).parents[1]))
from small_networks import BACKBONES, small_options

SIZE = (40, 56)


def build(name: str, size: Any) -> Any:
    torch.manual_seed(0)
    return create_backbone(name, num_classes=3, image_size=size, **small_options(name, width=8)).eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_takes_height_and_width(name: str) -> None:
    network = build(name, list(SIZE))
    assert network.image_size == SIZE
    with torch.inference_mode():
        assert network(torch.rand(2, 3, *SIZE)).shape == (2, 3)


@pytest.mark.parametrize(
    "name",
    [name if name in ("mlp", "vgg_small") else pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES],
)
def test_a_packed_file_knows_height_and_width(name: str, tmp_path: Path) -> None:
    network = build(name, SIZE)
    for binarizer in annealed(network):
        binarizer.set_progress(1.0)
    images = torch.randint(256, (2, 3, *SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        logits = network(images / 255)
    preparation = Preparation(size=SIZE, channels=3, resize=SIZE)
    save(pack(network), tmp_path / "net.bnn", PackedInfo(name, 3, SIZE, preparation=preparation))
    loaded = load(tmp_path / "net.bnn")
    assert (loaded.info.image_size, loaded.info.preparation) == (SIZE, preparation)
    torch.testing.assert_close(loaded(images), logits, rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"\('N', 3, 40, 56\)"):
        loaded(images.transpose(2, 3))


def test_equal_sides_are_one_number() -> None:
    network = build("mlp", [8, 8])
    assert network.image_size == 8
    with pytest.raises(ValueError, match="`image_size` must be at least 17"):
        build("resnet18_double_skip", (40, 16))
    with pytest.raises(ValueError, match="`image_size`"):
        build("mlp", [8])
