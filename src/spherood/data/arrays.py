"""Images in a NumPy file: (N, H, W, 3) or grey (N, H, W), uint8, with labels in a second file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherood.data.image_set import ImageSet
from spherood.errors import DataError


def read_arrays(path: Path, labels: Path | None = None, name: str | None = None) -> ImageSet:
    """The images of a .npy file, memory-mapped; classes are named by their numbers. DataError for another content."""
    images = _load(path)
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)):
        raise DataError(f"{path}: expected uint8 (N, H, W, 3) or (N, H, W), got {images.dtype} {images.shape}.")
    if len(images) == 0:
        raise DataError(f"{path}: holds no image.")
    if images.ndim == 3:
        images = np.repeat(images[..., None], 3, axis=3)
    label = np.full(len(images), -1, dtype=np.int64)
    if labels is not None:
        found = _load(labels)
        if found.shape != (len(images),) or not np.issubdtype(found.dtype, np.integer):
            raise DataError(f"{labels}: expected integers ({len(images)},), got {found.dtype} {found.shape}.")
        label = found.astype(np.int64)
    classes = tuple(str(number) for number in range(int(label.max()) + 1))
    return ImageSet(name or path.stem, images, label, [f"{path.name}[{row}]" for row in range(len(images))], classes)


def _load(path: Path) -> NDArray[Any]:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Check the path, or where --data points.") from None
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: not a NumPy array file: {error}") from None
    if not isinstance(found, np.ndarray):
        raise DataError(f"{path}: holds several arrays. Save the one of the images with numpy.save.")
    return found
