"""ReweightOOD: pairs of a batch, weighted by how much they still err.

    L = ELU(A + B)
    A = lse over pairs of one class       of  -w+_ij s_ij / tau,    w+ = sigmoid(-(2 s_ij - 1))
    B = lse over pairs of two classes     of   w-_ij s_ij / tau,    w- = sigmoid(5 s_ij - 4)

s_ij = z_i . z_j over unordered pairs i < j; the weights carry no gradient. (slope, offset) of the two sigmoids are
`within` and `between`. The log-sum-exp runs over all pairs at once, so the hardest ones of the batch lead and values of
other batch sizes are not comparable. ELU is the identity above 0 and e^x - 1 below.

Departure: a batch without a pair of either kind gives 0 with gradient 0 (the missing part reads 0); the released code
gives -1 without a pair of two classes. Masks instead of boolean indexing: no synchronisation, fixed shapes. Rows are
compared a block at a time, with themselves and later ones: benchmarks/pairs.py has what that saves.
Shapes: N rows (all of view 1, then all of view 2), d dimension; b rows of a block, n from its first on. Units: tau
none, L nats.
Source: sudarshanregmi/ReweightOOD, openood/trainers/reweightood_trainer.py; equation numbers unchecked.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood.errors import ConfigError
from spherood.losses.terms import Terms, check_labelled
from spherood.sphere import at_least_float32

BLOCK = 256


class ReweightOOD(nn.Module):
    """``ReweightOOD()(embedding, label).total.backward()``; parts: positive (A), negative (B)."""

    reads = "embedding"
    views = 2
    laws = ("permutation", "rotation")

    def __init__(
        self,
        *,
        temperature: float = 0.1,
        within: tuple[float, float] = (2.0, 1.0),
        between: tuple[float, float] = (5.0, 4.0),
    ) -> None:
        super().__init__()
        if not temperature > 0:
            raise ConfigError(f"ReweightOOD: temperature must be > 0, got {temperature}. Try 0.1.")
        if len(within) != 2 or len(between) != 2:
            raise ConfigError(f"ReweightOOD: within and between are (slope, offset), got {within} and {between}.")
        self.temperature, self.within, self.between = temperature, within, between

    def forward(self, embedding: Tensor, label: Tensor) -> Terms:
        """Unit embedding (N, d) and integer label (N,) to the loss; ShapeError otherwise."""
        label = check_labelled("ReweightOOD", embedding, label)
        z = at_least_float32(embedding)
        blocks = [self._block(z, label, first) for first in range(0, len(z), BLOCK)]
        both = torch.stack(blocks).logsumexp(dim=0)  # (2,), A and B
        absent = both < torch.finfo(z.dtype).min / 2
        positive, negative = both.masked_fill(absent, 0)
        total = F.elu(positive + negative).masked_fill(absent.any(), 0)
        return Terms(total, {"positive": positive, "negative": negative})

    def _block(self, z: Tensor, label: Tensor, first: int) -> Tensor:
        """A and B (2,) over the pairs of BLOCK rows from `first` on with later ones; the lowest number without any."""
        s = z[first : first + BLOCK] @ z[first:].T  # (b, n)
        same = label[first : first + BLOCK, None] == label[first:]  # (b, n)
        later = torch.ones_like(same).triu(diagonal=1)  # each pair once
        kinds = same & later, ~same & later
        lowest = torch.finfo(z.dtype).min  # the log-sum-exp of -inf alone has NaN for a slope
        (slope_within, offset_within), (slope_between, offset_between) = self.within, self.between
        with torch.no_grad():
            weight = torch.where(same, offset_within - slope_within * s, slope_between * s - offset_between).sigmoid()
            weight = torch.where(same, -weight, weight) / self.temperature
        pair = weight * s
        top = [pair.detach().masked_fill(~kind, lowest).amax() for kind in kinds]
        # the kinds share no pair: one exponential serves both
        share = (pair - torch.where(same, top[0], top[1])).masked_fill(~later, 0).exp()
        total = torch.stack([share.where(kind, 0).sum() for kind in kinds])
        return total.clamp(min=torch.finfo(z.dtype).tiny).log() + torch.stack(top)  # so has log 0
