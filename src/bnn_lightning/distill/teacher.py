"""Frozen teacher networks."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnn_lightning.layers.module_utils import in_channels_last, prefers_channels_last, to_channels_last_
from bnn_lightning.models.backbone import Backbone
from bnn_lightning.models.checkpoints import load_published
from bnn_lightning.utils.image_size import ImageSize, sides
from bnn_lightning.utils.signature import passes_on

Dtype = Literal["bfloat16", "float16", "float32"]


class FrozenTeacher:
    """A network in evaluation mode, without gradients, that a distiller asks for logits.

    It is not a module: it stands in no state dict and no checkpoint, DDP does not broadcast it, `train()` does not
    reach it, and copies of a task (averaged weights) share it. The network is made at its first use, or by `load`, and
    follows the images to their device; the random numbers of the training do not notice.

    Args:
        network: Makes the network, or is it: from images in [0, 1], which it normalizes itself, to logits.
        dtype: Precision that it computes in: "bfloat16", "float16" (by autocast) or "float32"; None is the student's.
        image_size: Height and width that images are resized to; None leaves them as the student sees them.
        channels_last: Memory format of images and filters. None: channels_last where the network has 2-d convolutions.
        compile: Compile it, in place.

    Raises:
        ValueError: A value out of its range.

    Example:
        >>> import copy
        >>> teacher = FrozenTeacher(nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(48, 10)), image_size=4)
        >>> logits = teacher(torch.rand(2, 3, 8, 8))
        >>> logits.shape, logits.requires_grad, copy.deepcopy(teacher) is teacher
        (torch.Size([2, 10]), False, True)
    """

    def __init__(
        self,
        network: Callable[[], nn.Module] | nn.Module,
        *,
        dtype: Dtype | None = None,
        image_size: int | None = None,
        channels_last: bool | None = None,
        compile: bool = False,
    ) -> None:
        if dtype is not None and dtype not in get_args(Dtype):
            raise ValueError(f"`dtype` must be one of {list(get_args(Dtype))}, or None, got {dtype!r}.")
        if image_size is not None and image_size < 1:
            raise ValueError(f"`image_size` must be positive, or None, got {image_size}.")
        self._make = network
        self._network: nn.Module | None = None
        self._place: tuple[torch.device, torch.dtype] | None = None
        self.dtype, self.image_size = dtype, image_size
        self.channels_last, self.compile = channels_last, compile

    @property
    def network(self) -> nn.Module:
        """The network itself; it is made where it has not been."""
        if self._network is None:
            # Random weights are drawn before others take their place: the training must not see that. Of the CPU's
            # generator alone: `torch.manual_seed` would set those of GPUs as well, which are not put back.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(0)
                network = self._make if isinstance(self._make, nn.Module) else self._make()
            network.eval().requires_grad_(False)
            if self.channels_last is None:
                self.channels_last = prefers_channels_last(network)
            if self.channels_last:
                to_channels_last_(network)
            if self.compile:
                network.compile()
            self._network = network
        return self._network

    def load(self, *, num_classes: int, in_channels: int | None = None, image_size: ImageSize | None = None) -> Self:
        """Make the network now, and see that it takes the student's images and has its classes.

        Args:
            num_classes: Width of the student's logits.
            in_channels: Channels of the images.
            image_size: Their height and width; an image is tried where both are known.

        Raises:
            ValueError: It has others, or cannot take such an image; or what making it raises.
        """
        for name, wanted in (("num_classes", num_classes), ("in_channels", in_channels)):
            own = getattr(self.network, name, None)
            if own is not None and wanted is not None and own != wanted:
                raise ValueError(
                    f"The teacher {type(self.network).__name__} has {name}={own}, and the student {name}={wanted}: "
                    "take a teacher that was trained on the same classes and kind of images."
                )
        if in_channels is not None and image_size is not None:
            check_width(self.probe(torch.zeros(1, in_channels, *sides(image_size))), num_classes)
        return self

    @torch.no_grad()
    def probe(self, images: Tensor) -> Tensor:
        """Compute logits before the training, on the device and in the precision of the images, without compiling.

        Raises:
            ValueError: The network does not take such images.
        """
        try:
            logits: Tensor = self._at(images.device, images.dtype).forward(self._resized(images))
        except (IndexError, RuntimeError, ValueError) as error:
            own = getattr(self.network, "image_size", None)
            size = f"image_size={own}" if isinstance(own, int) else "`image_size`"
            raise ValueError(
                f"The teacher {type(self.network).__name__} cannot take images of {tuple(images.shape[1:])} "
                f"({str(error).splitlines()[0]}): {size} resizes them to the size that it was trained on."
            ) from error
        return logits

    def _resized(self, images: Tensor) -> Tensor:
        if self.image_size is None or images.shape[-2:] == (self.image_size, self.image_size):
            return images
        return F.interpolate(images, size=(self.image_size,) * 2, mode="bilinear", antialias=True)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Compute logits (N, num_classes), without a graph, from images (N, C, H, W) in [0, 1]."""
        # In double precision, or where the whole training is in half, the teacher is as well.
        images = images if self.dtype is None else images.float()
        network = self._at(images.device, images.dtype)
        images = self._resized(images)
        if self.channels_last:
            images = in_channels_last(images)
        with self._precision(images.device.type):
            logits: Tensor = network(images)
        return logits

    def _at(self, device: torch.device, dtype: torch.dtype) -> nn.Module:
        if self._place != (device, dtype):
            self._place = device, dtype
            self.network.to(device, dtype)
        return self.network

    def _precision(self, device: str) -> AbstractContextManager[Any]:
        if self.dtype is None:
            return nullcontext()
        if self.dtype == "float32":
            return torch.autocast(device, enabled=False)
        return torch.autocast(device, getattr(torch, self.dtype))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        made = "not made yet" if self._network is None else type(self._network).__name__
        return f"FrozenTeacher({made}, dtype={self.dtype}, image_size={self.image_size})"


@passes_on(FrozenTeacher)
def checkpoint_teacher(ckpt: str, *, load: Callable[[str], nn.Module] | None = None, **options: Any) -> FrozenTeacher:
    """Make a teacher from the network of a run of ours.

    Args:
        ckpt: A run's folder, or a checkpoint.
        load: Reads it and returns the network; `bnn` passes its own.
        **options: As `FrozenTeacher` takes them.

    Raises:
        ValueError: Without `load` nobody can read the checkpoint.
    """
    if load is None:
        raise ValueError(
            "`load` must say how a checkpoint is read, such as `lambda path: bnn_lightning.load_task(path).backbone`."
        )
    return FrozenTeacher(partial(load, ckpt), **options)


@passes_on(FrozenTeacher)
def published_teacher(network: Callable[[], Backbone], weights: str, **options: Any) -> FrozenTeacher:
    """Make a teacher from a network of ours and a file of weights (`load_published`).

    Args:
        network: Makes the network.
        weights: The file.
        **options: As `FrozenTeacher` takes them.
    """

    def make() -> Backbone:
        backbone = network()
        load_published(backbone, weights)
        return backbone

    return FrozenTeacher(make, **options)


def check_width(logits: Tensor, num_classes: int) -> None:
    """Refuse a teacher's logits of another width than the student's.

    Raises:
        ValueError: They have one.
    """
    if logits.shape[1] != num_classes:
        raise ValueError(f"The teacher has {logits.shape[1]} classes, and the student `num_classes`={num_classes}.")


def sizes_of(student: nn.Module) -> dict[str, Any]:
    """Return channels and size of a backbone's images, None for a fact that it does not state."""
    own = {name: getattr(student, name, None) for name in ("in_channels", "image_size")}
    return {name: value if isinstance(value, int | tuple) else None for name, value in own.items()}
