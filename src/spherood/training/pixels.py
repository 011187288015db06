"""Images as one block of pixels in memory: small ones are decoded once, not once an epoch."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spherood.data import ImageSet, Preprocess
from spherood.data.loading import blocks
from spherood.progress import progress

BLOCK = 1024


@dataclass(frozen=True)
class TrainingSet:
    """pixels (N, S, S, 3) uint8 and label (N,) of the readable images; `classes` names the labels."""

    pixels: Tensor
    label: Tensor
    classes: tuple[str, ...]

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Pixels (B, S, S, 3) of these rows, as evaluation sees them."""
        return self.pixels[torch.from_numpy(rows)]

    def on(self, device: torch.device) -> Tensor:
        """What views are cut from: pixels (N, 3, S, S) on the device."""
        return self.pixels.permute(0, 3, 1, 2).contiguous().to(device)


def load_pixels(images: ImageSet, preprocess: Preprocess) -> TrainingSet:
    """Decode all; unreadable images are named on stderr, skipped and counted. DataError for a class without any."""
    images.check_classes("training")
    pixels, readable = read_pixels(images, preprocess)
    if len(readable) < len(images):
        images = images.subset(readable)
        images.check_classes("training")
    return TrainingSet(torch.from_numpy(pixels), torch.from_numpy(images.label), images.classes)


def read_pixels(images: ImageSet, preprocess: Preprocess) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels (n, S, S, 3) of the readable images and which those are (n,); the others are named on stderr."""
    parts: list[NDArray[np.uint8]] = []
    unreadable: dict[int, str] = {}
    with progress(f"reading {images.name}", len(images)) as advance:
        for block in blocks(images, preprocess, BLOCK):
            parts.append(block.pixels)
            unreadable |= block.unreadable
            advance(len(block.pixels))
    pixels, readable = np.concatenate(parts), np.arange(len(images))
    if unreadable:
        for reason in list(unreadable.values())[:10]:
            print(f"skipped: {reason}", file=sys.stderr)
        print(f"{images.name}: skipped {len(unreadable)} of {len(images)} unreadable images.", file=sys.stderr)
        readable = np.setdiff1d(readable, list(unreadable))
        pixels = pixels[readable]
    return pixels, readable
