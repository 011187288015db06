from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from spherood.calibration import allowed_exceedances, expected_rate, least_held_out
from spherood.calibration.exceedances import METHODS, least_rate
from spherood.errors import ConfigError

HELD_OUT = (100, 500, 1_000, 5_000, 10_000, 50_000)
TABLE = {  # at a confidence of .95; None: impossible. Computed elsewhere, from the definition
    0.10: ((4, 38, 84, 464, 950, 4_889), 29),
    0.05: ((1, 16, 38, 224, 463, 2_419), 59),
    0.01: ((None, 1, 4, 38, 83, 463), 299),
    0.001: ((None, None, None, 1, 4, 38), 2_995),
}


@pytest.mark.parametrize("false_alarm_rate", TABLE)
def test_the_published_table_of_allowed_exceedances(false_alarm_rate: float) -> None:
    allowed, least = TABLE[false_alarm_rate]
    assert tuple(allowed_exceedances(n, false_alarm_rate, 0.95) for n in HELD_OUT) == allowed
    assert least_held_out(false_alarm_rate, 0.95) == least


def at_most(k: int, n: int, p: float) -> float:
    return math.fsum(math.comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k + 1))


@given(n=st.integers(0, 120), alpha=st.floats(0.01, 0.95), confidence=st.floats(0.05, 0.999))
@settings(derandomize=True, deadline=None)
def test_conditional_is_the_largest_count_whose_tail_fits(n: int, alpha: float, confidence: float) -> None:
    fitting = [e for e in range(n) if at_most(e, n, alpha) <= 1 - confidence]
    assert allowed_exceedances(n, alpha, confidence) == (fitting[-1] if fitting else None)


@given(n=st.integers(1, 3000), percent=st.integers(1, 99))
@settings(derandomize=True, deadline=None)
def test_marginal_is_the_conformal_quantile_in_whole_numbers(n: int, percent: int) -> None:
    k = -(-(n + 1) * (100 - percent) // 100)  # the ceiling of (n + 1)(1 - alpha), without a rounding
    assert allowed_exceedances(n, percent / 100, method="marginal") == (n - k if k <= n else None)


@given(per_mille=st.integers(1, 999), confidence=st.floats(0.01, 0.999), method=st.sampled_from(METHODS))
@settings(derandomize=True, deadline=None)
def test_the_least_number_allows_the_promise_and_one_less_does_not(
    per_mille: int, confidence: float, method: str
) -> None:
    least = least_held_out(per_mille / 1000, confidence, method)
    assert allowed_exceedances(least, per_mille / 1000, confidence, method) is not None
    assert allowed_exceedances(least - 1, per_mille / 1000, confidence, method) is None


@given(n=st.integers(1, 5000), confidence=st.floats(0.01, 0.999), method=st.sampled_from(METHODS))
@settings(derandomize=True, deadline=None)
def test_the_least_rate_is_possible_and_a_lower_one_is_not(n: int, confidence: float, method: str) -> None:
    rate = least_rate(n, confidence, method)
    assert allowed_exceedances(n, rate, confidence, method) is not None
    assert allowed_exceedances(n, rate * (1 - 1e-6), confidence, method) is None


def test_what_is_equal_on_paper_is_allowed() -> None:
    assert allowed_exceedances(1, 0.9, 0.9) == 0  # P(Bin(1, .9) <= 0) = .1 = 1 - .9, which is a little less in floats
    assert allowed_exceedances(3, 0.5, 0.875) == 0
    assert allowed_exceedances(99, 0.29, method="marginal") == 28  # 100 * .29 is a little less than 29 in floats
    assert least_held_out(1 / 49, method="marginal") == 48  # 1 / (1 / 49) is a little more than 49 in floats
    assert allowed_exceedances(5, 1 - 1e-13, method="marginal") == 4  # and never all of them
    assert least_held_out(0.3, 0.51) == 2  # .7^2 = .49


def test_no_held_out_score_allows_no_promise() -> None:
    assert allowed_exceedances(0, 0.5, 0.5) is None
    assert allowed_exceedances(0, 1 - 1e-13, 1e-13, "marginal") is None
    assert allowed_exceedances(0, 1 - 1e-13, 1e-13, "conditional") is None


def test_a_million_held_out_scores_take_no_time() -> None:
    start = time.perf_counter()
    allowed = allowed_exceedances(1_000_000, 0.05, 0.95)
    assert time.perf_counter() - start < 0.5
    assert allowed == 49_641  # SciPy 1.17, binom.cdf on both sides of it


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"false_alarm_rate": 5}, r"false_alarm_rate must lie strictly between 0 and 1, got 5\. For 5 % write 0\.05\."),
        ({"false_alarm_rate": 0.0}, r"false_alarm_rate must lie strictly between 0 and 1, got 0\."),
        ({"false_alarm_rate": math.nan}, r"false_alarm_rate must lie strictly between 0 and 1, got nan\."),
        ({"confidence": 1.0}, r"confidence must lie strictly between 0 and 1, got 1\."),
        ({"method": "marginl"}, r"there is no method 'marginl'\. Did you mean 'marginal'\?"),
        ({"n": -1}, r"expected a number of held-out scores, got -1\."),
        ({"n": 10.5}, r"expected a number of held-out scores, got 10\.5\."),
    ],
)
def test_settings_without_sense_are_refused(settings_: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        allowed_exceedances(**{"n": 100, "false_alarm_rate": 0.05, **settings_})


def test_the_expected_rate_of_one_held_out_score_is_that_of_a_uniform_number() -> None:
    assert expected_rate(1, 0, 0.9) == pytest.approx((0.5, 0.05, 0.95), rel=1e-12)


def test_the_expected_rate_above_the_largest_score_worked_out_by_hand() -> None:
    n = 59  # P(F <= f) = 1 - (1 - f)^n
    low, high = 1 - 0.975 ** (1 / n), 1 - 0.025 ** (1 / n)
    assert expected_rate(n, 0) == pytest.approx((1 / 60, low, high), rel=1e-12)


@given(n=st.integers(1, 100_000), share=st.floats(0, 1, exclude_max=True), confidence=st.floats(0.01, 0.999))
@settings(derandomize=True, deadline=None)
def test_the_expected_rate_follows_the_beta_law(n: int, share: float, confidence: float) -> None:
    above = int(share * n)
    law = stats.beta(above + 1, n - above)
    expected = expected_rate(n, above, confidence)
    assert expected.mean == pytest.approx(law.mean(), rel=1e-12)
    assert expected.low == pytest.approx(law.ppf((1 - confidence) / 2), rel=1e-8)
    assert expected.high == pytest.approx(law.ppf((1 + confidence) / 2), rel=1e-8)


def test_the_rate_of_drawn_thresholds_falls_into_the_interval_as_often_as_it_says() -> None:
    draws, n, above = 4000, 100, 4
    rate = 1 - np.sort(np.random.default_rng(0).random((draws, n)))[:, n - above - 1]  # uniform scores
    expected = expected_rate(n, above, 0.9)
    sd = math.sqrt(0.05 * 0.95 / draws)
    assert rate.mean() == pytest.approx(expected.mean, rel=0.03)
    assert np.mean(rate < expected.low) == pytest.approx(0.05, abs=4 * sd)
    assert np.mean(rate > expected.high) == pytest.approx(0.05, abs=4 * sd)
    for neighbour in (above - 1, above + 1):  # one rank off and neither end would hold
        other = expected_rate(n, neighbour, 0.9)
        assert abs(np.mean(rate < other.low) - 0.05) > 4 * sd
        assert abs(np.mean(rate > other.high) - 0.05) > 4 * sd


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "expected_rate: expected a number of held-out scores, got 0. Pass a whole number >= 1."),
        ((9, -1), "expected_rate: expected a number of scores above the threshold, got -1. Pass a whole number >= 0."),
        (
            (9, 9),
            "expected_rate: 9 of 9 held-out scores above the threshold, at most 8 can be: the threshold is one of "
            "them. Count score > threshold.",
        ),
        (
            (9, 1, 95),
            "expected_rate: confidence must lie strictly between 0 and 1, got 95. For 95 % write 0.95.",
        ),
    ],
)
def test_an_expected_rate_without_sense_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expected_rate(*arguments)
    assert str(caught.value) == message
