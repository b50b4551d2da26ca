"""Resolvers of `conf/data/folder.yaml`: facts of a folder of pictures, known before its data module is built."""

from typing import Any

from omegaconf import OmegaConf

from bnn_lightning.data.imagenet_folders import count_classes


def register() -> None:
    """Register `${folder_classes:root}` and `${by_channels:channels,gray,rgb}`."""
    OmegaConf.register_new_resolver("folder_classes", lambda root: len(count_classes(root)), replace=True)
    OmegaConf.register_new_resolver("by_channels", _by_channels, replace=True)


def _by_channels(channels: int, gray: Any, rgb: Any) -> Any:
    """Return the value for gray or RGB images."""
    if channels not in (1, 3):
        raise ValueError(f"`data.in_channels` of pictures must be 1 or 3, got {channels}.")
    return gray if channels == 1 else rgb
