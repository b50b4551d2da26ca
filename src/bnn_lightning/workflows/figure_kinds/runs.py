"""A run of ours for a picture: its network, and images that it may be shown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from bnn_lightning.cli.visualize.images import data_of, labelled_images
from bnn_lightning.workflows.building import build_datamodule
from bnn_lightning.workflows.checkpoint import embedded_config, load_backbone, network_file, read_checkpoint


@dataclass(frozen=True)
class Run:
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
    data: dict[str, Any]
    trust: tuple[str, ...]

    def images(self, split: str, count: int) -> tuple[Tensor, Tensor]:
        """Return the first images of a split and their labels."""
        return labelled_images(self.data, self.network, self.file, split=split, count=count, trust=self.trust)

    def class_names(self) -> list[str]:
        """Return the names of the classes; none where they are not known."""
        datamodule: Any = build_datamodule(self.data, trust=self.trust)
        names = list(datamodule.class_names)
        return names if len(names) == datamodule.num_classes else []


def read_run(path: str, config: DictConfig, *, trust: Sequence[str] = ()) -> Run:
    """Read a run's folder, or a checkpoint.

    Args:
        path: Of either.
        config: What is not null in its `data` takes the place of the run's own.
        trust: See `build`.

    Raises:
        UserError: It cannot be read, or is none of ours.
    """
    file = network_file(path)
    checkpoint = read_checkpoint(file)
    data = data_of(embedded_config(checkpoint, file), config)
    return Run(file, load_backbone(file, trust=trust), checkpoint, data, tuple(trust))
