"""Data modules: images in [0, 1], a global batch size, order and augmentation fixed by (seed, epoch, image)."""

from bnn_lightning.utils.lazy import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "auto_augment": ["RandAugment"],
        "base": ["DataSpec", "ImageDataModule"],
        "cifar": ["CIFAR10DataModule", "CIFAR100DataModule"],
        "digits": ["DigitsDataModule"],
        "folder": ["FolderDataModule"],
        "imagenet": ["ImageNetDataModule"],
        "loader": ["ResumableLoader"],
        "mixup_cutmix": ["MixupCutmix"],
        "mnist": ["MNISTDataModule"],
        "preparation": ["Preparation"],
        "in_memory": ["InMemoryDataModule"],
        "sampler": ["EpochSampler", "Indices"],
        "stream": ["ImageNetStreamDataModule"],
        "synthetic": ["SyntheticDataModule"],
        "transforms": ["Augmentation"],
    },
)
