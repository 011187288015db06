"""Relative Mahalanobis distance: is a feature farther from its nearest class than it is from everything known?

    s(h) = min_c (h - m_c)' S^+ (h - m_c) - (h - m)' S_0^+ (h - m)          higher = more OOD; may be negative

m_c, S: class means and tied covariance, as in `Mahalanobis`; m, S_0: mean and covariance (1/N) of all features as one
class. The second term takes out the directions in which everything varies alike. unit=True first scales every feature
to length 1. A direction left out of S_0 (see `Mahalanobis`) may still count in S.
Shapes: B batch, C classes, D dimension. Fit: one pass in float64, O(C D + D^2) memory, any batching.
Source: Ren et al., 2021, arXiv:2106.09022 (equation number unchecked); unit=True: mueller-mp/maha-norm.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.mahalanobis import Mahalanobis, class_moments


class RMDS(Detector):
    """``RMDS(unit=False).fit(feature, label).score(feature)``."""

    laws = ("permutation", "rotation", "scale")

    def __init__(self, *, unit: bool = False) -> None:
        super().__init__()
        self.unit = unit
        self.of_class, self.of_all = Mahalanobis(unit=unit), Mahalanobis(unit=unit)

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Means and covariances of feature (N, D), label (N,). FitError as of `Mahalanobis`."""
        moments = class_moments(self, x, label, unit=self.unit)
        self.of_class.fit_moments(moments, f"{self.name}.fit")  # if this one does not fail, the next cannot
        self.of_all.fit_moments(moments.merged(), f"{self.name}.fit")
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to the difference of distances (B,)."""
        nearest: Tensor = self.of_class(x)
        everything: Tensor = self.of_all(x)
        return nearest - everything

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.of_class.width
