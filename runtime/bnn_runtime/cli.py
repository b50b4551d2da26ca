"""The command `bnn-runtime`."""

import argparse
import lzma
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import __version__
from .native import Network, load, read_picture

_NETPBM = (".pgm", ".ppm")
# Those of `bnn predict`: Pillow also knows formats that start programs (PostScript: Ghostscript).
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# Errors that Pillow raises for a damaged file, whose header may name any size or type.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, EOFError, TypeError, AttributeError, LookupError, ArithmeticError),
    *(RuntimeError, AssertionError, MemoryError, struct.error, zlib.error, lzma.LZMAError),
)
_GRAY, _COLOR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


def main() -> int:
    """Run the command line; errors are one line and exit code 1."""
    parser = argparse.ArgumentParser(prog="bnn-runtime", description="Run packed binary neural networks.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    classify = commands.add_parser("classify", help="print the likeliest classes of pictures")
    classify.add_argument("model", help="file of `bnn export`")
    classify.add_argument("pictures", nargs="+", help="PGM and PPM files; others where Pillow is installed")
    classify.add_argument("--top", type=int, default=5, help="classes to print (default: 5)")
    classify.add_argument("--threads", type=int, default=1, help="0: one a processor (default: 1)")
    options = parser.parse_args()
    try:
        network = load(options.model, threads=options.threads)
        for picture in options.pictures:
            _classify(network, picture, options.top)
    except (OSError, ValueError, MemoryError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _classify(network: Network, picture: str, top: int) -> None:
    logits = network(network.prepare(_pixels(picture))[None])[0].astype(np.float64)
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()
    print(picture)
    for number in np.argsort(-logits, kind="stable")[: max(top, 1)]:
        name = network.facts.class_names[number] if network.facts.class_names else str(number)
        print(f"  {100 * probabilities[number]:6.2f} %  {name}")


def _pixels(path: str) -> NDArray[np.uint8]:
    if Path(path).suffix.lower() in _NETPBM:
        return read_picture(path)
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ValueError(f"`{path}` is no PGM or PPM file: pip install pillow") from error
    try:
        image = ImageOps.exif_transpose(Image.open(path, formats=_FORMATS))
        image.load()
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"`{path}` cannot be decoded: {error}") from error
    if image.mode not in _GRAY + _COLOR:
        raise ValueError(f"`{path}` has pixels of the mode {image.mode}: save it with 8 bits a channel.")
    gray = image.mode in _GRAY
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return np.asarray(image.convert("L" if gray else "RGB"))


if __name__ == "__main__":
    sys.exit(main())
