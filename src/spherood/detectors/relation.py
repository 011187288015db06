"""Neural relation graph: how strongly is an image related to known ones that are alike and classified alike?

    s(h) = -sum_i [K_i > 0.03] K_i^a,  K_i = max(0, u . u_i) (p . p_i)          higher = more OOD

u: unit feature; p = softmax(W h + b); i: every fitted feature; a: the power. A sum, not a mean: it grows with the bank.
Shapes: B batch, N bank, C classes, D dimension. Fit: one pass, O(N (C + D)) memory. Labels are not needed. Scoring
takes the bank in tiles, so that it holds B x 2,048 relations at a time.
Source: Kim et al., NeurIPS 2023, arXiv:2301.12321; the threshold as in OpenOOD.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, logits, rows_under
from spherood.errors import ConfigError
from spherood.sphere import normalize

WEAKEST = 0.03
TILE = 2048  # rows of the bank; with the 8,192 rows that `score` takes at once a product is 64 MiB


class Relation(Detector):
    """``Relation(power=1.0).fit(feature, classifier=model.classifier).score(feature)``."""

    needs_classifier = True
    laws = ("permutation", "rotation")
    weight: Tensor  # (C, D)
    bias: Tensor  # (C,)
    known_unit: Tensor  # (N, D), u_i
    known_p: Tensor  # (N, C), p_i

    def __init__(self, *, power: float = 1.0) -> None:
        super().__init__()
        if not 0 < power < math.inf:
            raise ConfigError(f"Relation: power must be > 0, got {power}. Try 1.")
        self.power = power
        self.declare("weight", "bias", "known_unit", "known_p")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Keep direction and probabilities of feature (N, D). FitError without a classifier."""
        weight, bias = copy_head(self, classifier)
        unit, p = [], []
        for rows, _ in rows_under(weight, self, x, label):
            unit.append(normalize(rows).float())
            p.append(logits(rows, weight, bias).softmax(dim=1).to(weight))
        self.weight, self.bias, self.known_unit, self.known_p = weight, bias, torch.cat(unit), torch.cat(p)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        unit = normalize(x).to(self.known_unit)
        p = logits(x, self.weight, self.bias).softmax(dim=1).to(self.known_p)
        total = unit.new_zeros(unit.shape[0], dtype=torch.float64)  # len() would fix B in an export
        for known_unit, known_p in zip(self.known_unit.split(TILE), self.known_p.split(TILE), strict=True):
            relation = (unit @ known_unit.T) * (p @ known_p.T)  # below 0 it does not count either
            total += relation.pow(self.power).where(relation > WEAKEST, 0).sum(dim=1, dtype=torch.float64)
        return -total

    @property
    def width(self) -> int:
        """Columns of the features it was fitted on."""
        return self.known_unit.shape[-1]
