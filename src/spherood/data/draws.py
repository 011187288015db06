"""Random numbers that belong to an image, not to a moment: drawn from (seed, epoch, image, view, number).

So the views of an image do not change with the order of the batch, the number of processes, or a resumed run.
A counter is hashed (SplitMix64's finaliser) instead of a generator advanced.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniform(seed: int, epoch: int, image: NDArray[np.int64], view: int, numbers: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), (B, numbers), for the images (B,) of one view."""
    key = np.zeros(1, dtype=np.uint64)
    for part in (seed, epoch, view):
        key = _mix(np.add(key, part, dtype=np.uint64))
    keys = _mix(key + image.astype(np.uint64))  # (B,)
    number: NDArray[np.uint64] = np.arange(numbers, dtype=np.uint64)
    bits = _mix(keys[:, None] + number)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + GOLDEN  # arrays wrap around, as wanted
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
