"""GradNorm: how large would be the gradient that pulls the classifier's answer towards uniform?

    s(h) = -|h|_1 sum_c |1 - C p_c|,  p = softmax(W h + b)          higher = more OOD

That is C times the L1 norm of the gradient of the cross-entropy to the uniform distribution with respect to W: the
gradient is the outer product of p - 1/C and h, so no backward pass is needed. Known images have the larger one.
Shapes: B batch, C classes, D dimension. Fit: takes the classifier; one pass that only checks the features.
Source: Huang et al., NeurIPS 2021, arXiv:2110.00218 (its own decomposition of the gradient, equation number unchecked).
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, logits, rows_under


class GradNorm(Detector):
    """``GradNorm().fit(feature, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation",)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)

    def __init__(self) -> None:
        super().__init__()
        self.declare("weight", "bias")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Take over the classifier. FitError without one."""
        weight, bias = copy_head(self, classifier)
        for _ in rows_under(weight, self, x, label):
            pass
        self.weight, self.bias = weight, bias
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        p = logits(x, self.weight, self.bias).softmax(dim=1)
        return -x.abs().sum(dim=1) * (1 - p.shape[1] * p).abs().sum(dim=1)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.weight.shape[-1]
