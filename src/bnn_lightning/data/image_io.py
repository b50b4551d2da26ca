"""Picture files, read by Pillow under one set of rules, without torch.

Whatever reads a picture (training, evaluation, prediction, `bnn prepare`) reads it here:

- Only the formats of `FORMATS` are opened, whatever a file is called.
- EXIF orientation is applied: a picture is upright, as viewers show it.
- 1 bit: black is 0 and white 255. 12 and 16 bits: the upper 8. 32-bit integers and floats have no known range: refused.
- Palettes, CMYK and other color spaces become RGB by Pillow's conversion; color profiles are not applied.
- Alpha, and a color that stands for it, is laid over white.
- Of animations and files of several pages: the first frame.
- Gray for a network of one channel is Pillow's luma of RGB (ITU-R 601-2); gray for RGB is three equal channels.
"""

import io
import lzma
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from bnn_lightning.data.preparation import Preparation

# An allow-list: Pillow also knows formats that start programs (PostScript: Ghostscript) or that nobody tests.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_RESAMPLING = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# TIFF's tags: bits of a channel, and whether 0 is white (0) or black (1).
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
# EXIF's values of orientation, and what makes such a picture upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Errors that Pillow raises for a damaged file, whose header may name any size or type.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, AssertionError, MemoryError, struct.error, zlib.error, lzma.LZMAError),
    Image.DecompressionBombError,
)

Picture = str | Path | bytes | Image.Image | NDArray[np.uint8]


class DamagedImageError(ValueError):
    """A file that cannot be opened, is no picture, is damaged, or has pixels of no known range."""


def prepare_picture(source: Picture, preparation: Preparation, *, name: str | None = None) -> NDArray[np.uint8]:
    """Read a picture and prepare it for a network.

    Args:
        source: Path, content of a file, Pillow's image, or an array of bytes, (H, W) or (H, W, 1, 3 or 4).
        preparation: Preparation of the picture.
        name: Name of the picture in errors; a path has its own.

    Returns:
        Array of the shape (*preparation.size, preparation.channels), uint8.

    Raises:
        DamagedImageError: The picture cannot be read; names it.

    Example:
        >>> preparation = Preparation(size=(4, 4), channels=1, resize=(2, 2), border=1)
        >>> prepare_picture(np.full((2, 3), 9, np.uint8), preparation)[..., 0].tolist()
        [[0, 0, 0, 0], [0, 9, 9, 0], [0, 9, 9, 0], [0, 0, 0, 0]]
    """
    image = read_picture(source, name=name)
    image = image.convert("L" if preparation.channels == 1 else "RGB")
    image = _middle(image, *preparation.cut(*image.size))
    scaled = preparation.scaled(*image.size)
    if scaled != image.size:
        image = image.resize(scaled, _RESAMPLING[preparation.interpolation])
    height, width = preparation.inner
    pixels = np.array(_middle(image, width, height)).reshape(height, width, preparation.channels)
    border = (preparation.border,) * 2
    return np.pad(pixels, (border, border, (0, 0))) if preparation.border else pixels


def read_picture(source: Picture, *, name: str | None = None) -> Image.Image:
    """Read a picture by the rules of this file: upright, 8 bits a channel, in the mode "L" or "RGB".

    Args:
        source: See `prepare_picture`.
        name: Name of the picture in errors; a path has its own.

    Raises:
        DamagedImageError: The picture cannot be read; names it.
    """
    return plain_pixels(open_picture(source, name=name), name=name or _name(source))


def open_picture(source: Picture, *, name: str | None = None) -> Image.Image:
    """Read all pixels of the first frame of a picture, in the mode of its file.

    Raises:
        DamagedImageError: The file cannot be opened or decoded; names it.
    """
    name = name or _name(source)
    try:
        if isinstance(source, np.ndarray):
            source = Image.fromarray(source[..., 0] if source.ndim == 3 and source.shape[-1] == 1 else source)
        if isinstance(source, Image.Image):
            if 0 in source.size:
                raise ValueError("it has no pixels")
            return source
        with warnings.catch_warnings():
            # A few files of ImageNet carry broken EXIF data, which Pillow warns of for each.
            warnings.simplefilter("ignore", UserWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
            image.load()
            return image
    except UnidentifiedImageError as error:
        raise DamagedImageError(f"`{name}` is damaged: it cannot be decoded as any of {', '.join(FORMATS)}.") from error
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise DamagedImageError(f"`{name}` cannot be read: {error.strerror}.") from error
        raise DamagedImageError(f"`{name}` is damaged: it cannot be decoded ({error}).") from error


def plain_pixels(image: Image.Image, *, name: str = "image") -> Image.Image:
    """Return a picture upright, with 8 bits a channel, in the mode "L" or "RGB".

    Raises:
        DamagedImageError: Its pixels have no known range, or Pillow has no conversion for its mode.
    """
    try:
        turn = _UPRIGHT.get(orientation(image))
        image = image if turn is None else image.transpose(turn)
        if image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I;16") or _holds_sixteen_bits(image):
            return _without_alpha(_eight_bits(image)).convert("L")
        if image.mode in ("I", "F"):
            raise ValueError(
                f"its pixels are {'floats' if image.mode == 'F' else '32-bit integers'}, which have no known range: "
                "save it with 8 or 16 bits"
            )
        return _without_alpha(image).convert("RGB")
    except _DAMAGED as error:
        raise DamagedImageError(f"`{name}` cannot be taken: {error}.") from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of a picture; 1, upright, where it has none or its EXIF data are broken."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            value = image.getexif().get(_ORIENTATION, 1)
    except _DAMAGED:
        return 1
    return value if isinstance(value, int) else 1


def _holds_sixteen_bits(image: Image.Image) -> bool:
    # Pillow widens files of 16 bits to the mode "I": PPM always, PNG before its version 11.
    return image.mode == "I" and image.format in ("PNG", "PPM")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Return a gray picture with 8 bits a channel; Pillow would cut the values of others off at 255."""
    if image.mode in ("1", "L", "LA", "La"):
        return image
    values = np.asarray(image)
    if image.format == "TIFF":  # Pillow hands on the numbers of the file, whatever they mean
        tags = image.tag_v2  # type: ignore[attr-defined]
        bits = tags.get(_BITS, (16,))[0]
        values = values << (16 - bits)
        values = values ^ 0xFFFF if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else values
    transparent = image.info.get("transparency")
    levels = Image.fromarray((values >> 8).astype(np.uint8))
    if isinstance(transparent, int):
        levels.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return levels


def _without_alpha(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    if image.mode == "La":  # Pillow converts it by way of LA alone
        image = image.convert("LA")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, image)


def _middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """Cut out the middle, where torchvision's `center_crop` does: halves are rounded to even numbers."""
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image if (width, height) == image.size else image.crop((left, top, left + width, top + height))


def _name(source: Picture) -> str:
    return str(source) if isinstance(source, str | Path) else "image"
