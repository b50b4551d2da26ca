"""RandAugment: operations against Pillow, draws against their distribution; transforms of torchvision in its place."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from bnn_lightning.data import Augmentation, Indices, RandAugment, SyntheticDataModule
from bnn_lightning.data.auto_augment import OPERATIONS, AutoAugment
from bnn_lightning.data.random import keyed_generator

FILL = (124.0, 116.0, 104.0)
FILL_PIL = (124, 116, 104)


def smooth(size: int = 48) -> Tensor:
    values = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    values = torch.nn.functional.interpolate(values, size=(size, size), mode="bicubic").clamp(0, 1)[0]
    return (values * 255).to(torch.uint8)


def to_pil(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL_PIL)


def solarize_add(image: Image.Image, add: int) -> Image.Image:
    return image.point([min(255, i + add) if i < 128 else i for i in range(256)] * 3)


# What timm does with Pillow, by the value that an operation gets.
PILLOW = {
    "auto_contrast": lambda x, v: ImageOps.autocontrast(x),
    "equalize": lambda x, v: ImageOps.equalize(x),
    "invert": lambda x, v: ImageOps.invert(x),
    "rotate": lambda x, v: x.rotate(v, Image.Resampling.BILINEAR, fillcolor=FILL_PIL),
    "posterize": lambda x, v: ImageOps.posterize(x, v),
    "solarize": lambda x, v: ImageOps.solarize(x, v),
    "solarize_add": solarize_add,
    "color": lambda x, v: ImageEnhance.Color(x).enhance(v),
    "contrast": lambda x, v: ImageEnhance.Contrast(x).enhance(v),
    "brightness": lambda x, v: ImageEnhance.Brightness(x).enhance(v),
    "sharpness": lambda x, v: ImageEnhance.Sharpness(x).enhance(v),
    "shear_x": lambda x, v: affine(x, (1, v, 0, 0, 1, 0)),
    "shear_y": lambda x, v: affine(x, (1, 0, 0, v, 1, 0)),
    "translate_x": lambda x, v: affine(x, (1, 0, v, 0, 1, 0)),
    "translate_y": lambda x, v: affine(x, (1, 0, 0, 0, 1, v)),
}
VALUES = {
    "rotate": (21.0, -12.0),
    "posterize": (2, 1),
    "solarize": (77, 256),
    "solarize_add": (77, 0),
    **dict.fromkeys(("color", "contrast", "brightness", "sharpness"), (1.63, 0.37)),
    **dict.fromkeys(("shear_x", "shear_y"), (0.21, -0.21)),
    **dict.fromkeys(("translate_x", "translate_y"), (15.12, -7.5)),
}
# Pillow's matrix leads from the result to the image; both signs are drawn alike.
MOVES = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")


@pytest.mark.parametrize("name, value", [(name, v) for name in PILLOW for v in VALUES.get(name, (0,))])
def test_operations_are_those_of_timm(name: str, value: float) -> None:
    image = smooth()
    ours = OPERATIONS[name](image, value, FILL).int()
    theirs = torch.from_numpy(np.array(PILLOW[name](to_pil(image), -value if name.startswith("translate") else value)))
    difference = (ours - theirs.permute(2, 0, 1).int()).abs()
    if name in MOVES:
        # Within the image; at its edge Pillow does not blend with the color from outside.
        assert difference.float().quantile(0.9) <= 2
    else:
        assert difference.max() <= 2
    assert ours.shape == image.shape


def test_rand_augment_draws_as_timm_does() -> None:
    torch.manual_seed(0)
    augment, number = RandAugment(), 6000
    drawn = [augment.choices(224) for _ in range(number)]
    lengths = Counter(map(len, drawn))
    for length, share in ((0, 0.25), (1, 0.5), (2, 0.25)):
        assert abs(lengths[length] / number - share) < 0.03
    names = Counter(name for chosen in drawn for name, _ in chosen)
    assert set(names) == set(PILLOW)
    expected = number / 15
    assert sum((count - expected) ** 2 / expected for count in names.values()) < 36.1  # chi-square, 14 degrees, 0.1 %
    angles = torch.tensor([value for chosen in drawn for name, value in chosen if name == "rotate"]).double()
    assert abs(float(angles.abs().mean()) / 30 - 0.7) < 0.01
    assert abs(float(angles.abs().std()) / 30 - 0.05) < 0.01
    assert abs(float((angles > 0).double().mean()) - 0.5) < 0.12
    assert {value for chosen in drawn for name, value in chosen if name == "posterize"} == {1, 2}


@pytest.mark.parametrize(
    "name, value",
    [
        ("rotate", 21.0),
        ("posterize", 2),
        ("solarize", 77),
        ("solarize_add", 77),
        ("color", (1.63, 0.37)),
        ("sharpness", (1.63, 0.37)),
        ("shear_x", 0.21),
        ("translate_y", 0.45 * 0.7 * 224),
    ],
)
def test_values_at_level_seven(name: str, value: float | tuple[float, ...]) -> None:
    torch.manual_seed(0)
    augment = RandAugment(std=0.0, probability=1.0)
    found = {v for _ in range(400) for n, v in augment.choices(224) if n == name}
    wanted = set(value) if isinstance(value, tuple) else {value}
    for v in found:
        assert any(math.isclose(abs(v), w, abs_tol=1e-9) for w in wanted)
    if name in ("rotate", "shear_x", "translate_y"):
        assert len(found) == 2


def test_level_is_cut_off_at_its_ends() -> None:
    torch.manual_seed(0)
    wild = RandAugment(std=100.0, probability=1.0)
    values = [v for _ in range(500) for n, v in wild.choices(224) if n == "solarize_add"]
    assert (min(values), max(values)) == (0, 110)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_ops": 0}, "`num_ops` must be a whole number between 1 and 12, got 0"),
        ({"num_ops": 13}, "`num_ops` must be a whole number between 1 and 12, got 13"),
        ({"magnitude": 11.0}, r"`magnitude` must be in \[0, 10\], got 11\.0"),
        ({"std": -1.0}, "`std` must be 0 or more"),
        ({"probability": 2.0}, r"`probability` must be in \[0, 1\]"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RandAugment(**options)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "transform", [RandAugment(probability=1.0), v2.TrivialAugmentWide(fill=9.0), v2.Compose([v2.RandomRotation(30)])]
)
def test_sets_on_the_device_transform_each_image_by_itself(transform: AutoAugment, channels: int) -> None:
    shape = {"num_train": 24, "image_size": 12, "in_channels": channels, "batch_size": 8, "seed": 3}
    crop = Augmentation(flip=0.5, padding=2)
    plain, module = (SyntheticDataModule(augment=crop, auto_augment=a, **shape) for a in (None, transform))
    for data in (plain, module):
        data.setup("fit")
    batch = Indices(torch.tensor([5, 21, 0, 13]), 4, "train")
    images, labels = module.materialize(batch)
    before, same = plain.materialize(batch)
    for image, start, index in zip(images, before, batch.indices.tolist(), strict=True):
        with keyed_generator(3, 4, index):
            expected = transform((start * 255).round().to(torch.uint8))
        assert torch.equal(image, expected.to(torch.float32) / 255)
    assert torch.equal(labels, same)
    assert not torch.equal(images, before)
    alone = module.materialize(batch._replace(indices=batch.indices[2:3]))[0]
    assert torch.equal(alone[0], images[2])
    for other in (batch._replace(epoch=5), batch):
        assert torch.equal(module.materialize(other)[0], images) == (other is batch)
    tested = batch._replace(split="test")
    assert torch.equal(module.materialize(tested)[0], plain.materialize(tested)[0])


@pytest.mark.parametrize("transform", [v2.ToDtype(torch.float32), v2.Resize(5), v2.Grayscale()])
def test_transforms_must_keep_shape_and_type(transform: AutoAugment) -> None:
    module = SyntheticDataModule(auto_augment=transform, num_train=8, image_size=12, batch_size=4)
    module.setup("fit")
    with pytest.raises(ValueError, match=r"`auto_augment` must return images as they are, uint8 of the shape \(3, 12"):
        module.materialize(Indices(torch.tensor([0]), 0, "train"))


def test_draws_leave_the_generator_as_it_was() -> None:
    module = SyntheticDataModule(auto_augment=RandAugment(), num_train=8, image_size=12, batch_size=4)
    module.setup("fit")
    torch.manual_seed(3)
    module.materialize(Indices(torch.tensor([0, 1]), 0, "train"))
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))
