"""Neural collapse: does a feature point from the mean towards the weights of its class, and is it long?

    s(h) = -( w_c . (h - m) / |h - m| + a |h|_1 ),  c = argmax_c' z_c',  z = W h + b          higher = more OOD

m: mean of the fitted features; w_c: row c of W; a: weight of the length. A feature at m itself counts as pointing
nowhere: its first term is 0. The unit is that of W's rows, plus a times that of h.
Shapes: B batch, C classes, D dimension. Fit: one pass in float64, O(C D) memory, any batching. Labels are not needed.
Source: Liu and Qin, CVPR 2025, arXiv:2311.01479.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, grand_mean, logits, rows_under
from spherood.errors import ConfigError
from spherood.sphere import normalize


class NCI(Detector):
    """``NCI(alpha=1e-4).fit(feature, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation",)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    mean: Tensor  # (D,)

    def __init__(self, *, alpha: float = 1e-4) -> None:
        super().__init__()
        if not 0 <= alpha < math.inf:
            raise ConfigError(f"NCI: alpha must be 0 or more, got {alpha}. Try 1e-4.")
        self.alpha = alpha
        self.declare("weight", "bias", "mean")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Mean of feature (N, D). FitError without a classifier."""
        weight, bias = copy_head(self, classifier)
        mean = grand_mean(rows_under(weight, self, x, label))
        self.weight, self.bias, self.mean = weight, bias, mean.to(weight)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,)."""
        predicted = logits(x, self.weight, self.bias).argmax(dim=1)  # (B,)
        towards = (self.weight[predicted] * normalize(x - self.mean)).sum(dim=1)
        return -(towards + self.alpha * x.abs().sum(dim=1))

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.mean.shape[-1]
