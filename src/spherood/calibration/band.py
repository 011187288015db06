"""How high can the false-alarm rate be, at every threshold at once?

    F(t) = P(s > t) <= h((1 + c(t)) / (n + 1)),   c(t) = #{i : s_i > t}        for all t, with the confidence

Every threshold along a curve may be looked at, and one of them chosen afterwards: the promise still holds. A promise
for one threshold, made beforehand (`threshold`), is tighter there.

    Simes: h(j / (n + 1)) = b_j = 1 - delta^(1/k) (prod_{m=n-j+2}^{n} (1 - k/m))^(1/k), k = n // 2;  1 for j > n - k + 1
    DKW:   h(p) = min(1, p + sqrt(log(2 / delta) / (2 n)))

Why this p: s > t for a held-out score t exactly where at most c(t) of the s_i are >= s, so exactly where the p-value of
s is at most (1 + c(t)) / (n + 1), ties or not. A score *equal* to t has a higher one, as t itself counts, and raises no
alarm. Between two held-out scores the count is that of the lower one and the alarms are fewer.
Why ties do no harm: give every ID score the tail V = P(S > s) + R P(S = s), R uniform and its own; V is uniform.
s_i > t gives V_i <= F(t), s_i <= t gives V_i >= F(t), so F(t) is at most the (c(t) + 1)-th smallest V_i; b_j bounds
the j-th smallest, for all j together. For continuous scores Simes is broken in a share delta of the draws. It is
tighter than DKW at small p and says nothing (1) where more than about half of the scores lie above t.
Shapes: n held-out scores, m distinct ones. Unit: fraction; delta = 1 - confidence, over the draw of the held-out set.
Source: Bates, Candes, Lei, Romano & Sesia, Annals of Statistics 51(1), 2023, arXiv:2104.08279 (b and h); Sarkar, Annals
of Statistics 36(1), 2008 (the inequality; unchecked); the ties are worked out here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from spherood.calibration.exceedances import SLACK, check_count
from spherood.errors import ConfigError, ShapeError, nearest
from spherood.metrics.fractions import check_fraction
from spherood.metrics.scores import Scores, check_scores

METHODS = ("simes", "dkw")


@dataclass(frozen=True, eq=False)
class Band:
    """The false-alarm rate of "alarm when score > threshold" along all thresholds (m,), ascending."""

    threshold: Scores  # the distinct held-out scores; between two of them the lower one's row holds
    observed: Scores  # share of held-out scores strictly above
    upper: Scores  # of the true rate, for all thresholds at once


def false_alarm_band(held_out_score: Any, confidence: float = 0.95) -> Band:
    """The band of held-out ID scores (n,), higher = more OOD; an array, list or tensor. O(n log n).

    ShapeError unless the scores are 1-D, non-empty and finite; ConfigError unless the confidence lies in (0, 1).
    """
    score = check_scores("false_alarm_band", "held_out_score", held_out_score)
    check_fraction("false_alarm_band", "confidence", confidence)
    n = len(score)
    distinct, count = np.unique(score, return_counts=True)
    above = n - np.cumsum(count)
    return Band(distinct, above / n, simultaneous((1 + above) / (n + 1), n, confidence))


def simultaneous(p_value: Any, n: int, confidence: float = 0.95, method: str = "simes") -> Scores:
    """h(p) (B,) in (0, 1] of conformal p-values (B,) against `n` held-out scores.

    With the confidence, over the draw of the held-out set, P(h(p) <= t) <= t for all t at once for a further ID input:
    the p-values alone promise that on average over held-out sets only. For Simes a p between two multiples of
    1 / (n + 1) counts as the higher one. ShapeError unless p (B,) lies in [0, 1]; ConfigError for an unknown method,
    n < 1 or a confidence outside (0, 1). O(n + B).
    """
    p = check_p_values("simultaneous", p_value)
    count = check_count("simultaneous", "held-out scores", n, least=1)
    delta = 1 - check_fraction("simultaneous", "confidence", confidence)
    if method not in METHODS:
        raise ConfigError(f"simultaneous: there is no method {method!r}. {nearest(str(method), METHODS)}")
    if method == "dkw":
        return np.minimum(1.0, p + math.sqrt(math.log(2 / delta) / (2 * count)))
    j = np.ceil((count + 1) * p * (1 - SLACK)).astype(np.int64)
    bound: Scores = _simes(count, delta)[np.maximum(j, 1) - 1]
    return bound


def check_p_values(where: str, value: Any) -> Scores:
    """`value` as p-values (m,) in [0, 1]; ShapeError, naming `where`, otherwise."""
    p = check_scores(where, "p_value", value)
    wrong = (p < 0) | (p > 1)
    if wrong.any():
        raise ShapeError(
            f"{where}: p_value must lie in [0, 1], got {p[wrong][0]:g} at index {wrong.argmax()}. "
            "Pass p_values(held_out_score, score), not scores."
        )
    return p


def _simes(n: int, delta: float) -> Scores:
    """b_1 .. b_{n+1}. All logarithms have one sign, so their running sum loses no digits."""
    k = max(1, n // 2)  # one score has the bound 1 - delta
    m = np.arange(n, k, -1, dtype=np.float64)
    log_product = np.concatenate([[0.0], np.cumsum(np.log1p(-k / m))])
    bound = np.ones(n + 1)
    bound[: n - k + 1] = -np.expm1((math.log(delta) + log_product) / k)
    return bound
