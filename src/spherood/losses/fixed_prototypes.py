"""Fixed prototypes: one direction per class, spread over the sphere once and for all; embeddings are pulled to theirs.

    L = (tau/tau_b) 1/N sum_i [ -z_i . p_{y_i} / tau + lse_c z_i . p_c / tau ]

CIDER's compactness towards prototypes that never move, so there is nothing to collapse and nothing to disperse: the
ablation that CIDER asks for. For C <= d + 1 they are the corners of a regular simplex, the best there is (every cosine
-1 / (C - 1)); beyond, they start at random and repel each other until they hardly move. Which class gets which
direction is arbitrary.
Shapes: N rows (all of view 1, then all of view 2), d dimension, C classes. Units: tau none, L nats.
Source: Mettes et al., NeurIPS 2019, arXiv:1901.10514, for the idea; the term is CIDER's
(arXiv:2203.04450, losses/cider.py).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood.errors import ConfigError
from spherood.losses.terms import Terms, check_labelled
from spherood.sphere import at_least_float32, normalize

STEPS = 100  # 1,000 directions in 128 dimensions: 1 s, and 94 % of the bound on their least angle
SHARPNESS = 40.0  # of the repulsion: it acts on the nearest pairs, which are what limits the spread


class FixedPrototypes(nn.Module):
    """``FixedPrototypes(classes=10)(embedding, label).total.backward()``."""

    reads = "embedding"
    views = 2
    laws = ("permutation", "rotation")
    prototypes: Tensor  # (C, d), unit rows

    def __init__(
        self, *, classes: int, dim: int = 128, temperature: float = 0.1, base_temperature: float = 0.07, seed: int = 0
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ConfigError(f"FixedPrototypes: needs at least 2 classes to tell apart, got {classes}.")
        if not temperature > 0 or not base_temperature > 0:
            raise ConfigError(
                f"FixedPrototypes: temperatures must be > 0, got {temperature} and {base_temperature}. Try 0.1, 0.07."
            )
        self.temperature, self.base_temperature = temperature, base_temperature
        self.register_buffer("prototypes", spread(classes, dim, seed).float())

    def forward(self, embedding: Tensor, label: Tensor) -> Terms:
        """Unit embedding (N, d) and integer label (N,) to the loss; ShapeError otherwise."""
        label = check_labelled("FixedPrototypes", embedding, label, len(self.prototypes), dim=self.prototypes.shape[1])
        z = at_least_float32(embedding)
        z = z.to(torch.promote_types(z.dtype, self.prototypes.dtype))
        logit = z @ self.prototypes.to(z.dtype).T / self.temperature
        return Terms(self.temperature / self.base_temperature * F.cross_entropy(logit, label))


def spread(classes: int, dim: int, seed: int = 0) -> Tensor:
    """Unit directions (C, d), float64, far apart: a regular simplex for C <= d + 1, else by repulsion from a seed."""
    generator = torch.Generator().manual_seed(seed)
    if classes <= dim + 1:
        corner = torch.eye(classes, dtype=torch.float64) - 1 / classes  # (C, C) of rank C - 1
        axes = torch.linalg.eigh(corner).eigenvectors[:, 1:]  # (C, C - 1), the space the corners span
        turn = torch.linalg.qr(torch.randn(dim, classes - 1, generator=generator, dtype=torch.float64)).Q
        return normalize(corner @ axes @ turn.T)
    p = normalize(torch.randn(classes, dim, generator=generator))
    for step in range(STEPS):
        push = (SHARPNESS * (p @ p.T)).fill_diagonal_(-torch.inf).softmax(dim=1)  # (C, C), on the nearest most
        p = normalize(p - (1 - step / STEPS) * push @ p)
    return normalize(p.double())
