"""Image files to RGB pictures, by Pillow. Free of torch, so that every runtime decodes alike."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from spherood.errors import ImageError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read_rgb(path: Path) -> Image.Image:
    """The picture in a file, as RGB; ImageError names the file and the reason where there is none."""
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise ImageError(f"{path}: no such file.") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not an image that Pillow can read.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on damage
        raise ImageError(f"{path}: damaged or too large: {error}") from None
