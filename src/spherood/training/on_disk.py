"""A training set that stays in its files: too large for memory, decoded anew whenever a batch asks for it.

Threads decode (Pillow works outside Python's lock). For views the short side is brought to 8/7 of the model's size
(224: 256) and the centre square is kept, so a JPEG is decoded at a half, a quarter or an eighth of its size where that
is enough; what evaluation sees is made as evaluation makes it.
Shapes: B rows, S model size, H = 8/7 S.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spherood.data import ImageSet, Preprocess
from spherood.errors import ImageError
from spherood.progress import progress

MARGIN = 8 / 7
SHOWN = 10  # unreadable images that are named


class OnDisk:
    """``OnDisk(images, preprocess)``: the readable images; what cannot be read is named on stderr and counted.

    DataError for a class without a readable image.
    """

    def __init__(self, images: ImageSet, preprocess: Preprocess) -> None:
        images.check_classes("training")
        self.pool = ThreadPoolExecutor(os.cpu_count())
        self.images, self.preprocess = self._readable(images), preprocess
        self.images.check_classes("training")
        self.for_views = preprocess.model_copy(
            update={"size": round(MARGIN * preprocess.size), "resize": "short_side", "short_side": None}
        )

    @property
    def label(self) -> Tensor:
        """Class (N,) of each image."""
        return torch.from_numpy(self.images.label)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.images.classes

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Pixels (B, S, S, 3) of these rows, as evaluation sees them."""
        read = partial(_read, self.images, self.preprocess, None)
        return torch.from_numpy(np.stack(list(self.pool.map(read, rows))))

    def on(self, device: torch.device) -> Pictures:
        """What views are cut from."""
        return Pictures(self, device)

    def _readable(self, images: ImageSet) -> ImageSet:
        """Every file is decoded once, as small as it can be, before the first step: not found out in the last epoch."""
        bad: list[int] = []
        with progress(f"looking at {images.name}", len(images)) as advance:
            for row, reason in enumerate(self.pool.map(partial(_damage, images), range(len(images)))):
                if reason:
                    bad.append(row)
                    if len(bad) <= SHOWN:
                        print(f"skipped: {reason}", file=sys.stderr)
                advance(1)
        if not bad:
            return images
        print(f"{images.name}: skipped {len(bad)} of {len(images)} unreadable images.", file=sys.stderr)
        return images.subset(np.setdiff1d(np.arange(len(images)), bad))


@dataclass(frozen=True)
class Pictures:
    """Indexed as a tensor of all pixels (N, 3, H, H) would be; decodes what is asked for."""

    examples: OnDisk
    device: torch.device

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Pixels (B, 3, H, H) of these rows, on the device."""
        large = self.examples.for_views
        read = partial(_read, self.examples.images, large, large.size)
        pixels = torch.from_numpy(np.stack(list(self.examples.pool.map(read, rows.tolist()))))
        return pixels.to(self.device).permute(0, 3, 1, 2).contiguous()


def _read(images: ImageSet, preprocess: Preprocess, at_least: int | None, row: int) -> NDArray[np.uint8]:
    return preprocess.pixels(images.read(row, at_least))


def _damage(images: ImageSet, row: int) -> str:
    try:
        images.read(row, at_least=1)
    except ImageError as error:
        return str(error)
    return ""
