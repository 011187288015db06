"""What is in folders of images: how many of each class, of which sizes, which cannot be read, and which are copies.

Copies are near-duplicates (data/duplicates.py), of pictures and of their mirror images, within a folder and between
two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from spherood.data.duplicates import Duplicate, SmallPictures, near_duplicates, perceptual_hash, small_pictures
from spherood.data.image_set import ImageSet

SIZES = 5  # that are listed


@dataclass(frozen=True)
class Folder:
    """One set as it is."""

    name: str
    images: int
    classes: dict[str, int]  # images of each; empty without classes
    sizes: list[tuple[str, int]]  # "32 x 32" -> images, the most frequent ones
    unreadable: list[str]


@dataclass(frozen=True)
class Copies:
    """Images of `first` with a near-duplicate in `second`; one and the same for copies within a set."""

    first: str
    second: str
    pairs: list[Duplicate]
    mirrored: list[Duplicate] = field(default_factory=list)

    @property
    def images(self) -> int:
        """How many images of `first` have a copy of either kind."""
        return len({pair.first for pair in (*self.pairs, *self.mirrored)})


@dataclass(frozen=True)
class Survey:
    """Everything found."""

    folders: list[Folder]
    copies: list[Copies]


def survey(sets: Sequence[ImageSet]) -> Survey:
    """Look at every image once for what it is, once for copies."""
    small = {images.name: small_pictures(images) for images in sets}
    turned = {name: _mirrored(pictures) for name, pictures in small.items()}
    folders = [_folder(images, small[images.name]) for images in sets]
    copies = []
    for one in small:
        pairs = near_duplicates(small[one])
        place = {image: row for row, image in enumerate(small[one].names)}
        twice = near_duplicates(turned[one], small[one])  # each of a pair is the other's
        mirrored = [pair for pair in twice if place[pair.second] < place[pair.first]]
        copies.append(Copies(one, one, pairs, _without(mirrored, pairs)))
    for first, second in combinations(small, 2):
        pairs = near_duplicates(small[first], small[second])
        mirrored = near_duplicates(turned[first], small[second])
        copies.append(Copies(first, second, pairs, _without(mirrored, pairs)))
    return Survey(folders, copies)


def _mirrored(pictures: SmallPictures) -> SmallPictures:
    pixels = np.ascontiguousarray(pictures.pixels[:, :, ::-1])
    return pictures._replace(pixels=pixels, hash=perceptual_hash(pixels))


def _without(mirrored: list[Duplicate], plain: list[Duplicate]) -> list[Duplicate]:
    """Symmetric pictures are their own mirror images: what is a plain copy counts as one."""
    known = {pair.first for pair in plain}
    return [pair for pair in mirrored if pair.first not in known]


def _folder(images: ImageSet, small: SmallPictures) -> Folder:
    readable = set(small.row.tolist())
    sizes: Counter[str] = Counter()
    for row in readable:
        sizes[_size(images, row)] += 1
    count = Counter(images.label[images.label >= 0].tolist())
    return Folder(
        images.name,
        len(images),
        {name: count.get(number, 0) for number, name in enumerate(images.classes)},
        sizes.most_common(SIZES),
        [images.names[row] for row in range(len(images)) if row not in readable],
    )


def _size(images: ImageSet, row: int) -> str:
    image = images.images[row]
    if isinstance(image, Path):
        with Image.open(image) as picture:
            width, height = picture.size
    else:
        height, width = image.shape[:2]
    return f"{width} x {height}"
