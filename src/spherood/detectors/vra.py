"""Variational rectified activation: ReAct from both sides, with low activations raised to a floor.

    s(h) = -log sum_c exp(z_c),  z = W clip(h, t_low, t_high) + b          higher = more OOD; nats

t_low, t_high: percentiles of all activations of the fitted features, pooled over rows and dimensions. OpenOOD takes
them from ID validation: they are of whatever is given to `fit`. Raising to t_low is what OpenOOD does; the paper sets
to zero what lies below (unchecked).
Shapes: B batch, C classes, D dimension. Fit: two passes, O(C D) memory, any batching. Labels are not needed.
Source: Xu et al., NeurIPS 2023, arXiv:2302.11716; OpenOOD.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, free_energy, rows_under
from spherood.detectors.percentile import percentiles
from spherood.detectors.two_passes import refuse_generator
from spherood.errors import ConfigError


class VRA(Detector):
    """``VRA(low=10, high=90).fit(feature, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation",)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    limits: Tensor  # (2,), t_low and t_high

    def __init__(self, *, low: float = 10.0, high: float = 90.0) -> None:
        super().__init__()
        if not 0 <= low < high <= 100:
            raise ConfigError(f"VRA: percentiles must rise within [0, 100], got low={low} and high={high}. Try 10, 90.")
        self.low, self.high = low, high
        self.declare("weight", "bias", "limits")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Percentiles of feature (N, D). FitError without a classifier, and where x can be read only once."""
        weight, bias = copy_head(self, classifier)
        refuse_generator(self, x)
        limits = percentiles(lambda: (rows for rows, _ in rows_under(weight, self, x, label)), [self.low, self.high])
        self.weight, self.bias, self.limits = weight, bias, weight.new_tensor(limits)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        return free_energy(x.clamp(self.limits[0], self.limits[1]), self.weight, self.bias)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.weight.shape[-1]
