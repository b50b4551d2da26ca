"""Images a second and core of our ImageNet path beside torchvision's ImageFolder, before and after `bnn prepare`.

    python -m benchmarks.folder --folder data/imagenet --images 200 --repeats 5

All read the same files of `<folder>/train`, in turns, in one process with one thread, and count the CPU time of the
process: what else runs on the machine does not matter. torchvision decodes with Pillow, crops, flips, and makes
normalized floats, as its own recipes do; ours makes bytes, which the device finishes. The transfer from worker
processes is not in it. The last column is the number of cores that feed a node at `--rate` images a second.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from benchmarks.timing import machine
from bnn_lightning.data import RandAugment
from bnn_lightning.data.auto_augment import AutoAugment
from bnn_lightning.data.decode import Decoder, torchcodec
from bnn_lightning.data.encoded_images import DecodedBatches, ImageOptions
from bnn_lightning.data.imagenet import FolderImages
from bnn_lightning.data.imagenet_folders import class_folders, image_files
from bnn_lightning.data.prepare import Shrink, shrink_folder
from bnn_lightning.data.sampler import Indices

BATCH = 50
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Step = Callable[[], int]


def theirs(folder: Path, number: int) -> Step:
    """Return a function that goes once through `number` images with torchvision and a DataLoader."""
    steps = [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    dataset = datasets.ImageFolder(str(folder), transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]))
    chosen = torch.linspace(0, len(dataset) - 1, number).long().tolist()
    loader = DataLoader(Subset(dataset, chosen), BATCH)
    return lambda: sum(len(images) for images, _ in loader)


def ours(folder: Path, number: int, decoder: Decoder, augment: AutoAugment | None = None) -> Step:
    """Return a function that goes once through the same images with our path."""
    options = ImageOptions(
        image_size=224,
        resize_size=None,
        crop_ratio=0.875,
        interpolation="bilinear",
        min_area=0.08,
        flip=0.5,
        lighting=0.0,
        auto_augment=augment,
        repeats=1,
        train_sizes=None,
        epochs=None,
        decoder=decoder,
        on_damaged="error",
    )
    source = FolderImages(folder, class_folders(folder), decoder)
    dataset = DecodedBatches(source, options, seed=0, training=torch.arange(len(source.labels)))
    chosen = torch.linspace(0, len(dataset) - 1, number).long().split(BATCH)
    epochs = iter(range(1_000_000))

    def once() -> int:
        epoch = next(epochs)
        loader = DataLoader(dataset, sampler=[Indices(part, epoch, "train") for part in chosen], batch_size=None)
        return sum(len(batch.images) for batch in loader)

    return once


def rates(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Return images a second of CPU time, the median of rounds in turns."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = time.process_time()
            count = step()
            if turn:
                found[name].append(count / (time.process_time() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def sizes(folder: Path) -> Iterator[int]:
    for name in class_folders(folder):
        yield from (os.path.getsize(folder / name / file) for file in image_files(folder / name))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds train/<class>/*.JPEG")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rate", type=float, default=16_000, help="images a second that a node trains on")
    args = parser.parse_args()
    torch.set_num_threads(1)
    decoders: list[Decoder] = ["pil", *(["torchcodec"] if torchcodec() else [])]  # type: ignore[list-item]
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary, "copy")
        steps: dict[str, Step] = {"torchvision ImageFolder, Pillow": theirs(args.folder / "train", args.images)}
        report = shrink_folder(args.folder, copy, Shrink(), num_workers=1, say=lambda line: None)
        steps["torchvision, after bnn prepare"] = theirs(copy / "train", args.images)
        for decoder in decoders:
            steps[f"ours, {decoder}"] = ours(args.folder / "train", args.images, decoder)
            steps[f"ours, {decoder}, after bnn prepare"] = ours(copy / "train", args.images, decoder)
        best = decoders[-1]
        steps[f"ours, {best}, RandAugment, after prepare"] = ours(copy / "train", args.images, best, RandAugment())
        kib = [sum(found) / len(found) / 1024 for found in (list(sizes(p / "train")) for p in (args.folder, copy))]
        print(f"{machine()}; CPU time of one process, {args.images} images a round, {args.repeats} rounds in turns")
        print(f"{report.written} files: {kib[0]:.0f} KiB an image, {kib[1]:.0f} KiB after `bnn prepare` (size 400)\n")
        found = rates(steps, args.repeats)
    base = found["torchvision ImageFolder, Pillow"]
    print(f"{'':42}{'images/s/core':>14}{'ratio':>8}{f'cores at {args.rate:,.0f}/s':>20}")
    for name, rate in found.items():
        print(f"{name:42}{rate:14.0f}{rate / base:8.2f}{args.rate / rate:20.1f}")


if __name__ == "__main__":
    main()
