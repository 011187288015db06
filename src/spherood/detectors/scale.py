"""SCALE: how much evidence is there, with a feature stretched the more, the flatter it is?

    s(h) = -log sum_c exp(z_c),  z = W h exp(r) + b,  r = sum_j h_j / sum of the n highest h_j
                                                                            higher = more OOD; nats
n = D - round(D p / 100), p the percentile. Made for features after a ReLU, where 1 <= r <= D / n. r = 0 where the n
highest do not sum to more than 0: for a zero feature, and for one almost all below zero, which the quotient would
stretch without bound. r is cut at 80, short of what exp can hold in float32: that matters for D / n above 80 alone.
Shapes: B batch, C classes, D dimension. Fit: takes the classifier; one pass that only checks the features.
Source: Xu et al., ICLR 2024, arXiv:2310.00227, here on the pooled feature as in OpenOOD.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import free_energy
from spherood.detectors.pruning import check_percentile, kept, take_head

MOST = 80.0


class SCALE(Detector):
    """``SCALE(percentile=85).fit(feature, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation",)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)

    def __init__(self, *, percentile: float = 85.0) -> None:
        super().__init__()
        self.percentile = check_percentile(self, percentile, 85)
        self.declare("weight", "bias")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Take over the classifier. FitError without one, and where the percentile leaves nothing of a feature."""
        self.weight, self.bias = take_head(self, self.percentile, x, label, classifier)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        highest = x.topk(kept(x.shape[1], self.percentile), dim=1).values.sum(dim=1, keepdim=True)
        ratio = torch.where(highest > 0, x.sum(dim=1, keepdim=True) / highest, 0)
        return free_energy(x * ratio.clamp(max=MOST).exp(), self.weight, self.bias)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.weight.shape[-1]
