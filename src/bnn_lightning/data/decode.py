"""From the bytes of an image file to pixels."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Literal, cast, get_args

from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from bnn_lightning.data.picture import read_picture

Decoder = Literal["auto", "torchcodec", "pil"]
JpegDecoder = Callable[[str | bytes], Tensor]


def check_decoder(decoder: str) -> None:
    """See that a decoder is known and installed.

    Raises:
        ValueError: There is none of that name, or torchcodec is asked for and does not load.
    """
    if decoder not in get_args(Decoder):
        raise ValueError(f"`decoder` must be one of {', '.join(get_args(Decoder))}, got {decoder!r}.")
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


def decode_image(source: str | bytes, decoder: Decoder = "auto", *, name: str | None = None) -> Tensor:
    """Read an image file as RGB, (3, H, W), uint8.

    Both decoders rest on libjpeg-turbo and give equal pixels.

    Args:
        source: Path, or the content of a file.
        decoder: "auto" takes torchcodec where it is installed and Pillow for what that does not read.
        name: What errors call the file; a path has its own.

    Raises:
        DamagedImageError: The file cannot be decoded; names it.

    Example:
        >>> decode_image(b"text", name="photo.jpg")
        Traceback (most recent call last):
        bnn_lightning.data.picture.DamagedImageError: `photo.jpg` is damaged: ...
    """
    decode_jpeg = None if decoder == "pil" or _is_png(source) else torchcodec()
    if decode_jpeg is not None:
        # ImageNet has a PNG and CMYK files that are named .JPEG; they, and damaged files, are Pillow's.
        with suppress(RuntimeError, ValueError):
            return decode_jpeg(source)
    return cast(Tensor, tv.pil_to_tensor(read_picture(source, name=name).convert("RGB")))


def _is_png(source: str | bytes) -> bool:
    return source[:4] == b"\x89PNG" if isinstance(source, bytes) else source.lower().endswith(".png")
