"""Sets on the GPU yield the bits that they yield on the CPU."""

import pytest
import torch

from bnn_lightning.data import Augmentation, SyntheticDataModule
from bnn_lightning.data.random import random_bits
from bnn_lightning.data.transforms import lighting

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_random_bits() -> None:
    index = torch.arange(100_000)
    expected = random_bits(index, range(8), seed=3, epoch=5)
    assert torch.equal(random_bits(index.cuda(), range(8), seed=3, epoch=5).cpu(), expected)


@pytest.mark.parametrize("mode", ["edge", "zero", "reflect"])
def test_batches_of_a_set_of_cifars_size(mode: str) -> None:
    augment = Augmentation(flip=0.5, padding=4, padding_mode=mode)
    data = SyntheticDataModule(num_train=50_000, learnable=False, batch_size=5_000, augment=augment)
    data.setup("fit")
    expected = list(data.batches(data.train_dataloader(), "cpu"))
    for (images, labels), (want, want_labels) in zip(
        data.batches(data.train_dataloader(), "cuda"), expected, strict=True
    ):
        assert images.is_cuda
        assert torch.equal(images.cpu(), want)
        assert torch.equal(labels.cpu(), want_labels)


def test_affine_and_lighting_are_close() -> None:
    index, images = torch.arange(64), torch.randint(256, (64, 3, 28, 28), dtype=torch.uint8)
    augment = Augmentation(degrees=10, scale=0.1, shear=5)
    ours = augment(images.cuda(), index.cuda(), seed=0, epoch=0)
    torch.testing.assert_close(ours.cpu(), augment(images, index, seed=0, epoch=0), rtol=0, atol=1e-4)
    noisy = lighting(images.cuda() / 255, index.cuda(), 0.1, seed=0, epoch=0)
    torch.testing.assert_close(noisy.cpu(), lighting(images / 255, index, 0.1, seed=0, epoch=0), rtol=0, atol=1e-5)


def test_a_set_that_moved_in_inference_mode_can_train() -> None:
    data = SyntheticDataModule(image_size=8, num_train=32, val_fraction=0.25, batch_size=8)
    data.setup("fit")
    with torch.inference_mode():
        next(data.batches(data.val_dataloader(), "cuda"))
    images, _ = next(data.batches(data.train_dataloader(), "cuda"))
    weight = torch.ones((), device="cuda", requires_grad=True)
    (images * weight).sum().backward()
    assert weight.grad is not None


def test_a_step_does_not_wait_for_the_gpu() -> None:
    data = SyntheticDataModule(num_train=64, batch_size=16, augment=Augmentation(flip=0.5, padding=4))
    data.setup("fit")
    next(data.batches(data.train_dataloader(), "cuda"))
    batches = list(data.train_dataloader())
    device = torch.device("cuda", torch.cuda.current_device())
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            data.on_after_batch_transfer(data.transfer_batch_to_device(batch, device, 0), 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
