"""Image files, and pictures in memory, to RGB of 8 bits, by Pillow. Free of torch, so that every runtime decodes alike.

- Palette, grey, 1-bit, CMYK, YCbCr: to RGB by Pillow's `convert`. Transparency is dropped, as it does: the colour that
  a pixel stores stays, however transparent; nothing is laid behind it.
- 16 bits: the high byte, v // 256, however much of the range the picture uses (Pillow cuts grey at 255, which turns
  such a picture white). Wider integers and floats: ImageError, for only their owner knows which scaling is right.
- Several frames or pages: the first one of a file; of a picture in memory the one it stands at.
- EXIF orientation: the picture is turned upright; EXIF that cannot be read is ignored. The papers' own loaders do not
  turn; only pictures that carry the tag differ from theirs.
- Size: up to twice PIL.Image.MAX_IMAGE_PIXELS, where Pillow refuses; its warning from once on is silenced.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, cast

from PIL import Image, ImageOps, UnidentifiedImageError

from spherood.errors import ImageError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
DAMAGE = (OSError, SyntaxError, ValueError)  # what Pillow raises on it
SILENT = ("ignore", None, Image.DecompressionBombWarning, None, 0)  # as `warnings.filters` holds it
SCALE = "only their owner knows which scaling is right. Convert the picture to 8 bits yourself."


def read_rgb(path: Path | BinaryIO, at_least: int | None = None, name: str = "") -> Image.Image:
    """The picture in a file, as RGB; ImageError names the file and the reason where there is none.

    at_least: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, as long as no side falls below so many pixels: two
    to four times as fast, and not quite the pixels of a resize; for training, never for what is measured. name: of an
    open file, or of bytes in memory.
    """
    name = name or str(path)
    if warnings.filters[:1] != [SILENT]:  # threads decode: catch_warnings in one would undo what another has set
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    try:
        with Image.open(path) as image:
            if at_least is not None:
                image.draft("RGB", (at_least, at_least))
            return rgb(image)
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"{name}: no such file.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{name}: not an image that Pillow can read.") from None
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name}: too large: {error} Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS.") from None
    except DAMAGE as error:
        if isinstance(error, OSError) and error.strerror:  # the system's own: a folder, no permission
            raise ImageError(f"{name}: cannot be read: {error.strerror}.") from None
        raise ImageError(f"{name}: damaged: {error}. Copy or save it again.") from None


def rgb(image: Image.Image) -> Image.Image:
    """An opened picture as a new one: RGB, upright, without metadata; ImageError where there is none."""
    if 0 in image.size:
        raise ImageError(f"a picture of {image.width} x {image.height}: it has no pixel.")
    try:
        image.load()
    except DAMAGE as error:
        raise ImageError(f"damaged: {error}. Copy or save it again.") from None
    if image.mode == "F":
        raise ImageError(f"the pixels are 32-bit floats: {SCALE}")
    if image.mode.startswith("I"):
        image = _high_byte(image)
    if "transparency" in image.info:  # Pillow would look for its RGB colour, with warnings and errors of its own
        image = image.copy()
        del image.info["transparency"]
    try:
        found = image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"{error}. Convert the picture to RGB yourself.") from None
    with suppress(Exception):  # damaged EXIF raises whatever its bytes lead to
        ImageOps.exif_transpose(found, in_place=True)
    found.info = {}  # with the tag, a second `rgb` could turn a second time
    return found


def _high_byte(image: Image.Image) -> Image.Image:
    """Integers 0..65535 (mode I, I;16 and its kin) to 0..255, in mode I."""
    wide = image.convert("I")
    low, high = cast(tuple[int, int], wide.getextrema())  # of its only channel
    if low < 0 or high > 65535:
        raise ImageError(f"the pixels run {low}..{high}, beyond 16 bits: {SCALE}")
    return wide.point(lambda value: value / 256)  # Pillow takes it as a linear rule and cuts to integers: v // 256
