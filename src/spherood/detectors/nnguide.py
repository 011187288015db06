"""Nearest-neighbour guidance: is the energy of a feature borne out by confident training features near it?

    s(h) = -lse(z) 1/k sum of the k largest u . b_j,   b_j = lse(z_j) u_j          higher = more OOD

u: unit feature; z = W h + b; lse: log-sum-exp; j runs over a bank: a share `fraction` of the training features, one
drawn at random from each stretch of 1/fraction rows of the stream, with `seed`, so that the bank depends neither on the
batches nor, in a list sorted by class, on which class comes first. A zero feature scores 0.
Shapes: B batch, N bank, C classes, D dimension. Fit: one pass, O(N D) memory. Labels are not needed.
Source: Park et al., ICCV 2023, arXiv:2309.14888 (equation number unchecked). OpenOOD's bank is the first rows of the
list: 600 cats.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from numbers import Integral
from typing import Self

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.linear_head import copy_head, free_energy, rows_under
from spherood.errors import ConfigError, FitError
from spherood.sphere import float64, nearest, normalize


class NNGuide(Detector):
    """``NNGuide(k=100, fraction=0.01).fit(feature, classifier=classifier).score(feature)``."""

    needs_classifier = True
    laws = ("rotation",)  # which rows the bank holds depends on their order
    bank: Tensor  # (N, D), b_j
    weight: Tensor  # (C, D), W
    bias: Tensor  # (C,), b

    def __init__(self, *, k: int = 100, fraction: float = 0.01, seed: int = 0) -> None:
        super().__init__()
        if not isinstance(k, Integral) or k < 1:
            raise ConfigError(f"NNGuide: k must be a whole number of at least 1, got {k}. Try 100.")
        if not 0 < fraction <= 1:
            raise ConfigError(f"NNGuide: fraction must lie in (0, 1], got {fraction}. Try 0.01.")
        if not isinstance(seed, Integral):
            raise ConfigError(f"NNGuide: seed must be a whole number, got {seed}. Try 0.")
        self.k: int = k
        self.fraction: float = fraction
        self.seed: int = seed
        self.declare("bank", "weight", "bias")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Draw the bank from feature (N, D). FitError without classifier or where the bank is smaller than k."""
        weight, bias = copy_head(self, classifier)
        parts: list[Tensor] = []
        drawn = _drawn(self.fraction, self.seed)
        row, start = next(drawn), 0
        for rows, _ in rows_under(weight, self, x, label):
            chosen = []
            while row < start + len(rows):
                chosen.append(row - start)
                row = next(drawn)
            start += len(rows)
            h = float64(rows[chosen])
            evidence = -free_energy(h, weight, bias)
            parts.append((evidence[:, None] * normalize(h)).to(weight))
        bank = torch.cat(parts)
        if len(bank) < self.k:
            raise FitError(
                f"{self.name}.fit: k={self.k} is larger than the bank of {len(bank)} features, a share of "
                f"{self.fraction} of {start}. Use a smaller k or a larger fraction."
            )
        self.bank, self.weight, self.bias = bank, weight, bias
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64."""
        unit = normalize(x).to(self.bank.dtype)
        largest, _ = nearest(unit, self.bank, self.k)  # (B, k); the search is by product, whatever the length of a row
        energy = free_energy(x, self.weight, self.bias)  # (B,)
        return energy * largest.mean(dim=1).to(energy)

    @property
    def width(self) -> int:
        """Columns of the bank."""
        return self.bank.shape[-1]


def _drawn(fraction: float, seed: int) -> Iterator[int]:
    """Row numbers, rising, one of each stretch of 1/fraction rows, without end."""
    generator = random.Random(seed)
    for stretch in count():
        first, end = round(stretch / fraction), round((stretch + 1) / fraction)
        yield first + int(generator.random() * (end - first))
