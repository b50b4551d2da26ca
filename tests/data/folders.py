"""Image folders in ImageNet's layout, for tests."""

from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2


def picture(height: int, width: int, seed: int) -> Image.Image:
    """A smooth random image, which JPEG keeps."""
    values = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    values = torch.nn.functional.interpolate(values, size=(height, width), mode="bicubic").clamp(0, 1)[0]
    return v2.functional.to_pil_image((values * 255).to(torch.uint8))


def write_folder(root: Path, *, classes: int, train: int, val: int, size: int = 40) -> Path:
    """Write `train` and `val` images for each class, of sizes around `size`."""
    for label in range(classes):
        for part, count in (("train", train), ("val", val)):
            folder = root / part / f"n{label:02}"
            folder.mkdir(parents=True)
            for i in range(count):
                seed = 1000 * label + i + (500 if part == "val" else 0)
                picture(size + 3 * (i % 7), size + 20 - 4 * (i % 5), seed).save(folder / f"n{label:02}_{i:03}.JPEG")
    return root
