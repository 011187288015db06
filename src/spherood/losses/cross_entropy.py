"""Cross-entropy of a softmax classifier: the baseline that every table needs.

    L = 1/N sum_i [ -f_{i, y_i} + lse_c f_{i, c} ]

Shapes: N rows, C classes. Unit: nats.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from spherood.losses.terms import Terms, check_labelled
from spherood.sphere import at_least_float32


class CrossEntropy(nn.Module):
    """``CrossEntropy()(logits, label).total.backward()``."""

    reads = "logits"
    views = 1
    laws = ("permutation",)

    def forward(self, logits: Tensor, label: Tensor) -> Terms:
        """Logits (N, C) and integer label (N,) to the loss; ShapeError otherwise."""
        label = check_labelled("CrossEntropy", logits, label, logits.shape[-1], what="logits")
        return Terms(F.cross_entropy(at_least_float32(logits), label))
