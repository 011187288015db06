"""PALM: several prototypes per class, each row softly assigned to a few of its own class.

    Q  = Sinkhorn(z, P)                           over all K = C M prototypes, labels unused, no gradient
    U  = own-class part of Q, k largest per row, rows then columns scaled to 1
    P <- normalise(m P + (1 - m) U' z)            once a batch, gradient into z
    W  = own-class part of Sinkhorn(z, P) on the prototypes chosen in U, rows scaled to 1, no gradient
    L_mle = -1/N sum_i [ sum_j W_ij l_ij - lse_j l_ij ],   l = z . P / tau, P without gradient
    L_con = -1/K sum_j [ mean_{l of j's class, l != j} P_j . P_l / tau_p - lse_{l != j} P_j . P_l / tau_p ]
    L = L_mle + lambda L_con

Row j of the prototypes belongs to class j mod C. They begin at random in the positive orthant, as released; k = 0
keeps all M, and with M = 1 the first half of L_con is 0.
Departure: Sinkhorn and the shares are taken in logarithms, so that neither a small epsilon (the released sums overflow
below .0113 in float32) nor a prototype far from every row makes them overflow or vanish.
Shapes: N rows, d dimension, C classes, M prototypes per class, K = C M. Units: temperatures none, L nats.
Source: Lu et al., ICLR 2024, arXiv:2402.02653; jeff024/PALM; equation numbers unchecked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood.errors import ConfigError
from spherood.losses.terms import Terms, check_labelled
from spherood.sphere import at_least_float32, normalize

ROUNDS = 3


class PALM(nn.Module):
    """``PALM(classes=10)(embedding, label).total.backward()``; parts: mle, contrast, both unweighted."""

    reads = "embedding"
    views = 2
    laws = ("permutation", "rotation")
    prototypes: Tensor  # (K, d), unit rows

    def __init__(
        self,
        *,
        classes: int,
        dim: int = 128,
        prototypes_per_class: int = 6,
        k: int = 5,
        momentum: float = 0.999,
        contrast_weight: float = 1.0,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        prototype_temperature: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if classes < 2 or prototypes_per_class < 1 or k < 0:
            raise ConfigError(
                f"PALM: needs classes >= 2, prototypes_per_class >= 1 and k >= 0, got {classes}, "
                f"{prototypes_per_class} and {k}."
            )
        if not all(it > 0 for it in (temperature, epsilon, prototype_temperature)):
            raise ConfigError(
                "PALM: temperature, epsilon and prototype_temperature must be > 0, "
                f"got {temperature}, {epsilon} and {prototype_temperature}. Try 0.1, 0.05 and 0.5."
            )
        if not 0 <= momentum <= 1:
            raise ConfigError(f"PALM: momentum must lie in [0, 1], got {momentum}. Try 0.999.")
        self.classes, self.momentum, self.contrast_weight = classes, momentum, contrast_weight
        self.kept = min(k, prototypes_per_class) or prototypes_per_class
        self.temperature, self.epsilon, self.prototype_temperature = temperature, epsilon, prototype_temperature
        start = torch.rand(classes * prototypes_per_class, dim, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("prototypes", normalize(start))

    def forward(self, embedding: Tensor, label: Tensor) -> Terms:
        """Unit embedding (N, d) and integer label (N,) to the loss; ShapeError otherwise."""
        label = check_labelled("PALM", embedding, label, self.classes, dim=self.prototypes.shape[1])
        z = at_least_float32(embedding)
        z = z.to(torch.promote_types(z.dtype, self.prototypes.dtype))
        old = self.prototypes.to(z.dtype)
        class_of = torch.arange(len(old), device=z.device) % self.classes  # (K,)
        own = label[:, None] == class_of  # (N, K)

        with torch.no_grad():
            assigned = self._log_sinkhorn(z, old).masked_fill(~own, -torch.inf)
            chosen = torch.zeros_like(own).scatter_(1, assigned.topk(self.kept, dim=1).indices, True)  # (N, K)
            share = F.normalize(assigned.masked_fill(~chosen, -torch.inf).softmax(dim=1), p=1, dim=0)  # (N, K)
        prototypes = normalize(self.momentum * old + (1 - self.momentum) * share.T @ z)
        with torch.no_grad():
            weight = self._log_sinkhorn(z, prototypes).masked_fill(~chosen, -torch.inf).softmax(dim=1)  # (N, K)

        logit = z @ prototypes.detach().T / self.temperature  # (N, K)
        mle = (logit.logsumexp(dim=1) - (weight * logit).sum(dim=1)).mean()
        contrast = self._contrast(prototypes, class_of)
        self.prototypes = prototypes.detach()
        return Terms(mle + self.contrast_weight * contrast, {"mle": mle, "contrast": contrast})

    def _log_sinkhorn(self, z: Tensor, prototypes: Tensor) -> Tensor:
        """Log assignment (N, K): in turns, every prototype takes the same share of the rows and every row sums to 1."""
        log_q = z @ prototypes.T / self.epsilon
        for _ in range(ROUNDS):
            log_q = log_q.log_softmax(dim=0).log_softmax(dim=1)
        return log_q

    def _contrast(self, prototypes: Tensor, class_of: Tensor) -> Tensor:
        similar = prototypes @ prototypes.T / self.prototype_temperature  # (K, K)
        self_pair = torch.eye(len(similar), dtype=torch.bool, device=similar.device)
        sibling = (class_of[:, None] == class_of) & ~self_pair
        pull = similar.where(sibling, 0).sum(dim=1) / sibling.sum(dim=1).clamp(min=1)
        return (similar.masked_fill(self_pair, -torch.inf).logsumexp(dim=1) - pull).mean()
