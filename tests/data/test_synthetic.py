import torch

from bnn_lightning.data import SyntheticDataModule


def test_images_depend_on_shape_and_counts_alone() -> None:
    first, other = (SyntheticDataModule(seed=seed).read(train=True) for seed in (0, 7))
    assert torch.equal(first[0], other[0])
    assert torch.equal(first[1], other[1])
    assert not torch.equal(first[0][:128], SyntheticDataModule().read(train=False)[0])


def test_any_shape() -> None:
    module = SyntheticDataModule(image_size=20, in_channels=2, num_classes=3, num_train=10, num_test=4, batch_size=5)
    images, labels = module.read(train=True)
    assert (images.shape, images.dtype) == ((10, 2, 20, 20), torch.uint8)
    assert labels.unique().tolist() == [0, 1, 2]
    assert (module.num_classes, module.in_channels, module.image_size, len(module.mean)) == (3, 2, 20, 2)


def fitted_accuracy(learnable: bool) -> float:
    module = SyntheticDataModule(image_size=8, num_train=400, num_test=200, learnable=learnable)
    (train, train_labels), (test, test_labels) = module.read(train=True), module.read(train=False)
    means = torch.stack([train[train_labels == c].double().mean(dim=0) for c in range(10)]).flatten(1)
    nearest = torch.cdist(test.flatten(1).double(), means).argmin(dim=1)
    return (nearest == test_labels).double().mean().item()


def test_classes_can_be_learned_or_not() -> None:
    assert fitted_accuracy(learnable=True) > 0.95
    assert fitted_accuracy(learnable=False) < 0.25
