"""Images a second of our loader beside torchvision's dataset with a DataLoader, for images of CIFAR-10's shape.

    python -m benchmarks.data --batch 128 --repeats 10

Both yield shuffled float32 batches in [0, 1] with the augmentation of the SKD-BNN recipe (flip, crop from 4 pixels of
repeated edge), on one core and without workers, in turns. With --cuda, ours also runs on the GPU, and torchvision's
batches are copied there.
"""

import argparse
import statistics
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import CIFAR10

from benchmarks.timing import interleave, machine
from bnn_lightning.data import Augmentation, SyntheticDataModule

AUGMENTATIONS = {
    "flip and crop": (
        Augmentation(flip=0.5, padding=4, padding_mode="edge"),
        [transforms.RandomHorizontalFlip(), transforms.RandomCrop(32, padding=4, padding_mode="edge")],
    ),
    "no augmentation": (None, []),
}
NUM_IMAGES = 50_000


def endless(loader: DataLoader[tuple[Tensor, Tensor]], device: str) -> Iterator[Tensor]:
    while True:
        for images, labels in loader:
            labels.to(device)
            yield images.to(device)


def ours(batch: int, augment: Augmentation | None, device: str) -> Iterator[Tensor]:
    data = SyntheticDataModule(num_train=NUM_IMAGES, num_test=1, learnable=False, batch_size=batch, augment=augment)
    data.setup("fit")
    loader = data.train_dataloader()
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)
        for images, _ in data.batches(loader, device):
            yield images
        epoch += 1


def theirs(batch: int, augment: list[torch.nn.Module], device: str) -> Iterator[Tensor]:
    source = SyntheticDataModule(num_train=NUM_IMAGES, num_test=1, learnable=False)
    images, labels = source.read(train=True)
    dataset = CIFAR10.__new__(CIFAR10)  # its files need not be there: only its way of handing out images is measured
    dataset.data, dataset.targets = images.permute(0, 2, 3, 1).contiguous().numpy(), labels.tolist()
    dataset.transform, dataset.target_transform = transforms.Compose([*augment, transforms.ToTensor()]), None
    return endless(DataLoader(dataset, batch, shuffle=True, drop_last=True), device)


def take(batches: Iterator[Tensor], count: int) -> None:
    for _ in range(count):
        next(batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--cuda", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine()}; batches of {args.batch}, one process, no workers")
    devices = ["cpu", "cuda"] if args.cuda else ["cpu"]
    counts = {"ours": 40, "torchvision + DataLoader": 4}
    for name, (augment, reference) in AUGMENTATIONS.items():
        for device in devices:
            sources = {"ours": ours(args.batch, augment, device)}
            sources["torchvision + DataLoader"] = theirs(args.batch, reference, device)
            steps = {key: lambda s=s, n=counts[key]: take(s, n) for key, s in sources.items()}
            seconds = interleave(steps, repeats=args.repeats, synchronize=device == "cuda")
            rate = {key: counts[key] * args.batch / statistics.median(seconds[key]) for key in seconds}
            print(f"\n{name}, {device}")
            for key, value in rate.items():
                print(f"  {key:26} {value:12,.0f} images/s {args.batch / value * 1e3:8.2f} ms a batch")
            print(f"  ratio {rate['ours'] / rate['torchvision + DataLoader']:.1f}")


if __name__ == "__main__":
    main()
