"""Activation shaping, ASH-B: what evidence is left once a feature says no more than which of its entries are highest?

    s(h) = -log sum_c exp(z_c),  z = W a + b,  a_j = (sum_i h_i) / n for the n highest entries, else 0
                                                                            higher = more OOD; nats
n = D - round(D p / 100), p the percentile. Where equal entries compete for the last place, as the zeros after a ReLU
do, either may get it.
Shapes: B batch, C classes, D dimension. Fit: takes the classifier; one pass that only checks the features.
Source: Djurisic et al., ICLR 2023, arXiv:2209.09858, variant B, here on the pooled feature as in OpenOOD.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import free_energy
from spherood.detectors.pruning import check_percentile, kept, take_head


class ASH(Detector):
    """``ASH(percentile=90).fit(feature, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation",)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)

    def __init__(self, *, percentile: float = 90.0) -> None:
        super().__init__()
        self.percentile = check_percentile(self, percentile, 90)
        self.declare("weight", "bias")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Take over the classifier. FitError without one, and where the percentile leaves nothing of a feature."""
        self.weight, self.bias = take_head(self, self.percentile, x, label, classifier)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        n = kept(x.shape[1], self.percentile)
        level = (x.sum(dim=1, keepdim=True) / n).expand(-1, n)
        shaped = torch.zeros_like(x).scatter(1, x.topk(n, dim=1).indices, level)
        return free_energy(shaped, self.weight, self.bias)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.weight.shape[-1]
