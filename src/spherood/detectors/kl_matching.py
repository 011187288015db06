"""KL matching: how unlike is the classifier's answer to its typical answer for any class?

    s(z) = min_c KL(p || q_c),  p = softmax(z)          higher = more OOD; nats, 0 or more

q_c: mean p of the fitted rows that are classified as c. A class that is never predicted has the answer that names it
with certainty: since a p without any doubt does not occur, it is matched by none. OpenOOD fits on ID validation. In
float64, since confident answers tie in float32.
Shapes: B batch, C classes. Fit: one pass in float64, O(C^2) memory, any batching. Labels are not needed.
Source: Hendrycks et al., ICML 2022, arXiv:1911.11132.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.sphere import ClassMeans, float64

LOWEST = -1e30  # log 0: -inf would make 0 log 0 NaN


class KLMatching(Detector):
    """``KLMatching().fit(logits).score(logits)``."""

    reads = "logits"
    laws = ("permutation",)
    log_typical: Tensor  # (C, C), log q_c

    def __init__(self) -> None:
        super().__init__()
        self.declare("log_typical")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Mean answers of logits (N, C)."""
        means = ClassMeans()
        for rows, _ in self.batches(x, label):
            if not len(means.count):
                means = ClassMeans(rows.shape[1])
            means.add(float64(rows).softmax(dim=1), rows.argmax(dim=1))
        certain = torch.eye(len(means.count), dtype=means.sum.dtype, device=means.sum.device)
        typical = torch.where(means.count[:, None] > 0, means.mean, certain)
        self.log_typical = typical.log().clamp(min=LOWEST).float()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, C) to score (B,), float64."""
        log_p = float64(x).log_softmax(dim=1)
        p = log_p.exp()
        return (p * log_p).sum(dim=1) - (p @ self.log_typical.to(p).T).amax(dim=1)

    @property
    def width(self) -> int:
        """Columns of the logits it was fitted on."""
        return self.log_typical.shape[-1]
