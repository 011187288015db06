"""Near-duplicates: a held-out picture must not be a re-saved or resized copy of one that was trained on.

Every picture is brought to 32 x 32 (both sides stretched) and hashed: bit (u, v) of 64 says whether the coefficient

    sum_xy grey[x, y] cos(pi u (2x + 1) / 64) cos(pi v (2y + 1) / 64),   u, v = 0..7, but not (0, 0)

of its discrete cosine transform is positive. Two pictures are near-duplicates where at most 7 bits differ and their
mean absolute difference over the 32 x 32 x 3 pixels (0..255) is at most 16 and at most half of the contrast of the
flatter one (its mean absolute deviation from its mean colour), or at most 1 whatever the contrast. The share
of the contrast keeps faint surfaces apart, whose bits are noise and whose pixels are all near one grey.

Measured: JPEG copies (quality 75) are found of 99.7 % of 2,000 pictures of CIFAR-10 (32 px, which JPEG harms most), of
99.9 % of 900 steel surfaces, of all of 2,000 of Tiny ImageNet; copies a tenth larger or smaller, of all. No two
different ones are paired among 8,793 of Tiny ImageNet, 900 steel surfaces, 240 scenes, 120 flowers. Of copies cropped
by 3 % a side about half are found; mirrored and rotated ones are not looked for. Drawings of few strokes are that close
without being copies: of MNIST's 10,000 test digits 4,029 have a partner. Memory: 3 KB an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spherood.data.image_set import ImageSet
from spherood.data.loading import blocks
from spherood.data.preprocess import Preprocess
from spherood.progress import progress

SMALL = Preprocess(size=32, resize="stretch")
VALUES = 32 * 32 * 3  # of a small picture
BITS, CHUNKS = 7, 4  # at most 7 bits in four chunks of 16: at most one of them in some chunk
DIFFERENCE, SHARE, ROUNDING = 16, 0.5, 1  # grey levels; of the contrast; grey levels
BLOCK = 256  # images read at a time
CANDIDATES = 1 << 20  # pairs looked at together by their hashes, some 50 MB
CONFIRMED = 1 << 8  # by their pixels, few enough for the CPU's caches
NONE = np.iinfo(np.int64).max
COSINE = np.cos(np.pi * np.arange(8)[:, None] * (2 * np.arange(32) + 1) / 64).astype(np.float32)  # (8, 32)


class Duplicate(NamedTuple):
    """Two pictures that are nearly one: their names, and the mean absolute difference of their pixels (0..255)."""

    first: str
    second: str
    difference: float


class SmallPictures(NamedTuple):
    """What is compared of a set: its n readable pictures. Read once, compared with as many sets as one likes."""

    names: Sequence[str]  # of all pictures of the set
    row: NDArray[np.int64]  # (n,) in the set
    pixels: NDArray[np.uint8]  # (n, 32, 32, 3)
    hash: NDArray[np.uint64]  # (n,)
    contrast: NDArray[np.float32]  # (n,) grey levels


def near_duplicates(a: ImageSet | SmallPictures, b: ImageSet | SmallPictures | None = None) -> list[Duplicate]:
    """Every image of `a` that has a near-duplicate in `b` with the closest one, in the order of `a`.

    Without `b`: in `a` itself, the closest one before it, so that without the `first` ones no near-duplicate is left.
    The search ends at one within a grey level, else a standing camera's pictures would all be compared with each other.
    Unreadable images are skipped.
    """
    ours = a if isinstance(a, SmallPictures) else small_pictures(a)
    theirs = ours if b is None else b if isinstance(b, SmallPictures) else small_pictures(b)
    # Per picture the least of (sum of differences, place in `theirs`), both in one number.
    best = np.full(len(ours.row), NONE)
    done = np.zeros(len(ours.row), dtype=np.bool_)
    for first, second in _candidates(ours.hash, theirs.hash, done, before=b is None):
        parts = -(-len(first) // CONFIRMED)
        for part in range(parts):  # some of every picture's candidates in each: many are done after the first
            i, j = first[part::parts], second[part::parts]
            i, j = i[~done[i]], j[~done[i]]
            total = _difference(ours.pixels[i], theirs.pixels[j])
            share = SHARE * np.minimum(ours.contrast[i], theirs.contrast[j])
            near = total <= VALUES * np.clip(share, ROUNDING, DIFFERENCE)
            np.minimum.at(best, i[near], (total * len(theirs.row) + j)[near])
            done[i[total <= VALUES * ROUNDING]] = True
    found = np.flatnonzero(best != NONE)
    total, partner = np.divmod(best[found], len(theirs.row))
    return [
        Duplicate(ours.names[i], theirs.names[j], difference)
        for i, j, difference in zip(ours.row[found], theirs.row[partner], (total / VALUES).tolist(), strict=True)
    ]


def perceptual_hash(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hashes (N,) of small pictures (N, 32, 32, 3); bit 8 u + v from the left is coefficient (u, v)."""
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # (N, 32, 32), ITU-R 601
    positive = COSINE @ grey @ COSINE.T > 1  # (N, 8, 8); below one grey level of one pixel lies rounding
    positive[:, 0, 0] = False  # the mean
    return np.packbits(positive.reshape(-1, 64), axis=1).view(">u8").ravel().astype(np.uint64)


def _difference(x: NDArray[np.uint8], y: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Sum of absolute differences (n,) of pictures (n, 32, 32, 3)."""
    larger = np.maximum(x, y)  # in bytes throughout: five times as fast as a signed difference
    total: NDArray[np.int64] = (larger - np.minimum(x, y)).sum(axis=(1, 2, 3), dtype=np.int64)
    return total


def small_pictures(images: ImageSet) -> SmallPictures:
    """Every readable picture at 32 x 32, and its hash: 3 KB each."""
    pixels = np.empty((len(images), 32, 32, 3), dtype=np.uint8)
    hashes = np.empty(len(images), dtype=np.uint64)
    contrast = np.empty(len(images), dtype=np.float32)
    readable = np.ones(len(images), dtype=np.bool_)
    with progress(f"reading {images.name}", len(images)) as advance:
        for block in blocks(images, SMALL, BLOCK):
            rows = slice(block.start, block.start + len(block.pixels))
            pixels[rows] = block.pixels
            hashes[rows] = perceptual_hash(block.pixels)
            mean = block.pixels.mean(axis=(1, 2), keepdims=True, dtype=np.float32)
            contrast[rows] = np.abs(block.pixels - mean).mean(axis=(1, 2, 3))
            readable[list(block.unreadable)] = False
            advance(len(block.pixels))
    if readable.all():
        return SmallPictures(images.names, np.arange(len(images)), pixels, hashes, contrast)
    return SmallPictures(images.names, np.flatnonzero(readable), pixels[readable], hashes[readable], contrast[readable])


def _candidates(
    ours: NDArray[np.uint64], theirs: NDArray[np.uint64], done: NDArray[np.bool_], before: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Every pair of places (n,), (n,) whose hashes differ in at most BITS bits, once; with `before`, theirs < ours.

    Sorted by one chunk, equal ones lie together; each of ours looks up its chunk and the 16 that differ in one bit.
    `done` (N,): those of ours that need no more; it may change meanwhile.
    """
    flips = np.array([0, *(1 << bit for bit in range(16))], dtype=np.int64)
    with progress("comparing", CHUNKS * len(flips) * len(ours), unit="look-ups") as advance:
        for chunk in range(CHUNKS):
            key = _chunk(theirs, chunk)
            order = np.argsort(key, kind="stable")
            start = np.searchsorted(key[order], np.arange((1 << 16) + 1))  # of each value in `order`; then the end
            for flip in flips:
                wanted = _chunk(ours, chunk) ^ flip
                count = np.where(done, 0, start[wanted + 1] - start[wanted])
                for rows in _pieces(count):
                    n = count[rows]
                    first = np.repeat(np.arange(rows.start, rows.stop), n)
                    within = np.arange(len(first)) - np.repeat(np.cumsum(n) - n, n)  # 0, 1, .. for each of ours
                    second = order[np.repeat(start[wanted[rows]], n) + within]
                    differ = ours[first] ^ theirs[second]
                    keep = np.bitwise_count(differ) <= BITS
                    for earlier in range(chunk):  # there it was found before
                        keep &= np.bitwise_count(_chunk(differ, earlier)) > 1
                    if before:
                        keep &= second < first
                    yield first[keep], second[keep]
                    advance(rows.stop - rows.start)


def _chunk(hashes: NDArray[np.uint64], number: int) -> NDArray[np.int64]:
    return ((hashes >> np.uint64(16 * number)) & np.uint64(0xFFFF)).astype(np.int64)


def _pieces(count: NDArray[np.int64]) -> Iterator[slice]:
    """Consecutive rows whose counts sum up to CANDIDATES at most; a row that has more alone is one piece."""
    end = np.cumsum(count)
    start = 0
    while start < len(count):
        room = CANDIDATES + (end[start - 1] if start else 0)
        stop = max(start + 1, int(np.searchsorted(end, room, side="right")))
        yield slice(start, stop)
        start = stop
