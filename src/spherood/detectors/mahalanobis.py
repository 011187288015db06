"""Mahalanobis distance to the nearest class: how many standard deviations away, with correlations taken out?

    s(h) = f min_c (h - m_c)' S^+ (h - m_c)          higher = more OOD; in standard deviations squared

m_c: class mean. covariance="tied": S = 1/N sum_i (h_i - m_{y_i})(h_i - m_{y_i})', f = 1 (Lee et al.).
covariance="total": S = 1/(N-1) sum_i (h_i - m)(h_i - m)' about the grand mean m, f = 1/2 (CIDER's code).
unit=True first scales every feature to length 1: with "tied" the score of ReweightOOD and Mahalanobis++, with "total"
that of CIDER. shrinkage=a in [0, 1] mixes: (1 - a) S + a tr(S)/D I.
Directions in which training features do not vary (eigenvalue below D eps_float32 of the largest) are left out, so the
distance of low-rank features stays finite and non-negative.
Shapes: B batch, C classes, D dimension, r <= D rank. Fit: one pass in float64, O(C D + D^2) memory, any batching.
Source: Lee et al., NeurIPS 2018, arXiv:1807.03888 (equation number unchecked); deeplearning-wisc/cider;
sudarshanregmi/ReweightOOD.
"""

from __future__ import annotations

from typing import Literal, Self, get_args

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.labelled import labelled
from spherood.errors import ConfigError, FitError
from spherood.sphere import Moments, normalize

Covariance = Literal["tied", "total"]


class Mahalanobis(Detector):
    """``Mahalanobis(unit=True).fit(feature, label).score(feature)``."""

    origin: Tensor  # (D,), the grand mean: distances are computed about it, so that float32 suffices
    whitening: Tensor  # (D, r), W with W W' = S^+
    mean: Tensor  # (C, r), whitened class means

    def __init__(self, *, covariance: Covariance = "tied", unit: bool = False, shrinkage: float | None = None) -> None:
        super().__init__()
        if covariance not in get_args(Covariance):
            raise ConfigError(f"Mahalanobis: covariance must be 'tied' or 'total', got '{covariance}'.")
        if shrinkage is not None and not 0 <= shrinkage <= 1:
            raise ConfigError(f"Mahalanobis: shrinkage must lie in [0, 1], got {shrinkage}.")
        self.covariance, self.unit, self.shrinkage = covariance, unit, shrinkage
        self.declare("origin", "whitening", "mean")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Means and covariance of feature (N, D), label (N,). FitError without labels or for a class without sample."""
        return self.fit_moments(class_moments(self, x, label, unit=self.unit), f"{self.name}.fit")

    def fit_moments(self, moments: Moments, where: str) -> Self:
        """`fit`, from the moments of features that are scaled as `unit` says; FitError where they do not vary."""
        covariance = moments.tied
        if self.covariance == "total":
            covariance = moments.total * (moments.rows / max(moments.rows - 1, 1))
        if self.shrinkage is not None:
            identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
            covariance = torch.lerp(covariance, covariance.trace() / len(covariance) * identity, self.shrinkage)

        variance, direction = torch.linalg.eigh(covariance)
        kept = variance > max(variance[-1] * len(variance) * torch.finfo(torch.float32).eps, moments.rounding)
        if not bool(kept.any()):
            raise FitError(f"{where}: the features do not vary. Is the encoder collapsed, or each class one image?")
        whitening = direction[:, kept] * variance[kept].rsqrt()
        self.origin, self.whitening = moments.mean.float(), whitening.float()
        self.mean = ((moments.class_mean - self.origin) @ whitening).float()  # about the origin as it was rounded
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to the distance (B,)."""
        white = (self._scaled(x) - self.origin).to(self.whitening.dtype) @ self.whitening  # (B, r)
        nearest = (self.mean.square().sum(dim=1) - 2 * white @ self.mean.T).argmin(dim=1)  # (B,)
        distance = (white - self.mean[nearest]).square().sum(dim=1)  # |a|^2 - 2 ab + |b|^2 would lose the near ones
        return distance / 2 if self.covariance == "total" else distance

    def _scaled(self, x: Tensor) -> Tensor:
        return normalize(x) if self.unit else x

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.origin.shape[-1]


def class_moments(detector: Detector, x: Features, label: Array | None, *, unit: bool) -> Moments:
    """The moments of the features x, of length 1 where `unit`; errors in the name of `detector`."""
    moments = Moments()
    for rows, part_label in labelled(detector, x, label):
        moments.add(normalize(rows) if unit else rows, part_label)
    return moments
