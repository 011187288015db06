"""DICE: how much evidence is there, of the connections alone that matter on known images?

    s(h) = -log sum_c exp(z_c),  z_c = sum_j [m_j W_cj > t] W_cj h_j + b_c          higher = more OOD; nats

m: mean of the fitted features; t: percentile of all m_j W_cj, so that p percent of the weights are cut.
Shapes: B batch, C classes, D dimension. Fit: one pass in float64, O(C D) memory, any batching. Labels are not needed.
Source: Sun and Li, ECCV 2022, arXiv:2111.09805.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, free_energy, grand_mean, rows_under
from spherood.detectors.pruning import check_percentile
from spherood.sphere import float64


class DICE(Detector):
    """``DICE(percentile=90).fit(feature, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation",)
    weight: Tensor  # (C, D), zero where it was cut
    bias: Tensor  # (C,)

    def __init__(self, *, percentile: float = 90.0) -> None:
        super().__init__()
        self.percentile = check_percentile(self, percentile, 90)
        self.declare("weight", "bias")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Mean of feature (N, D), and which weights it leaves. FitError without a classifier."""
        weight, bias = copy_head(self, classifier)
        share = grand_mean(rows_under(weight, self, x, label)) * float64(weight)  # (C, D)
        least = float(np.percentile(share.cpu().numpy(), self.percentile))  # torch.quantile ends at 2^24 values
        self.weight, self.bias = weight.where((share > least).to(weight.device), 0), bias
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        return free_energy(x, self.weight, self.bias)

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.weight.shape[-1]
