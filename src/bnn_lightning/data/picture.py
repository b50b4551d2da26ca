"""Image files read by Pillow, without torch."""

import io
import warnings

from PIL import Image

# What Pillow raises for a file that it does not read; a damaged header may name any size.
_DAMAGED = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class DamagedImageError(ValueError):
    """A file that no decoder reads."""


def read_picture(source: str | bytes, *, name: str | None = None) -> Image.Image:
    """Read all pixels of an image file, in its own mode.

    Args:
        source: Path, or the content of a file.
        name: What errors call the file; a path has its own.

    Raises:
        DamagedImageError: The file cannot be decoded; names it.
    """
    try:
        with warnings.catch_warnings():
            # A few files of ImageNet carry broken EXIF data, which Pillow warns of for each.
            warnings.simplefilter("ignore", UserWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)
            image.load()
            return image
    except (FileNotFoundError, PermissionError):
        raise
    except _DAMAGED as error:
        name = name or (source if isinstance(source, str) else "image")
        raise DamagedImageError(
            f"`{name}` is damaged: it cannot be decoded ({error}). Fetch it again or remove it, or pass over such "
            "files with `data.on_damaged=skip`."
        ) from error
