import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as tvf

from bnn_lightning.data.transforms import Augmentation, crop_and_flip, lighting, pad_images, to_float

NUMPY_MODE = {"edge": "edge", "zero": "constant", "reflect": "reflect"}


def bytes_like(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["edge", "zero", "reflect"])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_padding_equals_torchvision(mode: str, padding: int) -> None:
    images = bytes_like(3, 2, 6, 5)
    expected = tvf.pad(images, [padding] * 4, padding_mode=NUMPY_MODE[mode])
    assert torch.equal(pad_images(images, padding, mode), expected)


def test_crop_and_flip_equal_plain_slicing() -> None:
    padded = bytes_like(7, 3, 12, 10)
    index, top, left = torch.tensor([6, 0, 3, 3]), torch.tensor([0, 4, 1, 2]), torch.tensor([4, 0, 3, 3])
    flip = torch.tensor([True, False, True, False])
    expected = []
    for i, y, x, mirrored in zip(index.tolist(), top.tolist(), left.tolist(), flip.tolist(), strict=True):
        window = padded[i, :, y : y + 8, x : x + 6]
        expected.append(window.flip(-1) if mirrored else window)
    assert torch.equal(crop_and_flip(padded, index, top, left, flip, 2), torch.stack(expected))
    plain = crop_and_flip(padded, index, top, left, None, 2)
    assert torch.equal(plain[~flip], torch.stack(expected)[~flip])


def test_last_row_of_the_last_image_is_reached() -> None:
    padded = bytes_like(2, 1, 6, 6)
    corner = crop_and_flip(padded, torch.tensor([1]), torch.tensor([2]), torch.tensor([2]), None, 1)
    assert torch.equal(corner[0], padded[1, :, 2:, 2:])


def positions(flip: float, images: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    """Read the offsets and flips off images whose pixels say where they were."""
    row, column = torch.arange(24).view(1, 1, 24, 1), torch.arange(24).view(1, 1, 1, 24)
    padded = torch.cat([row.expand(1, 1, 24, 24), column.expand(1, 1, 24, 24)], dim=1).to(torch.uint8)
    padded = padded.expand(images, 2, 24, 24).contiguous()
    cut = Augmentation(flip=flip, padding=4)(padded, torch.arange(images), seed=0, epoch=epoch)
    cut = (cut * 255).round().long()
    mirrored = cut[:, 1, 0, 0] > cut[:, 1, 0, -1]
    return cut[:, 0, 0, 0], cut[:, 1].amin(dim=(1, 2)), mirrored


def test_all_offsets_and_flips_come_equally_often() -> None:
    top, left, mirrored = positions(0.5, 20_000, 0)
    assert (int(top.min()), int(top.max()), int(left.min()), int(left.max())) == (0, 8, 0, 8)
    cells = torch.bincount((top * 9 + left) * 2 + mirrored, minlength=162).double()
    expected = 20_000 / 162
    assert ((cells - expected) ** 2 / expected).sum() < 221  # chi-square, 161 degrees of freedom, 0.1 %


@pytest.mark.parametrize("flip", [0.0, 0.25, 1.0])
def test_flip_is_a_probability(flip: float) -> None:
    share = positions(flip, 20_000, 1)[2].double().mean().item()
    assert abs(share - flip) <= 3.3 * math.sqrt(flip * (1 - flip) / 20_000)


def test_epochs_draw_anew() -> None:
    first, second = (torch.stack(positions(0.5, 20_000, epoch)) for epoch in (0, 1))
    assert abs((first == second).all(dim=0).double().mean().item() - 1 / 162) < 0.002


@pytest.mark.parametrize(
    "augment", [Augmentation(flip=0.5, padding=2, padding_mode="edge"), Augmentation(degrees=15, scale=0.1, shear=5)]
)
def test_an_image_does_not_depend_on_its_batch(augment: Augmentation) -> None:
    padded, index = augment.pad(bytes_like(50, 1, 8, 8)), torch.randperm(50, generator=torch.Generator().manual_seed(1))
    together = augment(padded, index, seed=3, epoch=4)
    alone = torch.cat([augment(padded, i, seed=3, epoch=4) for i in index.split(1)])
    assert torch.equal(together, alone)
    halves = torch.cat([augment(padded, i, seed=3, epoch=4) for i in index.split(17)])
    assert torch.equal(together, halves)


def test_no_augmentation_is_the_image() -> None:
    images = bytes_like(5, 3, 4, 4)
    assert torch.equal(Augmentation()(images, torch.tensor([4, 2]), seed=0, epoch=0), to_float(images[[4, 2]]))


@pytest.mark.parametrize("angle", [0.0, 17.0, -45.0, 90.0])
@pytest.mark.parametrize("zoom", [1.0, 0.75, 1.25])
def test_affine_map_equals_torchvision(angle: float, zoom: float) -> None:
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    draws = torch.tensor([angle / 90, (zoom - 1) / 0.5, 0.0]).view(3, 1).expand(3, 4)
    ours = Augmentation(degrees=90, scale=0.5)._affine(images, draws)
    theirs = tvf.affine(images, angle, [0, 0], zoom, [0.0], interpolation=tvf.InterpolationMode.BILINEAR)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_shear_moves_rows_sideways() -> None:
    images = torch.zeros(1, 1, 9, 9)
    images[..., 4] = 1.0
    sheared = Augmentation(shear=45)._affine(images, torch.tensor([[0.0], [0.0], [1.0]]))
    torch.testing.assert_close(sheared[0, 0].fliplr(), torch.eye(9), rtol=0, atol=1e-5)


def test_to_float_is_bit_equal_to_torchvision() -> None:
    values = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_float(values)[0, 0], tvf.to_tensor(values[0, 0].numpy())[0])


def test_lighting_is_gaussian_along_the_components() -> None:
    images = torch.full((20_000, 3, 1, 1), 0.5)
    shift = (lighting(images, torch.arange(20_000), 0.1, seed=0, epoch=0) - images).view(-1, 3).double()
    vectors = torch.tensor(
        [[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]]
    ).double()
    coefficients = shift @ torch.linalg.inv(vectors).t()
    std = 0.1 * torch.tensor([0.2175, 0.0188, 0.0045]).double()
    torch.testing.assert_close(coefficients.std(dim=0), std, rtol=0.03, atol=0)
    assert (coefficients.mean(dim=0).abs() < 4 * std / 20_000**0.5).all()
    normal = coefficients[:, 0] / std[0]
    assert abs((normal.abs() < 1).double().mean().item() - 0.6827) < 0.012
    part = lighting(images[5:9], torch.arange(5, 9), 0.1, seed=0, epoch=0)
    assert torch.equal(part, lighting(images, torch.arange(20_000), 0.1, seed=0, epoch=0)[5:9])


def test_lighting_builds_its_tensors_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images, index = torch.rand(2, 3, 1, 1), torch.arange(2)
    first = lighting(images, index, 0.1, seed=0, epoch=0)

    def refuse(*_: object, **__: object) -> Tensor:
        raise AssertionError("a tensor is made on the host")

    monkeypatch.setattr(torch, "tensor", refuse)
    assert torch.equal(lighting(images, index, 0.1, seed=0, epoch=0), first)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"flip": 1.5}, r"`flip` must be a probability in \[0, 1\], got 1.5"),
        ({"padding": -1}, "`padding` must be a whole number of at least 0, got -1"),
        ({"padding_mode": "mirror"}, r"`padding_mode` must be one of \['edge', 'zero', 'reflect'\], got 'mirror'"),
        ({"degrees": 181}, r"`degrees` must be in \[0, 180\], got 181"),
        ({"shear": -1}, r"`shear` must be in \[0, 90\), got -1"),
        ({"scale": 1.0}, r"`scale` must be in \[0, 1\), got 1\.0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_reflection_past_the_edge_is_an_error() -> None:
    with pytest.raises(ValueError, match="`padding` must be below the image size 4 to reflect, got 4"):
        pad_images(bytes_like(1, 1, 4, 4), 4, "reflect")
