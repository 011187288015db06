"""Maximum softmax probability: how unsure is the classifier of its best guess?

    s(f) = -max_c softmax(f)_c          higher = more OOD; in [-1, -1/C]

In float64: in float32 a third of a good classifier's ID images tie at exactly -1, which costs AUROC.
Shapes: B batch, C classes. Nothing is fitted.
Source: Hendrycks and Gimpel, ICLR 2017, arXiv:1610.02136.
"""

from __future__ import annotations

from typing import Self

from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.sphere import float64


class MSP(Detector):
    """``MSP().score(logits)``."""

    reads = "logits"
    laws = ("permutation",)

    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Nothing to learn."""
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) to score (B,), float64."""
        return -float64(x).softmax(dim=1).amax(dim=1)
