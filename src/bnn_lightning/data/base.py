"""Base class of data modules: facts of the set, the global batch size, splits and loaders."""

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from bnn_lightning.data.loader import ResumableLoader
from bnn_lightning.data.preparation import Preparation
from bnn_lightning.data.sampler import Copies, EpochSampler, evaluation_slices, training_slices
from bnn_lightning.data.split import stratified_split
from bnn_lightning.utils.checks import check_integer, check_number
from bnn_lightning.utils.image_size import ImageSize, plain_size, sides
from bnn_lightning.utils.signature import merged_signature

Fact = TypeVar("Fact")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Facts of a data set that hold before a file is read.

    Args:
        name: As people write it.
        num_classes: Number of classes.
        in_channels: Channels of an image.
        image_sizes: The sizes at which the set can be shown; the first is the default. Empty allows any.
        mean: By channel, of images in [0, 1]; what the network's normalization subtracts.
        std: By channel.
        class_names: In the order of the labels.
    """

    name: str
    num_classes: int
    in_channels: int
    image_sizes: tuple[int | tuple[int, int], ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]


class ImageDataModule(LightningDataModule):
    """Images in [0, 1] with labels, in batches of one global size.

    Batches are `(images, labels)`: float32 (N, C, H, W) in [0, 1] and int64 (N,), on the device. Normalization is the
    network's.

    A subclass states the arguments that are its own, and passes `**options` on: its signature names all of them.

    Args:
        spec: Facts of the set.
        root: Folder of the data files.
        batch_size: Images an optimizer step, over all devices and accumulated batches.
        val_fraction: Share of the training images held out, stratified by class and drawn with `seed`. With 0, the
            papers' protocol, the test set stands in for curves, and nothing may be chosen on it.
        seed: Seed of order, augmentation and held-out images.
        eval_batch_size: Images an evaluation batch, over all devices; None is `batch_size`. Scores do not depend on it.
        num_workers: Processes that decode files, for each device; sets that are held in memory need none.
        drop_last: Leave out the incomplete last training batch, as the papers do. Evaluation scores every image.
        image_size: Height and width of the images, one number for both; None is the set's own.
        num_classes: None is the set's own. It may be given, so that a config states it, and is then checked.
        in_channels: As `num_classes`.
        mean: By channel; None is the set's own.
        std: By channel; None is the set's own.

    Attributes:
        option_classes: Classes whose arguments a subclass takes among its `**options`, beside those of its base.
        has_val: Whether `val_dataloader` shows held-out images rather than the test set.
        class_names: In the order of the labels.
        preparation: Preparation of pictures for the network; packed files hold it.
    """

    __signature__: ClassVar[inspect.Signature]
    option_classes: ClassVar[tuple[type, ...]] = ()

    def __init_subclass__(cls) -> None:
        """Name all arguments in the signature of a subclass: configurations are held against it."""
        super().__init_subclass__()
        base = next(base for base in cls.__mro__[1:] if issubclass(base, ImageDataModule))
        cls.__signature__ = merged_signature(cls.__init__, base, *cls.option_classes, passed=("root",))

    def __init__(
        self,
        spec: DataSpec,
        root: str | Path,
        *,
        batch_size: int,
        val_fraction: float = 0.0,
        seed: int = 0,
        eval_batch_size: int | None = None,
        num_workers: int = 0,
        drop_last: bool = True,
        image_size: ImageSize | None = None,
        num_classes: int | None = None,
        in_channels: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            check_integer(name, value, least)
        check_number("val_fraction", val_fraction, "in [0, 1)", lambda share: 0 <= share < 1)
        self.spec = spec
        self.root = Path(root)
        self.batch_size = batch_size
        self.val_fraction = val_fraction
        self.seed = seed
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.drop_last = drop_last
        self.num_classes = self._fact("num_classes", num_classes, (spec.num_classes,))
        self.in_channels = self._fact("in_channels", in_channels, (spec.in_channels,))
        self.image_size = self._fact(
            "image_size", None if image_size is None else plain_size(image_size), spec.image_sizes
        )
        self.mean = self._statistic("mean", mean, spec.mean)
        self.std = self._statistic("std", std, spec.std)
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be positive in every channel, got {self.std}.")
        self.class_names = spec.class_names

    @property
    def has_val(self) -> bool:
        return self.val_fraction > 0

    def predict_dataloader(self) -> Any:
        """Return the loader of the test set, for `trainer.predict`."""
        return self.test_dataloader()

    @property
    def preparation(self) -> Preparation | None:
        """Preparation of pictures for evaluation; None for data that are not made from pictures."""
        if self.in_channels not in (1, 3):
            return None
        size = sides(self.image_size)
        inner = (size[0] - 2 * self.border, size[1] - 2 * self.border)
        return Preparation(size=size, channels=self.in_channels, resize=inner, border=self.border)

    @property
    def border(self) -> int:
        """Black pixels on each side of a picture."""
        return 0

    def _fact(self, name: str, value: Fact | None, valid: tuple[Fact, ...]) -> Fact:
        if value is not None and value not in valid:
            known = valid[0] if len(valid) == 1 else f"one of {list(valid)}"
            raise ValueError(f"`{name}` of {self.spec.name} must be {known}, got {value}.")
        return valid[0] if value is None else value

    def _statistic(self, name: str, value: Sequence[float] | None, default: tuple[float, ...]) -> tuple[float, ...]:
        values = default if value is None else tuple(float(v) for v in value)
        if len(values) != self.spec.in_channels:
            raise ValueError(
                f"`{name}` must have a number for each of {self.spec.in_channels} channels, got {list(values)}."
            )
        return values

    @abstractmethod
    def training_labels(self) -> Tensor:
        """Return the labels of the images that are trained on, (N,), once the module is set up for it."""

    def _devices(self) -> tuple[int, int]:
        """Return this rank and the number of ranks that share the images."""
        if self.trainer is None:
            return 0, 1
        shares = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        return shares["rank"], shares["num_replicas"]

    def _accumulation(self) -> int:
        return 1 if self.trainer is None else self.trainer.accumulate_grad_batches

    def local_batch_size(self) -> int:
        """Return the images of a batch on one device.

        Raises:
            ValueError: `batch_size` cannot be shared equally.
        """
        _, devices = self._devices()
        accumulation = self._accumulation()
        parts = devices * accumulation
        if self.batch_size % parts:
            lower = self.batch_size // parts * parts
            valid = f"{lower} and {lower + parts}" if lower else f"{parts} and {2 * parts}"
            raise ValueError(
                "`batch_size` counts the images of an optimizer step and must be divisible by devices x accumulation "
                f"= {devices} x {accumulation} = {parts}, got {self.batch_size}; the nearest valid sizes are {valid}."
            )
        return self.batch_size // parts

    def _split_training(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices to train on and those held out."""
        if self.val_fraction == 0:
            return torch.arange(len(labels)), torch.empty(0, dtype=torch.int64)
        return stratified_split(labels, self.val_fraction, seed=self.seed)

    def _training_slices(self, num_images: int) -> list[slice]:
        """Cut an epoch for this rank.

        Raises:
            ValueError: `batch_size` cannot be shared equally, or the images do not make one batch.
        """
        self.local_batch_size()
        rank, devices = self._devices()
        accumulate = self._accumulation()
        slices = training_slices(
            num_images, self.batch_size, rank=rank, parts=devices, accumulate=accumulate, drop_last=self.drop_last
        )
        if not slices:
            raise ValueError(
                f"`batch_size` must be at most the {num_images} training images of {self.spec.name}, "
                f"got {self.batch_size}."
            )
        return slices

    def _training_loader(
        self,
        indices: Tensor,
        batches: Callable[[EpochSampler], Iterable[Any]] | None = None,
        *,
        copies: Copies | None = None,
    ) -> ResumableLoader:
        slices = self._training_slices(len(indices))
        overfit = getattr(self.trainer, "overfit_batches", 0) > 0
        sampler = EpochSampler(indices, slices, split="train", seed=None if overfit else self.seed, copies=copies)
        identity = {
            "batch_size": self.batch_size,
            "local_batch_size": self.local_batch_size(),
            "drop_last": self.drop_last,
            "training_images": len(indices),
            "seed": self.seed,
        }
        if copies is not None:
            identity["repeats"] = copies.repeats
        return ResumableLoader(sampler, batches and batches(sampler), identity=identity)

    def _evaluation_loader(
        self, indices: Tensor, split: str, batches: Callable[[EpochSampler], Iterable[Any]] | None = None
    ) -> ResumableLoader:
        rank, devices = self._devices()
        if len(indices) < devices:
            raise ValueError(f"`devices` must be at most the {len(indices)} images of the {split} set, got {devices}.")
        local = -(-self.eval_batch_size // devices)
        slices = evaluation_slices(len(indices), local, rank=rank, parts=devices)
        sampler = EpochSampler(indices, slices, split=split)
        return ResumableLoader(sampler, batches and batches(sampler))
