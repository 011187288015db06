"""A named set of images with labels: files on disk or pixels in memory, read one at a time."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spherood.data.decode import read_rgb
from spherood.errors import DataError
from spherood.progress import progress

Part = Literal["train", "validation", "test"]
PARTS: dict[Part, tuple[float, float]] = {"train": (0.0, 0.6), "validation": (0.6, 0.8), "test": (0.8, 1.0)}


@dataclass(frozen=True)
class ImageSet:
    """N images: `images` holds N paths, or pixels (N, H, W, 3) uint8; `label` (N,) is -1 where unknown."""

    name: str
    images: Sequence[Path] | NDArray[np.uint8]
    label: NDArray[np.int64]
    names: Sequence[str]  # of each image, for people: "cat/0001.png"
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int, at_least: int | None = None) -> Image.Image:
        """The picture number `index`, as RGB; ImageError where the file is none. at_least: see `read_rgb`."""
        image = self.images[index]
        return read_rgb(image, at_least) if isinstance(image, Path) else Image.fromarray(image)

    def thumbnails(self, side: int) -> list[bytes]:
        """Every picture as a JPEG of at most (side, side) pixels."""
        small = []
        with progress("thumbnails", len(self)) as advance:
            for row in range(len(self)):
                picture, file = self.read(row), io.BytesIO()
                picture.thumbnail((side, side))
                picture.save(file, "JPEG", quality=80)
                small.append(file.getvalue())
                advance(1)
        return small

    def subset(self, index: NDArray[np.int64]) -> ImageSet:
        """The images at `index`, in that order."""
        images = self.images[index] if isinstance(self.images, np.ndarray) else [self.images[i] for i in index]
        return replace(self, images=images, label=self.label[index], names=[self.names[i] for i in index])

    def keep_classes(self, classes: Sequence[str]) -> ImageSet:
        """Only the images of the named classes, labelled 0.. in the order given."""
        for name in classes:
            if name not in self.classes:
                raise DataError(f"{self.name}: there is no class '{name}'. Classes: {', '.join(self.classes)}.")
        new_label = np.full(len(self.classes) + 1, -1, dtype=np.int64)  # the last entry serves label -1
        new_label[[self.classes.index(name) for name in classes]] = np.arange(len(classes))
        label = new_label[self.label]
        kept = replace(self, label=label, classes=tuple(classes))
        return kept.subset(np.flatnonzero(label >= 0))

    def part(self, part: Part) -> ImageSet:
        """One of three disjoint parts (60 / 20 / 20 % of every class), the same ones at every call."""
        low, high = PARTS[part]
        order = np.random.default_rng(0).permutation(len(self))
        chosen = [order[:0]]  # concatenate wants one, even for a set without images
        for label in np.unique(self.label):
            rows = order[self.label[order] == label]
            chosen.append(rows[round(low * len(rows)) : round(high * len(rows))])
        return self.subset(np.sort(np.concatenate(chosen)))

    def first_of_each_class(self, n: int) -> ImageSet:
        """The first n images of every class, in the order of the set; DataError where a class has fewer."""
        if not self.classes:
            raise DataError(f"{self.name}: no classes to take {n:,} images of each from. Label them, or use draw.")
        chosen = []
        for number, name in enumerate(self.classes):
            rows = np.flatnonzero(self.label == number)
            if len(rows) < n:
                raise DataError(f"{self.name}: class '{name}' has {len(rows):,} images, expected {n:,}. Ask for fewer.")
            chosen.append(rows[:n])
        return self.subset(np.sort(np.concatenate(chosen)))

    def draw(self, n: int) -> ImageSet:
        """n images at random, the same ones at every call, in their order; all of them where there are no more."""
        if len(self) <= n:
            return self
        return self.subset(np.sort(np.random.default_rng(0).permutation(len(self))[:n]))

    def check_classes(self, purpose: str) -> None:
        """DataError unless there are at least two classes and each has an image and a name; `purpose` says for what."""
        if len(self.classes) < 2:
            raise DataError(
                f"{self.name}: {purpose} needs at least two classes, found {len(self.classes)}. "
                "Put the images of each class into a folder of its own, or label them."
            )
        if self.label.min(initial=0) < 0 or self.label.max(initial=0) >= len(self.classes):
            raise DataError(
                f"{self.name}: labels run {self.label.min()}..{self.label.max()}, expected 0..{len(self.classes) - 1}."
            )
        count = np.bincount(self.label, minlength=len(self.classes))
        empty = [name for name, n in zip(self.classes, count, strict=True) if n == 0]
        if empty:
            raise DataError(f"{self.name}: class '{empty[0]}' has no image. Add some, or remove the class.")

    def fingerprint(self) -> str:
        """A hash of the pixels, or of every file's path, size and time of change: another content, another hash."""
        digest = hashlib.sha256()
        if isinstance(self.images, np.ndarray):
            digest.update(f"{self.images.shape} {self.images.dtype}".encode())
            digest.update(np.ascontiguousarray(self.images).data)
        else:
            for path in self.images:
                status = path.stat() if path.exists() else None
                change = (status.st_size, status.st_mtime_ns, status.st_ctime_ns) if status else "absent"
                digest.update(f"{path.absolute()} {change}\n".encode())
        return digest.hexdigest()
