"""k-th nearest neighbour: how far is the k-th nearest training feature on the unit sphere?

    s(u) = |u - u_(k)|^2          higher = more OOD; in [0, 4]

u: unit feature; u_(k): the k-th nearest of the bank, k counted from 1. The cosine finds the neighbour; the distance is
taken from the difference, since 2 - 2 cos loses the digits of near ones and can fall below 0.
Beware of k near the number of training images per class: the AUROC falls and then inverts.
Shapes: B batch, N bank, D dimension. Fit: one pass, O(N D) memory. Labels are not needed.
Source: Sun et al., ICML 2022, arXiv:2204.06507; CIDER evaluates with k = 100 (CIFAR-10) and 300 (CIFAR-100).
"""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Self

import torch
from torch import Tensor, nn

from spherood.detectors.detector import SCORE_ROWS, Array, Classifier, Detector, Features, Neighbours
from spherood.errors import ConfigError, FitError
from spherood.outputs import Outputs
from spherood.sphere import nearest, normalize


class KNN(Detector):
    """``KNN(k=50).fit(feature).score(feature)``."""

    bank: Tensor  # (N, D), unit rows

    def __init__(self, *, k: int = 50) -> None:
        super().__init__()
        if not isinstance(k, Integral) or k < 1:
            raise ConfigError(f"KNN: k must be a whole number of at least 1, got {k}. Try 50.")
        self.k: int = k
        self.declare("bank")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Keep the unit features (N, D) as the bank; FitError where N < k."""
        total = getattr(x, "total", 0)  # a stream that says how many it holds is not held twice
        parts: list[Tensor] = []
        filled = 0
        for rows, _ in self.batches(x, label):
            unit = normalize(rows).float()
            if total and not parts:
                parts.append(unit.new_empty(total, unit.shape[1]))
            if total:
                parts[0][filled : filled + len(unit)] = unit
            else:
                parts.append(unit)
            filled += len(unit)
        return self._keep(parts[0][:filled] if len(parts) == 1 else torch.cat(parts))

    def share(self, other: KNN) -> Self:
        """Be fitted on the bank of another k-NN, without a copy."""
        return self._keep(other.bank)

    def _keep(self, bank: Tensor) -> Self:
        if len(bank) < self.k:
            raise FitError(f"KNN: k={self.k} is larger than the bank of {len(bank)} features. Use k <= {len(bank)}.")
        self.bank = bank
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to squared distance (B,)."""
        return self._search(x, [self.k], 0)[0][:, 0]

    @torch.no_grad()
    def score_at(self, x: Outputs | Array, ks: Sequence[int]) -> Tensor:
        """`score` for several k up to this one's, (B, len(ks)), from one search."""
        rows = self.checked(x)
        return torch.cat([self._search(part, ks, 0)[0] for part in rows.split(SCORE_ROWS)])

    @torch.no_grad()
    def score_with_neighbours(self, x: Outputs | Array, n: int) -> tuple[Tensor, Neighbours]:
        """`score`, and the n nearest rows of the bank (all, where it holds fewer), from one search."""
        found = [self._search(part, [self.k], n) for part in self.checked(x).split(SCORE_ROWS)]
        score, cosine, index = (torch.cat(parts) for parts in zip(*found, strict=True))
        return score[:, 0], (cosine[:, :n], index[:, :n])

    def _search(self, x: Tensor, ks: Sequence[int], n: int) -> tuple[Tensor, Tensor, Tensor]:
        """Distance (B, len(ks)); cosine and row number (B, max(k, n)), nearest first."""
        unit = normalize(x).to(self.bank.dtype)
        cosine, index = nearest(unit, self.bank, max(self.k, min(n, len(self.bank))))
        distance = [(unit - self.bank[index[:, k - 1]]).square().sum(dim=1) for k in ks]
        return torch.stack(distance, dim=1), cosine, index

    @property
    def width(self) -> int:
        """Columns of the bank."""
        return self.bank.shape[-1]


def has_bank(detector: nn.Module) -> bool:
    """Whether the rows it was fitted on can be named as neighbours: a k-NN, or a combination with one."""
    return any(isinstance(part, KNN) for part in detector.modules())
