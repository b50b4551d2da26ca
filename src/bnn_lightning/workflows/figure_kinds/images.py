"""Images with labels for pictures: the same ones for every network of a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from bnn_lightning.cli.facts import described
from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.errors import UserError
from bnn_lightning.workflows.opened import check_images

Plain = dict[str, Any]


def data_of(embedded: Mapping[str, Any], config: DictConfig) -> Plain:
    """Return the configuration of a run's data, without augmentation.

    Args:
        embedded: The configuration in the run's checkpoint.
        config: What is not null in its `data` takes the place of the run's own; a `data=` option replaces all of it.
    """
    data = described(config).data_beside(embedded["data"])
    return data | {key: None for key in ("augment", "auto_augment") if key in data}


def labelled_images(
    data: Plain, network: nn.Module, path: str | Path, *, split: str, count: int, trust: Sequence[str] = ()
) -> tuple[Tensor, Tensor]:
    """Return the first images of a split, (N, C, H, W) in [0, 1], and their labels, (N,).

    Those of the training split come in the order of its first epoch, which `data.seed` draws, and without augmentation
    where the data module can do without; those of the test split in that of the files.

    Args:
        data: From `data_of`.
        network: Which is shown the images.
        path: Its file, for messages.
        split: "train" or "test".
        count: How many; fewer where there are fewer.
        trust: See `build`.

    Raises:
        UserError: An unknown split, missing or damaged files, or images that the network does not take.
    """
    if split not in ("train", "test"):
        raise UserError(f"`split` must be train or test, got {split}.")
    datamodule = build_datamodule(data, trust=trust)
    check_images(network, datamodule, path)
    try:
        datamodule.prepare_data()
        datamodule.setup("fit" if split == "train" else "test")
    except (ValueError, OSError, RuntimeError) as error:
        raise UserError(f"`data`: {error}") from error
    return _take(datamodule, split, count)


def _take(datamodule: LightningDataModule, split: str, count: int) -> tuple[Tensor, Tensor]:
    loader = datamodule.train_dataloader() if split == "train" else datamodule.test_dataloader()
    batches: list[tuple[Tensor, Tensor]] = []
    taken = 0
    for batch in loader:
        batches.append(datamodule.on_after_batch_transfer(batch, 0))
        taken += len(batches[-1][1])
        if taken >= count:
            break
    images, labels = (torch.cat(part)[:count] for part in zip(*batches, strict=True))
    return images, labels
