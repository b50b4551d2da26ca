"""Decoding of image files for training."""

import io
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal, cast

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from bnn_lightning.data.image_io import orientation, read_picture
from bnn_lightning.utils.checks import check_choice

Decoder = Literal["auto", "torchcodec", "pil"]
JpegDecoder = Callable[[bytes], Tensor]


def check_decoder(decoder: str) -> None:
    """See that a decoder is known and installed.

    Raises:
        ValueError: There is none of that name, or torchcodec is asked for and does not load.
    """
    check_choice("decoder", decoder, Decoder)
    if decoder == "torchcodec" and torchcodec() is None:
        raise ValueError(
            "`decoder` must be auto or pil where torchcodec does not load, got 'torchcodec'; "
            "`pip install 'bnn-lightning[fast-decode]'` installs it."
        )


@cache
def torchcodec() -> JpegDecoder | None:
    """Return torchcodec's JPEG decoder where it loads."""
    try:
        # Optional, and slow to import.
        from torchcodec.decoders import decode_jpeg
    # A wheel of torchcodec that misses a shared library raises OSError or RuntimeError.
    except (ImportError, OSError, RuntimeError):
        return None
    return cast(JpegDecoder, decode_jpeg)


def decode_image(
    source: str | bytes, decoder: Decoder = "auto", *, channels: int = 3, name: str | None = None
) -> Tensor:
    """Read an image file as RGB or gray, (channels, H, W), uint8, by the rules of `data.image_io`.

    Both decoders rest on libjpeg-turbo and give equal pixels. torchcodec reads upright JPEG files in RGB or gray, and
    Pillow everything else.

    Args:
        source: Path, or the content of a file.
        decoder: "auto" takes torchcodec where it is installed.
        channels: 1 or 3.
        name: Name of the file in errors; a path has its own.

    Raises:
        DamagedImageError: The file cannot be decoded; names it.

    Example:
        >>> decode_image(b"text", name="photo.jpg")
        Traceback (most recent call last):
        bnn_lightning.data.image_io.DamagedImageError: `photo.jpg` is damaged: ...
    """
    decode_jpeg = None if decoder == "pil" or channels != 3 else torchcodec()
    if decode_jpeg is not None:
        with suppress(OSError, RuntimeError, ValueError):  # damaged files are Pillow's, which names them
            content = source if isinstance(source, bytes) else Path(source).read_bytes()
            if _is_plain_jpeg(content):
                return decode_jpeg(content)
    image = read_picture(source, name=name).convert("L" if channels == 1 else "RGB")
    return cast(Tensor, tv.pil_to_tensor(image))


def _is_plain_jpeg(content: bytes) -> bool:
    """Whether the header is that of a JPEG file, upright and in RGB or gray: ImageNet has a PNG and CMYK files, too."""
    if content[:3] != b"\xff\xd8\xff":
        return False
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG",))
    except (OSError, SyntaxError, ValueError):
        return False
    return image.mode in ("RGB", "L") and orientation(image) == 1
