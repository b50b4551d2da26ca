"""Pieces of C: numbers, arrays, names, and the functions of `portable.c`."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bnn_lightning.deploy.ir.graph import Array

_FUNCTIONS = Path(__file__).with_name("portable.c")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


class C99Error(ValueError):
    """A network computes what is not known in C."""


def check_name(name: str) -> None:
    """Refuse what is not a name of C.

    Raises:
        ValueError: It begins with no letter, holds other signs than letters, digits and underscores, or is "stdint".
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"`name` must be letters, digits and underscores, a letter first, got {name!r}.")
    if name == "stdint":
        raise ValueError("`name` must not be stdint, whose header would hide that of the language.")


def check_out(out: Path) -> None:
    """Refuse a name of a file that cannot begin the names that it declares.

    Raises:
        ValueError: See `check_name`.
    """
    try:
        check_name(out.stem)
    except ValueError as error:
        raise ValueError(f"{out} names what it declares, too: {error}") from error


def number(value: Any) -> str:
    """Write a float so that C reads the same one.

    Example:
        >>> number(0.1), number(-1)
        ('0x1.99999a0000000p-4f', '-0x1.0000000000000p+0f')
    """
    single = np.float32(value)
    if not np.isfinite(single):
        raise ValueError(f"{value} cannot be written in C.")
    return float(single).hex() + "f"


def array(name: str, kind: str, values: Array, comment: str) -> str:
    """Write a constant array: floats, or unsigned integers as hexadecimal numbers."""
    flat = values.reshape(-1).tolist()
    items = [number(v) for v in flat] if kind == "float" else [f"{v:#x}" for v in flat]
    comment = plain(comment)
    lines = [", ".join(items[i : i + 12]) for i in range(0, len(items), 12)]
    return f"static const {kind} {name}[{len(items)}] = {{  // {comment}\n  " + ",\n  ".join(lines) + "};"


def plain(text: str) -> str:
    """Return text that cannot end a comment: a file's names may come from anywhere."""
    return re.sub(r"[^A-Za-z0-9_.,:+ -]", "_", text)


def word_size(channels: int) -> int:
    """Return the bits of the words that waste least on `channels` bits, the larger ones first.

    Example:
        >>> [word_size(channels) for channels in (3, 16, 20, 48, 64)]
        [8, 16, 8, 16, 32]
    """
    return min((32, 16, 8), key=lambda bits: -(-channels // bits) * bits)


def sign_words(signs: Array, bits: int) -> Array:
    """Pack signs (out_channels, in_channels, height, width) as words for (output channel, tap), channels within."""
    outputs, inputs, height, width = signs.shape
    rows = np.moveaxis(signs, 1, -1) > 0
    rows = np.pad(rows, [(0, 0)] * 3 + [(0, -inputs % bits)])
    packed = np.packbits(rows, axis=-1, bitorder="little")
    return np.ascontiguousarray(packed).view(f"<u{bits // 8}").reshape(outputs, height, width, -1)


def functions(used: set[str]) -> str:
    """Return the functions of `portable.c` that are used, "binary 32" being that of words of 32 bits."""
    parts = re.split(r"^//// (.*)\n", _FUNCTIONS.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    fused = any("BNN_FMA" in texts[re.sub(r" \d+$", " WORD", name)] for name in used)
    used, written = used | ({"fma"} if fused else set()), []
    for name, text in texts.items():
        for word in (8, 16, 32) if name.endswith("WORD") else (0,):
            if name.replace("WORD", str(word)) in used:
                written.append(text.replace("WORD", str(word)))
    return "".join(written)


def size(shape: tuple[int, ...]) -> str:
    """Return channels, height and width of one image as C has them."""
    channels, height, width = (*shape[1:], 1, 1)[:3]
    return f"(struct bnn_size){{{channels}, {height}, {width}}}"


def window(kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]) -> str:
    """Return a window as C has it."""
    return f"(struct bnn_window){{{', '.join(map(str, (*kernel, *stride, *padding, *dilation)))}}}"


HEADER = """// {what}, a binary neural network, for images of {shape}. Written by bnn export.
#ifndef {guard}
#define {guard}

#include <stdint.h>

#define {name}_PIXELS {pixels}
#define {name}_CLASSES {classes}

#ifdef __cplusplus
extern "C" {{
#endif

// Compute the logits of an image: bytes, plane by plane, each row by row. Not for two threads at a time.
void {name}_logits(const uint8_t pixels[{pixels}], float logits[{classes}]);

// Return the class of an image, the one with the largest logit.
int {name}_classify(const uint8_t pixels[{pixels}]);

#ifdef __cplusplus
}}
#endif

#endif
"""

BODY = """// {what}, a binary neural network, for images of {shape}. Written by bnn export; C99, needs stdint.h alone.
#include "{name}.h"

{functions}
{constants}

static float memory[{words}];

void {name}_logits(const uint8_t pixels[{pixels}], float logits[{classes}]) {{
  float *image = {image};
  for (int i = 0; i < {pixels}; i++) image[i] = (float)pixels[i] / 255.0f;
  {calls}
  const float *last = {logits};
  for (int i = 0; i < {classes}; i++) logits[i] = last[i];
}}

int {name}_classify(const uint8_t pixels[{pixels}]) {{
  float logits[{classes}];
  int best = 0;
  {name}_logits(pixels, logits);
  for (int i = 1; i < {classes}; i++)
    if (logits[i] > logits[best]) best = i;
  return best;
}}
"""
