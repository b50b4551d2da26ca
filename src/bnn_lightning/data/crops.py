"""Random crops of decoded images."""

from functools import cache

from torchvision.transforms import v2

from bnn_lightning.data.preparation import Interpolation
from bnn_lightning.utils.checks import check_choice

_RATIO = (3 / 4, 4 / 3)


def interpolation_mode(name: str) -> v2.InterpolationMode:
    """Return torchvision's name of an interpolation.

    Raises:
        ValueError: It is none of ours.
    """
    check_choice("interpolation", name, Interpolation)
    return v2.InterpolationMode(name)


@cache
def random_crop(height: int, width: int, *, min_area: float, flip: float, interpolation: Interpolation) -> v2.Compose:
    """Return a transform that cuts out a random part, resizes it with antialiasing, and perhaps mirrors it.

    The aspect ratios of the parts lie within 3/4 and 4/3 of that of the result.

    Args:
        height: Pixels of the result.
        width: Pixels of the result.
        min_area: Smallest part of the image's area, in (0, 1].
        flip: Probability to mirror.
        interpolation: "bilinear" or "bicubic".
    """
    ratio = (_RATIO[0] * width / height, _RATIO[1] * width / height)
    mode = interpolation_mode(interpolation)
    crop = v2.RandomResizedCrop((height, width), scale=(min_area, 1.0), ratio=ratio, interpolation=mode, antialias=True)
    return v2.Compose([crop, v2.RandomHorizontalFlip(flip)])
