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
from typing import Any, NamedTuple

from spherood.errors import ConfigError, nearest
from spherood.metrics.binomial import log_at_most
from spherood.metrics.fractions import check_fraction
from spherood.metrics.intervals import clopper_pearson

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
    count = check_count("Threshold", "held-out scores", n)
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


class Expected(NamedTuple):
    """The law of the true false-alarm rate of one threshold, in three numbers, each a fraction."""

    mean: float
    low: float  # with (1 - confidence) / 2 of the law below it
    high: float  # with (1 - confidence) / 2 of the law above it


def expected_rate(n: int, above: int, confidence: float = 0.95) -> Expected:
    """What false-alarm rate to expect where `above` of `n` held-out scores lie above a threshold that is one of them.

    Mean (above + 1) / (n + 1) and the central interval of Beta(above + 1, n - above), of continuous scores and of a
    threshold chosen by its rank alone. Where scores tie, pass n - k for the k-th smallest: the rate then lies at or
    below this law. ConfigError unless 0 <= above < n, both whole, and the confidence lies in (0, 1).
    """
    count = check_count("expected_rate", "held-out scores", n, least=1)
    higher = check_count("expected_rate", "scores above the threshold", above)
    check_fraction("expected_rate", "confidence", confidence)
    if higher >= count:
        raise ConfigError(
            f"expected_rate: {higher} of {count} held-out scores above the threshold, at most {count - 1} can be: the "
            "threshold is one of them. Count score > threshold."
        )
    # P(Beta <= f) = P(Bin(n, f) >= above + 1): each end is one of a Clopper-Pearson interval.
    low, _ = clopper_pearson(higher + 1, count, confidence)
    _, high = clopper_pearson(higher, count, confidence)
    return Expected((higher + 1) / (count + 1), low, high)


def check_count(where: str, what: str, value: Any, least: int = 0) -> int:
    """`value` as a whole number >= `least`; ConfigError, naming `where` and `what` is counted, otherwise."""
    try:
        count = operator.index(value)
    except TypeError:
        count = -1
    if count < least:
        raise ConfigError(f"{where}: expected a number of {what}, got {value!r}. Pass a whole number >= {least}.")
    return count


def _keeps(above: int, n: int, alpha: float, delta: float) -> bool:
    return log_at_most(above, n, alpha) <= math.log(delta) + SLACK


def _checked(false_alarm_rate: Any, confidence: Any, method: str) -> tuple[float, float]:
    """(alpha, delta)."""
    if method not in METHODS:
        raise ConfigError(f"Threshold: there is no method {method!r}. {nearest(str(method), METHODS)}")
    alpha = check_fraction("Threshold", "false_alarm_rate", false_alarm_rate)
    return alpha, 1 - check_fraction("Threshold", "confidence", confidence)
