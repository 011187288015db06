"""The promise itself, on uniform scores: there the false-alarm rate of a threshold t is known, 1 - t."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.calibration import allowed_exceedances, threshold
from spherood.calibration.exceedances import METHODS
from spherood.errors import CalibrationError, ConfigError, ShapeError
from spherood.metrics import clopper_pearson
from spherood.metrics.binomial import log_at_most

DRAWS = 1000


def uniform_draws(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((DRAWS, n))


def breaks(thresholds: list[float], false_alarm_rate: float) -> int:
    return sum(1 - t > false_alarm_rate for t in thresholds)


def band(share: float) -> tuple[float, float]:
    """Where the count of DRAWS coins of this share lies, but for one test in 500 on either side."""
    inside = [k for k in range(DRAWS + 1) if 0.002 < math.exp(log_at_most(k, DRAWS, share)) < 0.998]
    return inside[0], inside[-1] + 1


def test_the_place_of_the_threshold_counted_by_hand() -> None:
    score = np.arange(1, 1001)[::-1]
    assert threshold(score) == 1000 - 38
    assert threshold(score, method="marginal") == 951  # ceil(1001 * .95)
    assert threshold(np.arange(59)) == 58  # the largest of them


def test_the_conditional_threshold_breaks_its_promise_in_one_draw_of_twenty_at_most() -> None:
    draws = uniform_draws(1000)
    broken = breaks([threshold(scores, 0.05, 0.95) for scores in draws], 0.05)
    law = math.exp(log_at_most(38, 1000, 0.05))  # .0465: the largest share not above .05 that 1,000 scores allow
    assert law <= 0.05
    low, high = band(law)
    assert low <= broken <= high


def test_one_order_statistic_further_would_break_the_promise() -> None:
    # 59 scores are the fewest for 5 % at 95 %. The largest as threshold is broken in .95^59 = 4.8 % of the draws,
    # the second largest in 19.9 %.
    draws = uniform_draws(59)
    broken = breaks([threshold(scores, 0.05, 0.95) for scores in draws], 0.05)
    further = breaks([float(np.sort(scores)[-2]) for scores in draws], 0.05)
    assert clopper_pearson(broken, DRAWS, 0.99)[0] <= 0.05 < clopper_pearson(further, DRAWS, 0.99)[0]
    assert band(0.95**59)[0] <= broken <= band(0.95**59)[1]


@pytest.mark.parametrize("n", [59, 100, 500, 1000, 5000])
def test_by_the_exact_law_the_place_is_the_last_that_keeps_the_promise(n: int) -> None:
    above = allowed_exceedances(n, 0.05, 0.95)
    assert above is not None
    assert math.exp(log_at_most(above, n, 0.05)) <= 0.05 < math.exp(log_at_most(above + 1, n, 0.05))


def test_the_marginal_threshold_is_right_on_average_and_broken_in_about_every_second_draw() -> None:
    thresholds = [threshold(scores, 0.05, method="marginal") for scores in uniform_draws(1000)]
    assert 450 <= breaks(thresholds, 0.05) <= 520  # .484 by the beta law
    assert 1 - np.mean(thresholds) == pytest.approx(0.05, abs=4 * math.sqrt(0.05 * 0.95 / 1000 / DRAWS))


def test_one_order_statistic_further_the_marginal_threshold_would_be_wrong_on_average() -> None:
    draws = uniform_draws(59)  # k = 57: rate 3/60 on average; the next lower one 4/60, the next higher one 2/60
    sd = math.sqrt(3 * 57 / (60**2 * 61) / DRAWS)  # of the mean of DRAWS beta(3, 57) rates
    kept = 1 - np.mean([threshold(scores, 0.05, method="marginal") for scores in draws])
    lower, higher = 1 - np.mean(np.sort(draws)[:, [55, 57]], axis=0)
    assert kept == pytest.approx(0.05, abs=4 * sd)
    assert lower > 0.05 + 4 * sd
    assert higher < 0.05 - 4 * sd


def test_where_scores_tie_fewer_alarms_are_raised_never_more() -> None:
    coarse = np.floor(uniform_draws(1000)[:200] * 30) / 30  # values 0, 1/30 .. 29/30, equally often
    rates = [(29 - round(threshold(scores) * 30)) / 30 for scores in coarse]  # P(score > threshold)
    assert np.mean([rate > 0.05 for rate in rates]) <= 0.05
    assert threshold([3.0] * 100) == 3.0  # and nothing is above it


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(60, 200), method=st.sampled_from(METHODS))
@settings(derandomize=True, deadline=None)
def test_order_does_not_matter_and_a_stretched_score_has_the_stretched_threshold(
    seed: int, n: int, method: str
) -> None:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n)
    found = threshold(score, method=method)
    assert threshold(rng.permutation(score), method=method) == found
    assert threshold(np.exp(score), method=method) == np.exp(found)


def test_the_scores_passed_in_stay_in_their_order() -> None:
    score = np.arange(100.0)[::-1].copy()
    threshold(score)
    assert score.tolist() == list(range(99, -1, -1))


def test_a_float32_score_compares_with_its_threshold_exactly() -> None:
    score = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    found = threshold(score)
    assert type(found) is float
    assert int((score > found).sum()) == 38
    assert int((score.numpy() > found).sum()) == 38


def test_too_few_scores_are_told_how_many_are_missing_and_what_is_possible() -> None:
    message = (
        "Threshold: a false-alarm rate of 0.01 needs at least 299 held-out ID scores, got 120. "
        "Collect 179 more or ask for 0.03."
    )
    with pytest.raises(CalibrationError) as caught:
        threshold(np.arange(120), false_alarm_rate=0.01)
    assert str(caught.value) == message


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 9, 10, 18, 58, 99, 298, 1000])
def test_the_rate_on_offer_is_possible_and_the_number_asked_for_is_enough(
    n: int, confidence: float, method: str
) -> None:
    with pytest.raises(CalibrationError) as caught:
        threshold(np.arange(n), 0.0005, confidence, method)
    words = str(caught.value).rstrip(".").split()
    least, more, offer = int(words[words.index("least") + 1]), int(words[words.index("Collect") + 1]), words[-1]
    assert n + more == least
    threshold(np.arange(n), float(offer), confidence, method)
    threshold(np.arange(least), 0.0005, confidence, method)


def test_bad_settings_and_bad_scores_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"Threshold: there is no method 'conditionl'\. Did you mean 'conditional'\?"):
        threshold(np.arange(100), method="conditionl")
    with pytest.raises(ConfigError, match=r"false_alarm_rate must lie strictly between 0 and 1"):
        threshold(np.arange(100), false_alarm_rate=1.0)
    with pytest.raises(ConfigError, match=r"confidence must lie strictly between 0 and 1"):
        threshold(np.arange(100), confidence=0.0)
    with pytest.raises(
        ShapeError, match=r"Threshold: held_out_score holds 1 NaN of 100 scores, the first at index 7\."
    ):
        threshold(np.where(np.arange(100) == 7, np.nan, 0.0))
