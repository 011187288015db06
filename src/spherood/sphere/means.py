"""Class means from a stream of batches, in float64, so that the result does not depend on how rows were batched.

Shapes: B rows of a batch, D dimension, C classes (found from the labels).
"""

from __future__ import annotations

import torch
from torch import Tensor

from spherood.sphere.unit import float64, normalize


class ClassMeans:
    """``means = ClassMeans(); means.add(x, label); means.mean``."""

    def __init__(self, classes: int = 0) -> None:
        self.sum = torch.zeros(classes, 0, dtype=torch.float64)  # (C, D)
        self.count = torch.zeros(classes, dtype=torch.int64)  # (C,)

    def add(self, x: Tensor, label: Tensor) -> None:
        """Take in rows x (B, D) of the classes label (B,) in 0..; more classes than before are fine."""
        x = float64(x.detach())
        label = label.to(x.device)
        classes = max(len(self.count), int(label.max()) + 1)
        grown_sum = torch.zeros(classes, x.shape[1], dtype=torch.float64, device=x.device)
        grown_sum[: len(self.sum), : self.sum.shape[1]] = self.sum
        grown_count = torch.zeros(classes, dtype=torch.int64, device=x.device)
        grown_count[: len(self.count)] = self.count
        self.sum = grown_sum.index_add_(0, label, x)
        self.count = grown_count + torch.bincount(label, minlength=classes)

    @property
    def mean(self) -> Tensor:
        """Mean of each class, (C, D); NaN for a class without a row: ask `absent` first."""
        return self.sum / self.count[:, None]

    @property
    def direction(self) -> Tensor:
        """Unit vector of each mean, (C, D)."""
        return normalize(self.mean)

    @property
    def absent(self) -> list[int]:
        """The classes without a single row."""
        return [int(c) for c in (self.count == 0).nonzero()]
