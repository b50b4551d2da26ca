import hashlib
from importlib.resources import files

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from bnn_lightning.data import DigitsDataModule


def raw() -> tuple[torch.Tensor, torch.Tensor]:
    module = DigitsDataModule(image_size=8)
    parts = [module.read(train=train) for train in (True, False)]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_scans_are_those_of_scikit_learn() -> None:
    with np.load(str(files("bnn_lightning.data") / "digits.npz")) as archive:
        table = np.concatenate([archive["images"].reshape(-1, 64), archive["labels"][:, None]], axis=1)
        text = "\n".join(",".join(map(str, row)) for row in table.tolist()) + "\n"
    # md5 of scikit-learn 1.9.1's digits.csv, numbers written as integers
    assert hashlib.md5(text.encode()).hexdigest() == "a0339c30a8a5312a1b6f9e5c719dcce5"
    assert table[0, :8].tolist() == [0, 0, 5, 13, 9, 1, 0, 0]


def test_split_is_fixed_and_stratified() -> None:
    module = DigitsDataModule()
    (_, train), (_, test) = module.read(train=True), module.read(train=False)
    assert (len(train), len(test)) == (1437, 360)
    assert torch.bincount(test).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    whole = torch.bincount(torch.cat([train, test]))
    assert whole.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert torch.equal(DigitsDataModule(seed=5).read(train=False)[1], test)


def test_values_span_the_range() -> None:
    images, _ = raw()
    assert sorted(images.unique().tolist()) == [round(v * 255 / 16) for v in range(17)]


@pytest.mark.parametrize("image_size, border", [(28, 2), (32, 4)])
def test_enlarged_scans_stand_in_a_black_border(image_size: int, border: int) -> None:
    small, _ = DigitsDataModule(image_size=8).read(train=False)
    large, _ = DigitsDataModule(image_size=image_size).read(train=False)
    assert large.shape == (360, 1, image_size, image_size)
    inner = large[:, :, border:-border, border:-border]
    assert int(large.sum()) == int(inner.sum())
    middle = inner[:, :, 1::3, 1::3].float()  # the middle pixel of each block is the scan's own
    assert (middle - small.float()).abs().max() <= 0.5
    # Pillow rounds to bytes between its passes; torch computes in floats.
    enlarged = F.interpolate(small.float(), scale_factor=3, mode="bilinear", align_corners=False)
    assert (inner.float() - enlarged).abs().max() <= 1.5
    pictures = [Image.fromarray(scan[0].numpy()).resize((24, 24), Image.Resampling.BILINEAR) for scan in small]
    assert torch.equal(inner[:, 0], torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures]))


def test_facts() -> None:
    module = DigitsDataModule()
    assert (module.num_classes, module.in_channels, module.image_size) == (10, 1, 32)
    assert (module.mean, module.std, module.has_val) == ((0.0,), (1.0,), False)
    with pytest.raises(ValueError, match=r"`image_size` of digits must be one of \[32, 28, 8\], got 16"):
        DigitsDataModule(image_size=16)
    with pytest.raises(ValueError, match="`num_classes` of digits must be 10, got 5"):
        DigitsDataModule(num_classes=5)


def test_a_nearest_neighbour_reads_the_labels() -> None:
    module = DigitsDataModule(image_size=8)
    (train, train_labels), (test, test_labels) = module.read(train=True), module.read(train=False)
    distances = torch.cdist(test.flatten(1).float(), train.flatten(1).float())
    assert (train_labels[distances.argmin(dim=1)] == test_labels).float().mean() > 0.97
