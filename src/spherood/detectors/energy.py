"""Energy: how little evidence do all classes together find?

    s(z) = -T log sum_c exp(z_c / T)          higher = more OOD; in the unit of the logits

Shapes: B batch, C classes. Nothing is fitted.
Source: Liu et al., NeurIPS 2020, arXiv:2010.03759 (equation number unchecked).
"""

from __future__ import annotations

from math import inf
from typing import Self

from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.errors import ConfigError


class Energy(Detector):
    """``Energy(temperature=1.0).score(logits)``."""

    reads = "logits"
    laws = ("permutation",)

    def __init__(self, *, temperature: float = 1.0) -> None:
        super().__init__()
        if not 0 < temperature < inf:
            raise ConfigError(f"Energy: temperature must be > 0 and finite, got {temperature}. Try 1.0.")
        self.temperature = temperature

    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Nothing to learn."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) to score (B,)."""
        return -self.temperature * (x / self.temperature).logsumexp(dim=1)
