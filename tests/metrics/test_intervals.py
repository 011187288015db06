from __future__ import annotations

import math
import time
from typing import Any

import pytest

from spherood.errors import ConfigError
from spherood.metrics import clopper_pearson
from spherood.metrics.binomial import log_at_most


@pytest.mark.parametrize(
    ("successes", "trials", "confidence", "low", "high"),
    [
        (0, 1, 0.9, 0.0, 0.95),
        (0, 10, 0.95, 0.0, 1 - 0.025**0.1),
        (10, 10, 0.95, 0.025**0.1, 1.0),
        (1, 2, 0.95, 1 - 0.975**0.5, 0.975**0.5),
        (3, 10, 0.95, 0.0667395111777345, 0.6524528500599972),  # SciPy 1.17, quantiles of the beta law
        (417, 9000, 0.95, 0.0420824304949564, 0.0508808954680460),
        (123456, 1000000, 0.99, 0.1226099485407317, 0.1243056365338556),
        (1, 1000000, 0.95, 2.531780766379e-08, 5.571630655172e-06),
    ],
)
def test_known_intervals(successes: int, trials: int, confidence: float, low: float, high: float) -> None:
    assert clopper_pearson(successes, trials, confidence) == pytest.approx((low, high), rel=1e-9)


def test_hits_and_misses_mirror_each_other() -> None:
    low, high = clopper_pearson(7, 90)
    assert clopper_pearson(83, 90) == pytest.approx((1 - high, 1 - low), abs=1e-14)


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.5])
def test_it_covers_the_true_share_with_at_least_its_confidence(share: float) -> None:
    n, covered = 60, 0.0
    for hits in range(n + 1):
        low, high = clopper_pearson(hits, n, 0.9)
        if low <= share <= high:
            covered += math.exp(log_at_most(hits, n, share)) - math.exp(log_at_most(hits - 1, n, share))
    assert 0.9 <= covered <= 1 + 1e-12


def test_a_million_trials_take_no_time() -> None:
    start = time.perf_counter()
    clopper_pearson(500_000, 1_000_000)
    assert time.perf_counter() - start < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((5, 4), r"5 successes of 4 trials"),
        ((-1, 4), r"-1 successes of 4 trials"),
        ((0, 0), r"0 successes of 0 trials"),
        ((0.5, 4), r"expected whole numbers, got 0\.5 of 4\. Pass counts, not shares\."),
        ((1, 4, 95), r"confidence must lie strictly between 0 and 1, got 95\. For 95 % write 0\.95\."),
        ((1, 4, "0.95"), r"confidence must be a number between 0 and 1, got '0\.95'"),
    ],
)
def test_counts_and_confidences_without_sense_are_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"clopper_pearson: {message}"):
        clopper_pearson(*arguments)
