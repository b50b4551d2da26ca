"""Picture files of every kind with the pixels that a network must be shown, for tests."""

import io
import struct
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
HEIGHT, WIDTH = 6, 8
_RANDOM = np.random.default_rng(0)
RGB: Pixels = _RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
GRAY: Pixels = _RANDOM.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
WIDE = GRAY.astype(np.uint16) * 256 + _RANDOM.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint16)
# What makes a picture upright that was stored with this EXIF orientation, and how it is stored.
STORED: dict[int, Callable[[Pixels], Pixels]] = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[::-1],
    7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
    8: lambda x: x.swapaxes(0, 1)[:, ::-1],
}


def content(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def on_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Blend in whole numbers, rounded to the nearest."""
    share = alpha.astype(np.int64)[..., None]
    return ((2 * (pixels * share + 255 * (255 - share)) + 255) // 510).astype(np.uint8)


def gray_tiff(pixels: NDArray[np.uint16], *, bits: int, white_is_zero: bool = False) -> bytes:
    """Return a TIFF of gray values as cameras and microscopes write it, which Pillow does not; of 12 bits or 16."""
    digits = "".join(f"{value:012b}" for value in pixels.flatten().tolist())
    data = pixels.tobytes() if bits == 16 else int(digits, 2).to_bytes(len(digits) // 8, "big")
    height, width = pixels.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: 0 if white_is_zero else 1, 277: 1, 278: height}
    tags |= {279: len(data), 273: 8 + 2 + 12 * 9 + 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def with_orientation(value: int, format: str, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return content(Image.fromarray(np.ascontiguousarray(STORED[value](RGB))), format, exif=exif, **options)


def kinds() -> dict[str, tuple[bytes, Pixels]]:
    """Return content and expected pixels, (6, 8) gray or (6, 8, 3), by file name."""
    rgb, gray, other = Image.fromarray(RGB), Image.fromarray(GRAY), Image.fromarray(255 - RGB)
    bits, few = GRAY > 127, np.repeat(np.arange(4, dtype=np.uint8), 12).reshape(HEIGHT, WIDTH)
    palette = Image.fromarray(few, "L")
    palette.putpalette(RGB[0, :4].tobytes())
    alpha = np.where(few == 0, 0, np.where(few == 1, 255, GRAY)).astype(np.uint8)
    colors = RGB[0, :4][few]
    keyed = RGB.copy()
    keyed[2, 3] = (9, 8, 7)
    found: dict[str, tuple[bytes, Pixels]] = {
        "rgb.png": (content(rgb, "PNG"), RGB),
        "rgb.bmp": (content(rgb, "BMP"), RGB),
        "rgb.ppm": (content(rgb, "PPM"), RGB),
        "rgb.tiff": (content(rgb, "TIFF"), RGB),
        "rgb.webp": (content(rgb, "WEBP", lossless=True), RGB),
        "bit1.png": (content(Image.fromarray(bits), "PNG"), np.where(bits, 255, 0).astype(np.uint8)),
        "bit1.tif": (content(Image.fromarray(bits), "TIFF"), np.where(bits, 255, 0).astype(np.uint8)),
        "bit1.pbm": (content(Image.fromarray(bits), "PPM"), np.where(bits, 255, 0).astype(np.uint8)),
        "gray.png": (content(gray, "PNG"), GRAY),
        "gray.gif": (content(gray, "GIF"), GRAY),
        "gray16.png": (content(Image.fromarray(WIDE), "PNG"), GRAY),
        "gray16.tif": (content(Image.fromarray(WIDE), "TIFF"), GRAY),
        "gray16.pgm": (content(Image.fromarray(WIDE), "PPM"), GRAY),
        "gray12.tif": (gray_tiff(WIDE >> 4, bits=12), GRAY),
        "gray16_white_is_zero.tif": (gray_tiff(WIDE ^ 0xFFFF, bits=16, white_is_zero=True), GRAY),
        "palette.png": (content(palette, "PNG"), colors),
        "palette.gif": (content(palette, "GIF"), colors),
        "palette_clear.png": (content(palette, "PNG", transparency=2), np.where((few == 2)[..., None], 255, colors)),
        "alpha.png": (content(Image.fromarray(np.dstack([RGB, alpha])), "PNG"), on_white(RGB, alpha)),
        "alpha.webp": (
            content(Image.fromarray(np.dstack([RGB, alpha])), "WEBP", lossless=True, exact=True),
            on_white(RGB, alpha),
        ),
        "gray_alpha.png": (
            content(Image.fromarray(np.dstack([GRAY, alpha]), "LA"), "PNG"),
            on_white(GRAY[..., None], alpha)[..., 0],
        ),
        "keyed.png": (
            content(Image.fromarray(keyed), "PNG", transparency=(9, 8, 7)),
            np.where((keyed == (9, 8, 7)).all(-1, keepdims=True), 255, keyed).astype(np.uint8),
        ),
        "cmyk.tif": (content(Image.fromarray(np.dstack([RGB, 0 * GRAY]), "CMYK"), "TIFF"), 255 - RGB),
        "animated.png": (content(rgb, "PNG", save_all=True, append_images=[other]), RGB),
        "animated.webp": (content(rgb, "WEBP", save_all=True, append_images=[other], lossless=True), RGB),
        "animated.gif": (content(gray, "GIF", save_all=True, append_images=[Image.fromarray(255 - GRAY)]), GRAY),
        "pages.tif": (content(rgb, "TIFF", save_all=True, append_images=[other]), RGB),
        # A PNG and a TIFF under other names are read by what they hold.
        "png_inside.jpeg": (content(rgb, "PNG"), RGB),
    }
    for value in STORED:
        found[f"exif{value}.png"] = (with_orientation(value, "PNG"), RGB)
    for format in ("WEBP", "TIFF"):
        options = {"lossless": True} if format == "WEBP" else {}
        found[f"exif6.{format.lower()}"] = (with_orientation(6, format, **options), RGB)
    for name, image in {"rgb": rgb, "gray": gray, "cmyk": Image.fromarray(np.dstack([RGB, GRAY]), "CMYK")}.items():
        data = content(image, "JPEG")
        reference = Image.open(io.BytesIO(data))
        pixels = np.array(reference if name != "cmyk" else reference.convert("RGB"))
        found[f"{name}.jpg"] = (data, pixels)
    turned = with_orientation(8, "JPEG", quality=95)
    found["exif8.jpg"] = (turned, np.rot90(np.array(Image.open(io.BytesIO(turned)))))
    return {name: (data, np.ascontiguousarray(pixels, dtype=np.uint8)) for name, (data, pixels) in found.items()}


def refused() -> dict[str, bytes]:
    """Return content that no path may take, by file name."""
    floats = Image.fromarray(RGB[..., 0].astype(np.float32) / 255)
    integers = Image.fromarray(RGB[..., 0].astype(np.int32) * 1000)
    whole = content(Image.fromarray(RGB), "PNG")
    return {
        "float.tif": content(floats, "TIFF"),
        "int32.tif": content(integers, "TIFF"),
        "postscript.png": content(Image.fromarray(RGB), "EPS"),
        "truncated.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "text.jpg": b"no picture",
    }


def as_rgb(pixels: Pixels) -> Pixels:
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def as_gray(pixels: Pixels) -> Pixels:
    """Return ITU-R 601-2 luma in whole numbers, as Pillow has it, (H, W, 1)."""
    if pixels.ndim == 2:
        return pixels[..., None]
    return ((pixels.astype(np.int64) @ (19595, 38470, 7471) + 0x8000) >> 16).astype(np.uint8)[..., None]
