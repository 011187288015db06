"""Cosine to the nearest prototype: how far does a direction lie from every class's mean direction?

    s(u) = -max_c mu_c . u          higher = more OOD; a cosine turned round, in [-1, 1]

u: unit feature; mu_c: mean of the unit features of class c, scaled to length 1. A zero feature scores 0.
Shapes: B batch, C classes, D dimension. Fit: one pass in float64, O(C D) memory, any batching.
Source: the nearest-class-mean rule on the sphere; VMF tends to it as its temperature falls.
"""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.labelled import labelled
from spherood.sphere import ClassMeans, normalize


class PrototypeCosine(Detector):
    """``PrototypeCosine().fit(feature, label).score(feature)``."""

    laws = ("permutation", "rotation", "scale")
    prototype: Tensor  # (C, D), unit rows

    def __init__(self) -> None:
        super().__init__()
        self.declare("prototype")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Mean directions of feature (N, D), label (N,). FitError without labels or for a class without sample."""
        self.prototype = prototypes(self, x, label).float()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,)."""
        return -F.linear(normalize(x).to(self.prototype.dtype), self.prototype).amax(dim=1)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.prototype.shape[-1]


def prototypes(detector: Detector, x: Features, label: Array | None) -> Tensor:
    """Unit vectors (C, D), float64, of the mean unit feature of each class; errors in the name of `detector`."""
    means = ClassMeans()
    for rows, part_label in labelled(detector, x, label):
        means.add(normalize(rows), part_label)
    return means.direction
