"""Ledoit-Wolf: how far a covariance should be mixed with a multiple of the identity, from the rows themselves.

    a = min(b, d) / d,   b = 1/N (1/N sum_i |x_i|^4 - |S|^2),   d = |S - t I|^2

x_i: row minus its mean; S = 1/N sum_i x_i x_i', t = tr(S)/D, |.| the Frobenius norm. b is the variance of S about its
expectation, d its distance from the target: (1 - a) S + a t I has the least expected squared error among such mixtures.
Shapes: B rows of a batch, N rows in all, D dimension. Units: a none, a share in [0, 1].
Source: Ledoit and Wolf, J. Multivariate Analysis 88 (2004), 365-411 (equation number unchecked).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def ledoit_wolf(centred: Iterable[Tensor], covariance: Tensor) -> float:
    """a, from batches of centred rows (B, D) and their covariance S (D, D), both in float64.

    The fourth powers need the means beforehand: with class means their sum does not follow from S and sums of rows.
    """
    rows = 0
    fourth = covariance.new_zeros(())
    for x in centred:
        rows += len(x)
        fourth += x.square().sum(dim=1).square().sum()
    target = covariance.trace() / len(covariance) * torch.eye(len(covariance)).to(covariance)
    distance = float((covariance - target).square().sum())
    spread = float(fourth / rows - covariance.square().sum()) / rows  # b
    return min(max(spread, 0.0), distance) / distance if distance else 0.0  # S = t I: any share gives S
