"""Real images that come with scikit-learn, so that the first try needs no download.

digits: 1,797 scanned handwritten digits, 8 x 8. photographs: 32 x 32 patches of two
colour photographs. noise: made up.
"""

from __future__ import annotations

import numpy as np

from spherood.data.image_set import ImageSet
from spherood.errors import ConfigError, nearest, optional

PATCH = 32


def read_sample(name: str) -> ImageSet:
    """One of the three sets; ConfigError offers the nearest name."""
    readers = {"digits": _digits, "photographs": _photographs, "noise": _noise}
    if name not in readers:
        raise ConfigError(f"sample: there is no '{name}'. {nearest(name, readers)}")
    return readers[name]()


def _digits() -> ImageSet:
    found = optional("sklearn.datasets", "demo", "sample digits").load_digits()
    grey = np.round(found.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), from 0..16
    label = found.target.astype(np.int64)
    names = [f"digits/{digit} no. {row}" for row, digit in enumerate(label)]
    return ImageSet("digits", np.repeat(grey[..., None], 3, axis=3), label, names, tuple("0123456789"))


def _photographs() -> ImageSet:
    found = optional("sklearn.datasets", "demo", "sample photographs").load_sample_images()
    patches, names = [], []
    for photograph, file in zip(found.images, found.filenames, strict=True):
        title = str(file).replace("\\", "/").rpartition("/")[2]
        for top in range(0, photograph.shape[0] - PATCH + 1, PATCH):
            for left in range(0, photograph.shape[1] - PATCH + 1, PATCH):
                patches.append(photograph[top : top + PATCH, left : left + PATCH])
                names.append(f"{title} at {left}, {top}")
    return ImageSet("photographs", np.stack(patches), np.full(len(patches), -1, dtype=np.int64), names)


def _noise() -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (300, PATCH, PATCH, 3), dtype=np.uint8)
    return ImageSet("noise", pixels, np.full(300, -1, dtype=np.int64), [f"noise no. {row}" for row in range(300)])
