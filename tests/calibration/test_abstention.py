"""Both promises at once, on uniform scores: there the share above a threshold t is known, 1 - t."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from spherood.calibration import two_thresholds
from spherood.errors import CalibrationError, ConfigError
from spherood.metrics.binomial import log_at_most

DRAWS = 4000


def uniform_draws(n: int) -> Any:
    return np.sort(np.random.default_rng(0).random((DRAWS, n)))


def test_the_places_of_both_counted_by_hand() -> None:
    # At a confidence of .975 each: P(Bin(368, .01) <= 0) = 2.48 %, of 367 it is 2.503 %;
    # P(Bin(368, .05) <= 10) = 2.4 %, <= 11 is 4.5 %.
    assert 0.99**368 <= 0.025 < 0.99**367
    at_most = [math.exp(log_at_most(k, 368, 0.05)) for k in (10, 11)]
    assert at_most[0] <= 0.025 < at_most[1]
    assert two_thresholds(np.arange(1, 369)[::-1]) == (368, 358)


def test_both_promises_hold_together_and_one_rank_further_neither_half_does() -> None:
    n = 368
    draws = uniform_draws(n)
    reject, review = np.array([two_thresholds(score) for score in draws]).T
    reject_broken, review_broken = 1 - reject > 0.01, 1 - review > 0.05
    sd, half_sd = math.sqrt(0.05 * 0.95 / DRAWS), math.sqrt(0.025 * 0.975 / DRAWS)
    assert np.mean(reject_broken | review_broken) <= 0.05
    assert np.mean(reject_broken) == pytest.approx(0.99**n, abs=4 * half_sd)  # each uses up its half
    assert np.mean(review_broken) == pytest.approx(math.exp(log_at_most(10, n, 0.05)), abs=4 * half_sd)
    reject_further, review_further = 1 - draws[:, -2] > 0.01, 1 - draws[:, -12] > 0.05
    assert np.mean(reject_further | review_broken) > 0.05 + 4 * sd  # .117 and more
    assert np.mean(review_further) > 0.025 + 4 * half_sd


def test_the_reject_threshold_is_never_the_lower_one_and_ties_leave_nothing_between() -> None:
    for score in uniform_draws(400)[:100]:
        reject, review = two_thresholds(score)
        assert reject > review
    assert two_thresholds([1.0] * 400) == (1.0, 1.0)


def test_rates_that_do_not_rise_are_refused() -> None:
    for reject_rate in (0.05, 0.2):
        with pytest.raises(ConfigError) as caught:
            two_thresholds(np.arange(400), reject_rate)
        assert str(caught.value) == (
            f"two_thresholds: reject_rate {reject_rate:g} must be below review_rate 0.05: what is rejected is more "
            "certain than what a person looks at. Lower reject_rate, or use threshold() for a single one."
        )
    with pytest.raises(ConfigError, match=r"^two_thresholds: reject_rate must lie strictly between 0 and 1, got 0\."):
        two_thresholds(np.arange(400), 0.0)
    with pytest.raises(ConfigError, match=r"^two_thresholds: review_rate must lie strictly between 0 and 1, got 5\."):
        two_thresholds(np.arange(400), 0.01, 5)
    with pytest.raises(ConfigError, match=r"^two_thresholds: confidence must lie strictly between 0 and 1, got 1\."):
        two_thresholds(np.arange(400), confidence=1)


def test_too_few_scores_are_told_the_number_that_half_the_failure_needs() -> None:
    with pytest.raises(CalibrationError) as caught:
        two_thresholds(np.arange(367))
    assert str(caught.value) == (
        "Threshold: a false-alarm rate of 0.01 needs at least 368 held-out ID scores, got 367. "
        "Collect 1 more or ask for 0.02."
    )
