"""Supervised contrastive loss: pull same-class embeddings together, push the rest away.

    L = -(tau/tau_b) 1/N sum_i 1/|P(i)| sum_{p in P(i)} log softmax_{a != i}(z_i . z_a / tau)[p]

P(i): the other rows of i's class; an anchor without one counts 0 in the mean, as in the authors' code since 2023
(the older copies give NaN). tau_b scales the loss only; the published learning rates were found with 0.07.
Shapes: N rows (all of view 1, then all of view 2), d dimension. Units: tau none, L nats.
Source: Khosla et al., NeurIPS 2020, arXiv:2004.11362, Eq. 2; HobbitLong/SupContrast.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from spherood.errors import ConfigError
from spherood.losses.terms import Terms, check_labelled
from spherood.sphere import at_least_float32


class SupCon(nn.Module):
    """``SupCon(temperature=0.1)(embedding, label).total.backward()``."""

    reads = "embedding"
    views = 2
    laws = ("permutation", "rotation")

    def __init__(self, *, temperature: float = 0.1, base_temperature: float = 0.07) -> None:
        super().__init__()
        if not temperature > 0 or not base_temperature > 0:
            raise ConfigError(f"SupCon: temperatures must be > 0, got {temperature} and {base_temperature}. Try 0.1.")
        self.temperature, self.base_temperature = temperature, base_temperature

    def forward(self, embedding: Tensor, label: Tensor) -> Terms:
        """Unit embedding (N, d) and integer label (N,) to the loss; ShapeError otherwise."""
        label = check_labelled("SupCon", embedding, label)
        z = at_least_float32(embedding)
        own = torch.eye(len(label), dtype=torch.bool, device=label.device)
        lowest = torch.finfo(z.dtype).min  # -inf would give NaN for a single row
        log_p = (z @ z.T / self.temperature).masked_fill(own, lowest).log_softmax(dim=1)  # (N, N)
        positive = (label[:, None] == label) & ~own  # (N, N)
        per_anchor = -log_p.where(positive, 0).sum(dim=1) / positive.sum(dim=1).clamp(min=1)  # where: 0 * -inf is NaN
        return Terms(self.temperature / self.base_temperature * per_anchor.mean())
