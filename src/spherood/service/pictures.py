"""Bytes from strangers to a picture, or to one clear message: size is looked at before a pixel is decoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image

from spherood.data.decode import DAMAGE, read_rgb
from spherood.errors import ImageError


@dataclass(frozen=True)
class Limits:
    """What is taken: bytes of a request, images in it, pixels of one."""

    body: int = 32 << 20
    images: int = 256
    pixels: int = 50_000_000


def open_picture(content: bytes, name: str, limits: Limits) -> Image.Image:
    """RGB; ImageError where it is none, damaged, or larger than the limit by its own header."""
    if not content:
        raise ImageError(f"{name}: is empty.")
    try:
        with Image.open(io.BytesIO(content)) as head:
            width, height = head.size
    except Image.DecompressionBombError:
        raise ImageError(f"{name}: has more pixels than are taken ({limits.pixels:,}). Make it smaller.") from None
    except DAMAGE:
        raise ImageError(f"{name}: not an image that Pillow can read, or damaged.") from None
    if width * height > limits.pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels are more than are taken ({limits.pixels:,}). Make it smaller."
        )
    return read_rgb(io.BytesIO(content), name=name)
