"""Many images to one block of pixels, decoded ahead in threads (Pillow works outside Python's lock)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spherood.data.image_set import ImageSet
from spherood.data.preprocess import Preprocess
from spherood.errors import ImageError

THREADS = 2
AHEAD = 3  # blocks decoded before they are asked for


@dataclass(frozen=True)
class Block:
    """Consecutive images from `start` on; unreadable ones hold zeros and are listed."""

    start: int
    pixels: NDArray[np.uint8]  # (B, S, S, 3)
    unreadable: dict[int, str]  # index in the set -> reason


def blocks(
    images: ImageSet, preprocess: Preprocess, size: int, start: int = 0, stop: int | None = None
) -> Iterator[Block]:
    """The images from `start` to before `stop` (the end, if None), in blocks of `size`, in order."""
    stop = len(images) if stop is None else stop
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: list[Future[Block]] = []
        for first in range(start, stop, size):
            rows = range(first, min(first + size, stop))
            waiting.append(pool.submit(_read, images, preprocess, rows))
            if len(waiting) > AHEAD:
                yield waiting.pop(0).result()
        for block in waiting:
            yield block.result()


def _read(images: ImageSet, preprocess: Preprocess, rows: range) -> Block:
    pixels = np.zeros((len(rows), preprocess.size, preprocess.size, 3), dtype=np.uint8)
    unreadable = {}
    for place, row in enumerate(rows):
        try:
            pixels[place] = preprocess.pixels(images.read(row))
        except ImageError as error:
            unreadable[row] = str(error)
    return Block(rows.start, pixels, unreadable)
