"""The threshold that keeps a promised false-alarm rate.

    threshold = s_(k), the k-th smallest of n held-out ID scores; alarm when score > threshold, strictly

- "conditional" (the default): k such that, with probability `confidence` over the held-out set, the false-alarm rate on
  further ID images is at most `false_alarm_rate`. It is what someone who calibrates once, and ships, needs.
- "marginal": the usual conformal quantile, k = ceil((n + 1)(1 - false_alarm_rate)). The rate is right on average over
  many held-out sets, and too high for about every second one; `confidence` plays no part.

Both hold for any distribution, as long as held-out and further ID images come from the same source and the held-out
ones took no part in training, fitting or choosing the score. Nothing is promised about OOD that is missed.
Source: exceedances.py has the counting and its references.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from spherood.calibration.exceedances import allowed_exceedances, least_held_out, least_rate
from spherood.errors import CalibrationError
from spherood.metrics.scores import Scores, check_scores


def threshold(
    held_out_score: Any, false_alarm_rate: float = 0.05, confidence: float = 0.95, method: str = "conditional"
) -> float:
    """The threshold, one of the held-out ID scores (n,), which are higher = more OOD; an array, list or tensor.

    ShapeError unless the scores are 1-D, non-empty and finite; CalibrationError, with the number that would do, where
    they are too few; ConfigError unless both shares lie in (0, 1) and `method` is "conditional" or "marginal".
    """
    score = check_scores("Threshold", "held_out_score", held_out_score)
    place = len(score) - exceedances_or_refuse(len(score), false_alarm_rate, confidence, method) - 1  # counted from 0
    partly_sorted: Scores = np.partition(score, place)
    return float(partly_sorted[place])


def exceedances_or_refuse(n: int, false_alarm_rate: float, confidence: float, method: str = "conditional") -> int:
    """How many of n held-out scores may lie above the threshold; CalibrationError, with the way out, if n is too small.

    It needs no score, so a promise that cannot be kept is refused before any work.
    """
    above = allowed_exceedances(n, false_alarm_rate, confidence, method)
    if above is None:
        least = least_held_out(false_alarm_rate, confidence, method)
        possible = _rounded_up(least_rate(n, confidence, method))
        raise CalibrationError(
            f"Threshold: a false-alarm rate of {false_alarm_rate:g} needs at least {least} held-out ID scores, "
            f"got {n}. Collect {least - n} more or ask for {possible}."
        )
    return above


def _rounded_up(rate: float) -> float:
    """A rate in (0, 1) to one significant digit, upwards; to more digits where that would be 1."""
    first = -math.floor(math.log10(rate))
    for digits in range(first, first + 15):
        scale: float = 10.0**digits
        rounded = math.ceil(rate * scale) / scale
        if rounded < 1:
            return rounded
    return rate
