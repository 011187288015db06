"""Two thresholds, so that what is neither clearly known nor clearly foreign goes to a person.

    score > reject: reject;   review < score <= reject: a person looks;   score <= review: accept

Both are training-conditional thresholds, each with half of the allowed failure, so that both promises hold at once:
with probability `confidence` over the held-out set at most `reject_rate` of further ID images are rejected, and at most
`review_rate` are rejected or sent to a person. Where scores tie the two may be equal, and no score lies between them.
Source: thresholds.py twice; the halves add up (Bonferroni).
"""

from __future__ import annotations

from typing import Any

from spherood.calibration.thresholds import threshold
from spherood.errors import ConfigError
from spherood.metrics.fractions import check_fraction


def two_thresholds(
    held_out_score: Any, reject_rate: float = 0.01, review_rate: float = 0.05, confidence: float = 0.95
) -> tuple[float, float]:
    """(reject, review), review <= reject, of held-out ID scores (n,), higher = more OOD; an array, list or tensor.

    ShapeError unless the scores are 1-D, non-empty and finite; CalibrationError, with the number that would do, where
    they are too few; ConfigError unless 0 < reject_rate < review_rate < 1 and the confidence lies in (0, 1).
    """
    lower = check_fraction("two_thresholds", "reject_rate", reject_rate)
    higher = check_fraction("two_thresholds", "review_rate", review_rate)
    if lower >= higher:
        raise ConfigError(
            f"two_thresholds: reject_rate {lower:g} must be below review_rate {higher:g}: what is rejected is more "
            "certain than what a person looks at. Lower reject_rate, or use threshold() for a single one."
        )
    each = (1 + check_fraction("two_thresholds", "confidence", confidence)) / 2
    return threshold(held_out_score, lower, each), threshold(held_out_score, higher, each)
