"""Images that two sets share: what was trained on must not be tested, what is ID must not be called OOD.

A file is known by where it really lies, pixels in memory by a digest of each image. Files and pixels are never
compared: that would decode every file. A copy under another name goes unseen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Hashable, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from spherood.data.image_set import ImageSet
from spherood.errors import DataError


def shared_images(a: ImageSet, b: ImageSet) -> list[str]:
    """The names, in `a`, of the images that both hold; in the order of `a`."""
    return _named(a, _keys(a), frozenset(_keys(b)))


def check_disjoint(sets: Mapping[str, ImageSet]) -> None:
    """DataError for the first pair of sets, by their names here, that shares an image."""
    keys = {name: _keys(images) for name, images in sets.items()}
    known = {name: frozenset(found) for name, found in keys.items()}
    for first, second in combinations(sets, 2):
        if known[first].isdisjoint(known[second]):
            continue
        shared = _named(sets[first], keys[first], known[second])
        raise DataError(
            f"{first} and {second} share {len(shared):,} image{'s' * (len(shared) > 1)}, first {shared[0]}. "
            "An image may stand in one set only: take it out of one of the lists."
        )


def _named(images: ImageSet, keys: list[Hashable], other: frozenset[Hashable]) -> list[str]:
    return [name for name, key in zip(images.names, keys, strict=True) if key in other]


def _keys(images: ImageSet) -> list[Hashable]:
    """What every image is known by: (folder, file), or 16 bytes."""
    if isinstance(images.images, np.ndarray):
        shape = str(images.images.shape[1:]).encode()  # one byte string may be two pictures: 2 x 8 and 4 x 4
        return [
            hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16, key=shape).digest()
            for image in images.images
        ]
    real: dict[str, str] = {}  # a set of 100,000 files has few folders
    keys: list[Hashable] = []
    for path in images.images:
        folder, file = os.path.split(path)
        if folder not in real:
            real[folder] = os.path.realpath(folder)
        keys.append(os.path.split(os.path.realpath(path)) if Path(path).is_symlink() else (real[folder], file))
    return keys
