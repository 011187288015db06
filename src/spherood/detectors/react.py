"""ReAct: what evidence is left once unusually high activations are cut?

    s(h) = -log sum_c exp(z_c),  z = W min(h, t) + b          higher = more OOD; nats

t: percentile of all activations of the fitted features, pooled over rows and dimensions. The paper takes it from
training features, OpenOOD from ID validation: it is of whatever is given to `fit`. OOD images make few activations very
high, which the classifier takes for evidence.
Shapes: B batch, C classes, D dimension. Fit: two passes, O(C D) memory, any batching. Labels are not needed.
Source: Sun et al., NeurIPS 2021, arXiv:2111.12797.
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


class ReAct(Detector):
    """``ReAct(percentile=90).fit(feature, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation",)
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    limit: Tensor  # (), t

    def __init__(self, *, percentile: float = 90.0) -> None:
        super().__init__()
        if not 0 < percentile <= 100:
            raise ConfigError(f"ReAct: percentile must lie in (0, 100], got {percentile}. Try 90.")
        self.percentile = percentile
        self.declare("weight", "bias", "limit")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Percentile of feature (N, D). FitError without a classifier, and where x can be read only once."""
        weight, bias = copy_head(self, classifier)
        refuse_generator(self, x)
        (limit,) = percentiles(lambda: (rows for rows, _ in rows_under(weight, self, x, label)), [self.percentile])
        self.weight, self.bias, self.limit = weight, bias, weight.new_tensor(limit)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        return free_energy(x.clamp(max=self.limit), self.weight, self.bias)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.weight.shape[-1]
