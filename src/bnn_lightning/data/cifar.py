"""CIFAR-10 and CIFAR-100: 50,000 and 10,000 photographs of 32 x 32 pixels."""

import codecs
import io
import pickle
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from bnn_lightning.data.base import DataSpec
from bnn_lightning.data.files import FileDataModule
from bnn_lightning.data.transforms import Augmentation

_PIXELS = 3 * 32 * 32
_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man
    maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree
    plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail
    snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout
    tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers, and nothing that runs code."""

    _allowed: ClassVar[dict[tuple[str, str], Any]] = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy._core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        # The form in which Python 3 writes bytes for Python 2.
        ("_codecs", "encode"): codecs.encode,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return self._allowed[module, name]


class _CIFARDataModule(FileDataModule):
    """Base class of CIFAR-10 and CIFAR-100."""

    default_augmentation: ClassVar[Augmentation] = Augmentation(flip=0.5, padding=4, padding_mode="edge")
    published: ClassVar[type[CIFAR10]]
    training_files: ClassVar[tuple[str, ...]]
    test_file: ClassVar[str]
    label_key: ClassVar[str]

    def __init_subclass__(cls) -> None:
        """Take the files from torchvision's class, where the subclass names one; what it defines itself stays."""
        super().__init_subclass__()
        if "published" not in vars(cls):
            return
        published = cls.published
        files = {
            "subfolder": published.base_folder,
            "source": published.url,
            "training_files": tuple(name for name, _ in published.train_list),
            "test_file": published.test_list[0][0],
            "checksums": dict(published.train_list + published.test_list),
        }
        for name in files.keys() - vars(cls).keys():
            setattr(cls, name, files[name])

    def fetch(self) -> None:
        self.published(str(self.root), download=True)

    def read(self, train: bool) -> tuple[Tensor, Tensor]:
        parts = [self._read_file(name) for name in (self.training_files if train else (self.test_file,))]
        return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])

    def _read_file(self, name: str) -> tuple[Tensor, Tensor]:
        data = self.contents(name)
        try:
            # latin1: the files were pickled by Python 2.
            entry = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
            images, labels = entry["data"], np.asarray(entry[self.label_key], dtype=np.int64)
        except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise self.damaged(name, f"it cannot be read ({error})") from error
        valid = images.dtype == np.uint8 and images.shape == (len(labels), _PIXELS)
        if not valid or labels.min(initial=0) < 0 or labels.max(initial=0) >= self.num_classes:
            raise self.damaged(name, f"it must hold (N, {_PIXELS}) bytes and N labels below {self.num_classes}")
        return torch.from_numpy(images.reshape(-1, 3, 32, 32)), torch.from_numpy(labels)


class CIFAR10DataModule(_CIFARDataModule):
    """CIFAR-10, from torchvision's files (`<root>/cifar-10-batches-py`).

    Mean and std are those of the SKD-BNN recipe; so is the default augmentation: flip, and crop from 4 pixels of
    repeated edge.
    """

    spec = DataSpec(
        name="CIFAR-10",
        num_classes=10,
        in_channels=3,
        image_sizes=(32,),
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
        class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    )
    published = CIFAR10
    label_key = "labels"


class CIFAR100DataModule(_CIFARDataModule):
    """CIFAR-100 with its 100 fine labels, from torchvision's files (`<root>/cifar-100-python`).

    Mean and std are those of its training images; the default augmentation is that of CIFAR-10.
    """

    spec = DataSpec(
        name="CIFAR-100",
        num_classes=100,
        in_channels=3,
        image_sizes=(32,),
        mean=(0.5071, 0.4865, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
        class_names=tuple(_CIFAR100_CLASSES.split()),
    )
    published = CIFAR100
    label_key = "fine_labels"
