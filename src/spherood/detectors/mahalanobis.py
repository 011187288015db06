"""Mahalanobis distance to the nearest class: how many standard deviations away, with correlations taken out?

    s(h) = f min_c (h - m_c)' S^+ (h - m_c)          higher = more OOD; in standard deviations squared

m_c: class mean. covariance="tied": S = 1/N sum_i (h_i - m_{y_i})(h_i - m_{y_i})', f = 1 (Lee et al.).
covariance="total": S = 1/(N-1) sum_i (h_i - m)(h_i - m)' about the grand mean m, f = 1/2 (CIDER's code).
unit=True first scales every feature to length 1: with "tied" the score of ReweightOOD and Mahalanobis++, with "total"
that of CIDER.
shrinkage=a in [0, 1] and ridge=b >= 0 put (1 - a) S + (a + b) tr(S)/D I in the place of S; with "ledoit-wolf" a is
estimated from the rows about their class means (tied) or about m (total, with 1/N). Without either, directions in
which training features do not vary (eigenvalue below D eps_float32 of the largest) are left out; with either, none is.
The distance of low-rank features stays finite and non-negative in both cases.
Shapes: B batch, C classes, D dimension, r <= D rank. Fit: one pass in float64, two for "ledoit-wolf", O(C D + D^2)
memory, any batching.
Source: Lee et al., NeurIPS 2018, arXiv:1807.03888 (equation number unchecked); deeplearning-wisc/cider;
sudarshanregmi/ReweightOOD.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.labelled import labelled
from spherood.detectors.two_passes import refuse_generator
from spherood.errors import ConfigError, FitError
from spherood.sphere import Moments, float64, ledoit_wolf, normalize

Covariance = Literal["tied", "total"]


class Mahalanobis(Detector):
    """``Mahalanobis(unit=True).fit(feature, label).score(feature)``."""

    laws = ("permutation", "rotation", "scale")
    origin: Tensor  # (D,), the grand mean: distances are computed about it, so that float32 suffices
    whitening: Tensor  # (D, r), W with W W' = S^+
    mean: Tensor  # (C, r), whitened class means

    def __init__(
        self,
        *,
        covariance: Covariance = "tied",
        unit: bool = False,
        shrinkage: float | Literal["ledoit-wolf"] | None = None,
        ridge: float = 0.0,
    ) -> None:
        super().__init__()
        if covariance not in get_args(Covariance):
            raise ConfigError(f"Mahalanobis: covariance must be 'tied' or 'total', got '{covariance}'.")
        share = 0.0 if shrinkage is None or shrinkage == "ledoit-wolf" else shrinkage
        if isinstance(share, str) or not 0 <= share <= 1:
            raise ConfigError(f"Mahalanobis: shrinkage must lie in [0, 1] or be 'ledoit-wolf', got {shrinkage!r}.")
        if not 0 <= ridge < math.inf:
            raise ConfigError(f"Mahalanobis: ridge must be at least 0 and finite, got {ridge}. Try 0.01.")
        self.covariance, self.unit, self.shrinkage, self.ridge = covariance, unit, shrinkage, ridge
        self.declare("origin", "whitening", "mean")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Means and covariance of feature (N, D), label (N,). FitError without labels or for a class without sample.

        FitError too for a generator where shrinkage is "ledoit-wolf".
        """
        estimated = self.shrinkage == "ledoit-wolf"
        if estimated:
            refuse_generator(self, x)
        moments = class_moments(self, x, label, unit=self.unit)
        share = self._ledoit_wolf(moments, x, label) if estimated else float(self.shrinkage or 0)
        return self.fit_moments(moments, f"{self.name}.fit", share)

    def fit_moments(self, moments: Moments, where: str, shrinkage: float = 0.0) -> Self:
        """`fit`, from the moments of features that are scaled as `unit` says; FitError where they do not vary."""
        covariance = moments.tied
        if self.covariance == "total":
            covariance = moments.total * (moments.rows / max(moments.rows - 1, 1))
        variance, direction = torch.linalg.eigh(covariance)
        kept = variance > max(variance[-1] * len(variance) * torch.finfo(torch.float32).eps, moments.rounding)
        if not bool(kept.any()):
            raise FitError(f"{where}: the features do not vary. Is the encoder collapsed, or each class one image?")
        added = shrinkage + self.ridge
        if added:  # what is added has the same eigenvectors
            variance = (1 - shrinkage) * variance.clamp(min=0) + added * variance.mean()
            kept = torch.ones_like(kept)
        whitening = direction[:, kept] * variance[kept].rsqrt()
        self.origin, self.whitening = moments.mean.float(), whitening.float()
        self.mean = ((moments.class_mean - self.origin) @ whitening).float()  # about the origin as it was rounded
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to the distance (B,)."""
        white = (self._scaled(x) - self.origin).to(self.whitening.dtype) @ self.whitening  # (B, r)
        nearest = torch.addmm(self.mean.square().sum(dim=1), white, self.mean.T, alpha=-2).argmin(dim=1)  # (B,)
        apart = white - self.mean.index_select(0, nearest)  # |a|^2 - 2 ab + |b|^2 would lose the near ones
        distance = apart.square().sum(dim=1)
        return distance / 2 if self.covariance == "total" else distance

    def _ledoit_wolf(self, moments: Moments, x: Features, label: Array | None) -> float:
        tied = self.covariance == "tied"
        mean = moments.class_mean if tied else moments.mean

        def centred() -> Iterator[Tensor]:
            for rows, part_label in labelled(self, x, label):
                h = float64(self._scaled(rows))
                yield h - (mean[part_label.to(h.device)] if tied else mean)

        return ledoit_wolf(centred(), moments.tied if tied else moments.total)

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
