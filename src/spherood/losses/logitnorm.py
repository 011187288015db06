"""LogitNorm: cross-entropy that cannot grow confident by growing the logits.

    L = CE( f / ((|f| + 1e-7) tau), y )

Nothing is normalised at test time. Published with tau = .04 (OpenOOD) and .01 (the authors' CIFAR-10 example).
Shapes: N rows, C classes. Units: tau none, L nats. A zero row gives a finite but huge gradient.
Source: Wei et al., ICML 2022, arXiv:2205.09310; hongxin001/logitnorm_ood; equation number unchecked.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from spherood.errors import ConfigError
from spherood.losses.terms import Terms, check_labelled
from spherood.sphere import at_least_float32


class LogitNorm(nn.Module):
    """``LogitNorm()(logits, label).total.backward()``."""

    reads = "logits"
    views = 1
    laws = ("permutation",)

    def __init__(self, *, temperature: float = 0.04) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"LogitNorm: temperature must be > 0, got {temperature}. Try 0.04.")
        self.temperature = temperature

    def forward(self, logits: Tensor, label: Tensor) -> Terms:
        """Logits (N, C) and integer label (N,) to the loss; ShapeError otherwise."""
        label = check_labelled("LogitNorm", logits, label, logits.shape[-1], what="logits")
        f = at_least_float32(logits)
        return Terms(F.cross_entropy(f / (f.norm(dim=1, keepdim=True) + 1e-7) / self.temperature, label))
