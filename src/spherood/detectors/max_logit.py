"""Maximum logit: how little evidence does the best class find?

    s(z) = -max_c z_c          higher = more OOD; in the unit of the logits

Shapes: B batch, C classes. Nothing is fitted.
Source: Hendrycks et al., ICML 2022, arXiv:1911.11132 (equation number unchecked).
"""

from __future__ import annotations

from typing import Self

from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features


class MaxLogit(Detector):
    """``MaxLogit().score(logits)``."""

    reads = "logits"
    laws = ("permutation",)

    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Nothing to learn."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) to score (B,)."""
        return -x.amax(dim=1)
