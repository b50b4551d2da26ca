"""A run as the subject of a figure: its network, and labeled images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor, nn

from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.checkpoint import embedded_config, load_backbone, network_file, read_checkpoint
from bnn_lightning.workflows.errors import READING, as_user_error
from bnn_lightning.workflows.opened import Described, check_images

Plain = dict[str, Any]


@dataclass(frozen=True)
class VisualizedRun:
    """A run that is over, or its last checkpoint.

    Attributes:
        file: The checkpoint's.
        network: In evaluation mode, on the CPU.
        checkpoint: All that is in the file.
        data: The configuration of the data, without augmentation.
        trust: Packages that its configuration may name.
    """

    file: Path
    network: nn.Module
    checkpoint: Mapping[str, Any]
    data: Plain
    trust: tuple[str, ...]

    def images(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        """Return the first images of a split, (N, C, H, W) in [0, 1], and their labels, (N,).

        Those of the training split come in the order of its first epoch, which `data.seed` draws, and without
        augmentation where the data module can do without; those of the test split in that of the files.

        Args:
            split: "train" or "test".
            count: Number of images; fewer where there are fewer.

        Raises:
            UserError: Missing or damaged files, or images that the network does not take.
        """
        datamodule = build_datamodule(self.data, trust=self.trust)
        check_images(self.network, datamodule, self.file)
        with as_user_error("`data`: ", READING):
            datamodule.prepare_data()
            datamodule.setup("fit" if split == "train" else "test")
        return _take(datamodule, split, count)

    def class_names(self) -> list[str]:
        """Return the names of the classes; none where they are not known."""
        datamodule: Any = build_datamodule(self.data, trust=self.trust)
        names = list(datamodule.class_names)
        return names if len(names) == datamodule.num_classes else []


def read_run(path: str, described: Described, *, trust: Sequence[str] = ()) -> VisualizedRun:
    """Read a run's folder, or a checkpoint.

    Args:
        path: Path of either.
        described: Data in the place of the run's own.
        trust: See `build`.

    Raises:
        UserError: It cannot be read, or is none of ours.
    """
    file = network_file(path)
    checkpoint = read_checkpoint(file)
    data = described.data_beside(embedded_config(checkpoint, file)["data"])
    data |= {key: None for key in ("augment", "auto_augment") if key in data}
    return VisualizedRun(file, load_backbone(file, trust=trust), checkpoint, data, tuple(trust))


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
