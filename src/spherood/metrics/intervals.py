"""Clopper-Pearson interval: which true shares do not contradict a count?

    low:  P(X >= successes | low)  = (1 - confidence) / 2       X ~ Bin(trials, p)
    high: P(X <= successes | high) = (1 - confidence) / 2

Exact in that it covers the true share with *at least* the confidence asked for, at any share and any number of trials.
Unit: fraction. Source: Clopper & Pearson, Biometrika 26(4), 1934.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from spherood.errors import ConfigError
from spherood.metrics.binomial import log_at_least, log_at_most
from spherood.metrics.fractions import check_fraction


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) with 0 <= low <= successes / trials <= high <= 1.

    ConfigError unless both counts are whole, 0 <= successes <= trials, trials >= 1, and the confidence lies in (0, 1).
    """
    try:
        hits, n = operator.index(successes), operator.index(trials)
    except TypeError:
        raise ConfigError(
            f"clopper_pearson: expected whole numbers, got {successes!r} of {trials!r}. Pass counts, not shares."
        ) from None
    if not (n >= 1 and 0 <= hits <= n):
        wanted = "Pass 0 <= successes <= trials, trials >= 1."
        raise ConfigError(f"clopper_pearson: {hits} successes of {n} trials. {wanted}")
    level = math.log((1 - check_fraction("clopper_pearson", "confidence", confidence)) / 2)
    share = hits / n
    low = _boundary(0.0, share, lambda p: log_at_least(hits, n, p) > level) if hits > 0 else 0.0
    high = _boundary(share, 1.0, lambda p: log_at_most(hits, n, p) <= level) if hits < n else 1.0
    return low, high


def _boundary(low: float, high: float, holds: Callable[[float], bool]) -> float:
    """Where `holds` turns from False to True between two shares, to the last digit."""
    while high - low > 2e-16 * high:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high
