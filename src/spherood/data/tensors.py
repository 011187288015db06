"""Pixels to the normalised tensors a network reads.

Shapes: B images, S size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spherood.data.preprocess import Preprocess


def normalised(pixels: Tensor, preprocess: Preprocess) -> Tensor:
    """uint8 pixels (B, S, S, 3) to float32 (B, 3, S, S), channels last in memory, minus mean, over std."""
    images = pixels.permute(0, 3, 1, 2).float() / 255
    return standardise(images, preprocess)


def standardise(images: Tensor, preprocess: Preprocess) -> Tensor:
    """Float images (B, 3, S, S) in 0..1, minus mean, over std."""
    mean = torch.tensor(preprocess.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(preprocess.std, device=images.device).view(3, 1, 1)
    return (images - mean) / std
