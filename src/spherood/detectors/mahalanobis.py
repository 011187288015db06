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
from spherood.errors import ConfigError, FitError
from spherood.sphere import ClassMeans, float64, normalize

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
        means, shift, square = ClassMeans(), torch.empty(0), torch.empty(0)
        for rows, part_label in self.batches(x, label):
            if part_label is None:
                raise FitError("Mahalanobis.fit: needs labels. Call fit(feature, label).")
            h = float64(self._scaled(rows))
            if not len(shift):  # moments about a point near the data: E h h' - m m' would cancel elsewhere
                shift, square = h.mean(dim=0), torch.zeros(h.shape[1], h.shape[1], dtype=h.dtype, device=h.device)
            means.add(h - shift, part_label)
            square += (h - shift).T @ (h - shift)
        if means.absent:
            raise FitError(
                f"Mahalanobis.fit: class {means.absent[0]} has no sample. Labels must run 0..C-1 without gaps."
            )

        rows_, grand = int(means.count.sum()), means.sum.sum(dim=0) / means.count.sum()
        if self.covariance == "tied":
            covariance = (square - (means.mean.T * means.count) @ means.mean) / rows_
        else:
            covariance = (square - rows_ * torch.outer(grand, grand)) / max(rows_ - 1, 1)
        if self.shrinkage is not None:
            identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
            covariance = torch.lerp(covariance, covariance.trace() / len(covariance) * identity, self.shrinkage)

        variance, direction = torch.linalg.eigh(covariance)
        rounding = len(variance) * torch.finfo(variance.dtype).eps * square.trace() / rows_  # left of equal rows
        kept = variance > max(variance[-1] * len(variance) * torch.finfo(torch.float32).eps, rounding)
        if not bool(kept.any()):
            raise FitError(
                "Mahalanobis.fit: the features do not vary. Is the encoder collapsed, or each class one image?"
            )
        whitening = direction[:, kept] * variance[kept].rsqrt()
        self.origin, self.whitening = (shift + grand).float(), whitening.float()
        self.mean = ((means.mean + shift - self.origin) @ whitening).float()  # about the origin as it was rounded
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
