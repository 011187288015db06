"""SSD with one cluster: how far from the middle of everything known, in standard deviations of each direction?

    s(u) = (v - m)' S^+ (v - m),   v_j = u_j / sigma_j          higher = more OOD; in standard deviations squared

u: unit feature; sigma: standard deviation of each coordinate over the training features; m, S: mean and covariance
(1/N) of v. Without standardisation a coordinate that hardly varies would fall below the limit under which
`Mahalanobis` leaves a direction out. One that does not vary at all counts for nothing.
Shapes: B batch, D dimension. Fit: one pass in float64, O(D^2) memory, any batching. Labels are not needed.
Source: Sehwag et al., ICLR 2021, arXiv:2103.12051; inspire-group/SSD, which adds 1e-10 to sigma.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.mahalanobis import Mahalanobis
from spherood.sphere import Moments, normalize


class SSD(Detector):
    """``SSD().fit(feature).score(feature)``."""

    laws = ("permutation", "rotation", "scale")
    factor: Tensor  # (D,), 1 / sigma

    def __init__(self) -> None:
        super().__init__()
        self.declare("factor")
        self.distance = Mahalanobis()

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Mean and covariance of feature (N, D). FitError where the directions do not vary."""
        moments = Moments()
        for rows, _ in self.batches(x, label):
            moments.add(normalize(rows))
        deviation = moments.total.diagonal().clamp(min=0).sqrt()
        rounding = 8 * torch.finfo(torch.float32).eps * moments.mean.abs()  # what is left of a constant
        varies = deviation > rounding
        factor = torch.where(varies, 1 / deviation, 0).float()
        self.distance.fit_moments(moments.scaled(factor.to(deviation.dtype)), f"{self.name}.fit")
        self.factor = factor
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to the distance (B,)."""
        distance: Tensor = self.distance(normalize(x) * self.factor)
        return distance

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.factor.shape[-1]
