"""Simplified Hopfield energy: how unlike is a feature to the stored pattern of the class it is given?

    s(h) = -h . s_c  or  -cos(h, s_c)  or  |h - s_c|,  c = argmax_c' z_c',  z = W h + b          higher = more OOD

s_c: mean of the fitted features that are of class c and classified as c. metric: "inner" is the paper's; "cosine" and
"euclidean" are its variants.
Shapes: B batch, C classes, D dimension. Fit: one pass in float64, O(C D) memory, any batching.
Source: Zhang et al., ICLR 2023 (openreview KkazG4lgKL).
"""

from __future__ import annotations

from typing import Literal, Self, get_args

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, logits, rows_under
from spherood.errors import ConfigError, FitError
from spherood.sphere import ClassMeans, normalize

Metric = Literal["inner", "cosine", "euclidean"]


class SHE(Detector):
    """``SHE(metric="inner").fit(feature, label, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation", "rotation")
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    pattern: Tensor  # (C, D), s_c

    def __init__(self, *, metric: Metric = "inner") -> None:
        super().__init__()
        if metric not in get_args(Metric):
            raise ConfigError(f"SHE: metric must be 'inner', 'cosine' or 'euclidean', got '{metric}'.")
        self.metric = metric
        self.declare("weight", "bias", "pattern")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Patterns of feature (N, D), label (N,). FitError without labels or classifier, or for a class without one."""
        weight, bias = copy_head(self, classifier)
        patterns = ClassMeans(len(weight))
        for rows, part_label in rows_under(weight, self, x, label):
            if part_label is None:
                raise FitError("SHE.fit: needs labels. Call fit(feature, label, classifier=model.classifier).")
            if int(part_label.max()) >= len(weight):
                raise FitError(
                    f"SHE.fit: labels reach {int(part_label.max())}, the classifier knows 0..{len(weight) - 1}. "
                    "Drop unknown labels, or pass the classifier that was trained on these."
                )
            right = logits(rows, weight, bias).argmax(dim=1) == part_label
            if bool(right.any()):
                patterns.add(rows[right], part_label[right])
        if patterns.absent:
            raise FitError(
                f"SHE.fit: class {patterns.absent[0]} has no sample that is classified as such. Fit on the training "
                "images, and check the order of the classes."
            )
        self.weight, self.bias, self.pattern = weight, bias, patterns.mean.to(weight)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,)."""
        pattern = self.pattern[logits(x, self.weight, self.bias).argmax(dim=1)]  # (B, D)
        if self.metric == "euclidean":
            distance: Tensor = torch.linalg.vector_norm(x - pattern, dim=1)
            return distance
        if self.metric == "cosine":
            x, pattern = normalize(x), normalize(pattern)
        return -(x * pattern).sum(dim=1)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.pattern.shape[-1]
