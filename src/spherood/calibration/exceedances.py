"""How many held-out ID scores may lie above a threshold, and how many held-out scores a promise needs at all.

n scores, threshold at the k-th smallest, e = n - k scores above it. For continuous scores the false-alarm rate F, given
the held-out set, is Beta(e + 1, n - e), so P(F > alpha) = P(Bin(n, alpha) <= e); ties only make F smaller.

    conditional: the largest e with P(Bin(n, alpha) <= e) <= delta,  so that P(F <= alpha) >= 1 - delta;
                 there is one from n >= log(delta) / log(1 - alpha) on
    marginal:    e = floor((n + 1) alpha) - 1,  so that E F <= alpha, though F > alpha about half the time;
                 there is one from n >= 1 / alpha - 1 on

alpha: false-alarm rate; 1 - delta: confidence, over the draw of the held-out set. Unit: scores.
Source: the law of order statistics; Vovk, "Conditional validity of inductive conformal predictors", ACML 2012.
"""

from __future__ import annotations

import math
import operator
from typing import Any

from spherood.errors import ConfigError, nearest
from spherood.metrics.binomial import log_at_most
from spherood.metrics.fractions import check_fraction

METHODS = ("conditional", "marginal")

# What is equal on paper must not fail by a rounding: 1 - 0.9 is a little below 0.1, and 100 * 0.29 a little below 29.
SLACK = 1e-12


def allowed_exceedances(
    n: int, false_alarm_rate: float, confidence: float = 0.95, method: str = "conditional"
) -> int | None:
    """Of `n` held-out scores, the most that may lie above the threshold (0 .. n - 1); None where n is too small.

    ConfigError unless n is a whole number >= 0, both shares lie in (0, 1) and the method is known.
    """
    alpha, delta = _checked(false_alarm_rate, confidence, method)
    count = _whole(n)
    if count == 0:
        return None
    if method == "marginal":
        most = math.floor((count + 1) * alpha * (1 + SLACK)) - 1
        return min(most, count - 1) if most >= 0 else None
    if not _keeps(0, count, alpha, delta):
        return None
    good, bad = 0, count  # P(Bin <= n) = 1 breaks every promise
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if _keeps(middle, count, alpha, delta) else (good, middle)
    return good


def least_held_out(false_alarm_rate: float, confidence: float = 0.95, method: str = "conditional") -> int:
    """The fewest held-out scores (>= 1) that allow this promise; ConfigError as above."""
    alpha, delta = _checked(false_alarm_rate, confidence, method)
    if method == "marginal":
        return max(1, math.ceil((1 - SLACK) / alpha) - 1)
    return max(1, math.ceil((math.log(delta) + SLACK) / math.log1p(-alpha)))


def least_rate(n: int, confidence: float = 0.95, method: str = "conditional") -> float:
    """The smallest false-alarm rate that `n` >= 1 held-out scores can promise, in (0, 1)."""
    _, delta = _checked(0.5, confidence, method)
    return 1 / (n + 1) if method == "marginal" else -math.expm1(math.log(delta) / n)


def _keeps(above: int, n: int, alpha: float, delta: float) -> bool:
    return log_at_most(above, n, alpha) <= math.log(delta) + SLACK


def _checked(false_alarm_rate: Any, confidence: Any, method: str) -> tuple[float, float]:
    """(alpha, delta)."""
    if method not in METHODS:
        raise ConfigError(f"Threshold: there is no method {method!r}. {nearest(str(method), METHODS)}")
    alpha = check_fraction("Threshold", "false_alarm_rate", false_alarm_rate)
    return alpha, 1 - check_fraction("Threshold", "confidence", confidence)


def _whole(n: Any) -> int:
    try:
        count = operator.index(n)
    except TypeError:
        count = -1
    if count < 0:
        raise ConfigError(f"Threshold: expected a number of held-out scores, got {n!r}. Pass len(held_out_score).")
    return count
