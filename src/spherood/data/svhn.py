"""Street View House Numbers, format 2: a MAT file of cropped digits, through SciPy.

X (32, 32, 3, N) uint8, y (N, 1) in 1..10, where 10 is the digit 0. CIDER's selected_test_32x32.mat is the same.
Source: http://ufldl.stanford.edu/housenumbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherood.data.image_set import ImageSet
from spherood.errors import DataError, optional


def read_svhn(path: Path, name: str | None = None) -> ImageSet:
    """The digits of a .mat file, labelled 0..9; DataError for another content, MissingExtraError without SciPy."""
    content = _load(path)
    for key in ("X", "y"):
        if key not in content:
            raise DataError(f"{path}: there is no '{key}' in it. Is it one of SVHN's cropped digits (format 2)?")
    images, y = content["X"], content["y"]
    if images.dtype != np.uint8 or images.shape[:3] != (32, 32, 3) or images.ndim != 4 or images.shape[3] == 0:
        raise DataError(
            f"{path}: expected X of uint8 (32, 32, 3, N), got {images.dtype} {images.shape}. "
            "Is it one of SVHN's cropped digits (format 2)?"
        )
    if y.shape != (images.shape[3], 1) or y.dtype.kind not in "uif":
        raise DataError(
            f"{path}: expected y of numbers ({images.shape[3]}, 1), got {y.dtype} {y.shape}. Download it again."
        )
    if not np.isin(y, np.arange(1, 11)).all():
        raise DataError(
            f"{path}: labels run {y.min()}..{y.max()}, expected 1..10 where 10 is the digit 0. Download it again."
        )
    label = y[:, 0].astype(np.int64) % 10
    pixels = np.ascontiguousarray(images.transpose(3, 0, 1, 2))
    names = [f"{path.name}[{row}]" for row in range(len(pixels))]
    return ImageSet(name or path.stem, pixels, label, names, tuple("0123456789"))


def _load(path: Path) -> dict[str, NDArray[Any]]:
    loadmat = optional("scipy.io", "svhn", "SVHN").loadmat
    if not path.is_file():
        raise DataError(f"{path}: no such file. Check the path, or where --data points.")
    try:
        found: dict[str, NDArray[Any]] = loadmat(str(path), variable_names=["X", "y"], appendmat=False)
    except Exception as error:  # a damaged file fails in SciPy, zlib or struct
        raise DataError(
            f"{path}: not a MAT file, or damaged: {error or type(error).__name__}. Download it again."
        ) from None
    return found
