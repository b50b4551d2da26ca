"""Pictures within the page, as data."""

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bnn_lightning.report_page.content import Matrix

# Between light and dark: a matrix drawn in it, more or less transparent, is readable on both.
_INK = (60, 130, 200)


def png(pixels: NDArray[np.uint8]) -> str:
    """Return pixels as the address of a PNG that holds them: (H, W), (H, W, 3) or (H, W, 4), uint8."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def photo(pixels: NDArray[np.uint8], largest: int = 160) -> str:
    """Return an image as the address of a PNG, or, where it is large, of a smaller JPEG."""
    if max(pixels.shape[:2]) <= 96:
        return png(pixels)
    image, stream = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((largest, largest))
    image.convert("RGB").save(stream, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def matrix_picture(matrix: Matrix) -> str:
    """Return the address of a picture with a pixel a number of a matrix, the more opaque the larger in its row."""
    values = np.maximum(matrix.values, 0.0)
    strength = np.sqrt(values / np.maximum(values.max(axis=1, keepdims=True), 1e-12))
    pixels = np.empty((*values.shape, 4), dtype=np.uint8)
    pixels[..., :3] = _INK
    pixels[..., 3] = np.round(255 * strength)
    return png(pixels)
