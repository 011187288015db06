"""Distance to decision boundaries: how near is a feature to being another class, for how far out it lies?

    s(h) = -1/n(h) sum_{c != c*} (z_{c*} - z_c) / |w_{c*} - w_c|,   z = W h + b, c* = argmax_c z_c     higher = more OOD

Each term is the distance from h to the plane between the best class and another. denominator="distance": n(h) =
|h - m|, m the mean training feature; "norm": n(h) = |h|. Either counts as 1e-12 at least. Classes with the same weights
have no plane between them: no term.
Shapes: B batch, C classes, D dimension. Fit: one pass in float64, O(D + C^2) memory, any batching. Labels are not
needed.
Source: Liu and Qin, ICML 2024, arXiv:2312.11536 (equation number unchecked).
"""

from __future__ import annotations

from typing import Literal, Self, get_args

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, grand_mean, logits, rows_under
from spherood.errors import ConfigError
from spherood.sphere import float64

Denominator = Literal["distance", "norm"]


class FDBD(Detector):
    """``FDBD(denominator="distance").fit(feature, classifier=classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation", "rotation")
    mean: Tensor  # (D,), m
    weight: Tensor  # (C, D), W
    bias: Tensor  # (C,), b
    apart: Tensor  # (C, C), 1 / |w_a - w_b|, and 0 where they are equal

    def __init__(self, *, denominator: Denominator = "distance") -> None:
        super().__init__()
        if denominator not in get_args(Denominator):
            raise ConfigError(f"FDBD: denominator must be 'distance' or 'norm', got {denominator!r}.")
        self.denominator = denominator
        self.declare("mean", "weight", "bias", "apart")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """The mean of feature (N, D), and the classifier's planes. FitError without a classifier."""
        weight, bias = copy_head(self, classifier)
        mean = grand_mean(rows_under(weight, self, x, label))
        w = float64(weight)
        apart = torch.stack([torch.linalg.vector_norm(w - one, dim=1) for one in w])  # (C, C)
        self.mean, self.weight, self.bias = mean.to(weight), weight, bias
        self.apart = torch.where(apart > 0, 1 / apart, 0).to(weight)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        z = logits(x, self.weight, self.bias)  # (B, C)
        largest, best = z.max(dim=1, keepdim=True)
        gap = ((largest - z) * self.apart.to(z)[best[:, 0]]).sum(dim=1)  # (B,)
        size: Tensor = torch.linalg.vector_norm(x - self.mean if self.denominator == "distance" else x, dim=1)
        return -gap / size.to(gap).clamp(min=1e-12)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.mean.shape[-1]
