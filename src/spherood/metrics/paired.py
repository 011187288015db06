"""Paired t-test: could differences between two methods, run on the same seeds, be chance?

    t = mean(d) / (sd(d) / sqrt(n)),  nu = n - 1,  theta = arctan(|t| / sqrt(nu)),  p = 1 - A
    nu odd:   A = 2/pi (theta + sin theta (cos theta + 2/3 cos^3 theta + (2 4)/(3 5) cos^5 theta + ...))
    nu even:  A = sin theta (1 + 1/2 cos^2 theta + (1 3)/(2 4) cos^4 theta + ...)

A: the chance that |t| stays below the one found if the true mean is 0. Both sums end with cos^(nu-2), so nu = 1 has
none, and no incomplete beta function is needed. p is right to about 1e-15, absolutely: read less as "below 1e-14".
Assumes independent differences from one normal law. Unit: none.
Source: Student, Biometrika 6(1), 1908; the sums are Abramowitz & Stegun, 26.7.3 and 26.7.4.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from spherood.errors import ShapeError
from spherood.metrics.scores import check_scores


def paired_t(differences: Any) -> float:
    """Two-sided p-value in [0, 1] of differences (N,), one per pair, N >= 2; array, list or tensor.

    1 if all are 0; 0 if all are one other number, which has no spread to compare with. ShapeError unless 1-D, finite
    and at least two.
    """
    difference = check_scores("paired_t", "differences", differences)
    n = len(difference)
    if n < 2:
        raise ShapeError(
            f"paired_t: needs at least 2 differences, got {n}. A single pair has no spread. Run both on another seed."
        )
    largest = float(np.abs(difference).max())
    if largest == 0:
        return 1.0
    scaled = difference / largest  # a power of any size would leave t alone, but its square could underflow
    if np.ptp(scaled) == 0:
        return 0.0
    t = float(scaled.mean() / (scaled.std(ddof=1) / math.sqrt(n)))
    return max(0.0, 1 - _within(abs(t), n - 1))


def _within(t: float, nu: int) -> float:
    """P(|T| < t) of Student's t with nu >= 1 degrees of freedom, for t >= 0."""
    theta = math.atan(t / math.sqrt(nu))
    cosine = math.cos(theta)
    odd = nu % 2
    term = cosine if odd else 1.0
    total = 0.0
    for power in range(odd, nu - 1, 2):  # powers 1, 3, ..., nu - 2 or 0, 2, ..., nu - 2; none for nu = 1
        total += term
        term *= cosine**2 * (power + 1) / (power + 2)
    inner = math.sin(theta) * total
    return 2 / math.pi * (theta + inner) if odd else inner
