"""From scores to yes, no and perhaps, as a bundle's promise says it: one threshold, or one per predicted class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spherood import calibration
from spherood.bundle.manifest import Promise
from spherood.errors import ConfigError
from spherood.metrics.scores import Scores

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """The rule of one promise at one false-alarm rate, and how new scores (B,) of classes (B,) fare by it."""

    promise: Promise
    held_out_score: Scores  # (n,), sorted where classes play no part
    held_out_class: Classes | None  # (n,), predicted; where thresholds go by class
    rate: float
    reject: calibration.GroupThresholds | float
    review: calibration.GroupThresholds | float | None

    def thresholds(self, class_: Classes) -> Scores:
        """(B,); alarm when score > threshold, strictly."""
        return _of(self.reject, class_)

    def needs_review(self, score: Scores, class_: Classes) -> NDArray[np.bool_]:
        """(B,): no alarm, and yet above the threshold of the review rate."""
        if self.review is None:
            return np.zeros(len(score), dtype=np.bool_)
        seen: NDArray[np.bool_] = (score > _of(self.review, class_)) & (score <= self.thresholds(class_))
        return seen

    def p_values(self, score: Scores, class_: Classes) -> Scores:
        """(B,), against the held-out scores of each one's class where thresholds go by class."""
        if self.held_out_class is None:
            return calibration.p_values(self.held_out_score, score)
        least = calibration.least_held_out(self.rate, self.promise.each)
        return calibration.group_p_values(self.held_out_score, self.held_out_class, score, class_, least)


def decide(
    promise: Promise, held_out_score: Scores, held_out_class: Classes | None, false_alarm_rate: float | None = None
) -> Decision:
    """The rule; CalibrationError where the held-out scores are too few for another rate than the promised one.

    ConfigError for a rate at or above the review rate.
    """
    rate = promise.false_alarm_rate if false_alarm_rate is None else false_alarm_rate
    if promise.review_rate is not None and rate >= promise.review_rate:
        raise ConfigError(
            f"a false-alarm rate of {rate:g} must be below the review rate of {promise.review_rate:g}: what is "
            "rejected is more certain than what a person looks at."
        )
    groups = held_out_class if promise.by_class else None

    def threshold(at: float) -> calibration.GroupThresholds | float:
        if groups is None:
            return calibration.threshold(held_out_score, at, promise.each)
        return calibration.group_thresholds(held_out_score, groups, at, promise.each)

    kept = np.sort(held_out_score) if groups is None else held_out_score
    review = None if promise.review_rate is None else threshold(promise.review_rate)
    return Decision(promise, kept, groups, rate, threshold(rate), review)


def _of(threshold: calibration.GroupThresholds | float, class_: Classes) -> Scores:
    return np.full(len(class_), threshold) if isinstance(threshold, float) else threshold.of(class_)
