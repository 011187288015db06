"""Generalised entropy: how far is the softmax from certainty, small probabilities counting nearly as much as large?

    s(z) = sum_{c among the m largest p} p_c^gamma (1 - p_c)^gamma,   p = softmax(z)          higher = more OOD; >= 0

In float64, and 1 - p of the best class as the sum of the others: near certainty 1 - p rounds to 0 in float32, and a
power of 0.1 makes an error of .19 of it.
Shapes: B batch, C classes; m > C takes all. Nothing is fitted.
Source: Liu et al., CVPR 2023 (equation number unchecked); gamma and m as in their code.
"""

from __future__ import annotations

from math import inf
from numbers import Integral
from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.errors import ConfigError
from spherood.sphere import float64


class GEN(Detector):
    """``GEN(gamma=0.1, m=100).score(logits)``."""

    reads = "logits"
    laws = ("permutation",)

    def __init__(self, *, gamma: float = 0.1, m: int = 100) -> None:
        super().__init__()
        if not 0 < gamma < inf:
            raise ConfigError(f"GEN: gamma must be > 0 and finite, got {gamma}. Try 0.1.")
        if not isinstance(m, Integral) or m < 1:
            raise ConfigError(f"GEN: m must be a whole number of at least 1, got {m}. Try 100.")
        self.gamma: float = gamma
        self.m: int = m

    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Nothing to learn."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) to score (B,), float64."""
        p = float64(x).softmax(dim=1).sort(dim=1, descending=True).values  # (B, C)
        others = p[:, 1:]
        rest = torch.cat([others.sum(dim=1, keepdim=True), 1 - others], dim=1)  # (B, C), 1 - p
        return (p * rest)[:, : self.m].pow(self.gamma).sum(dim=1)
