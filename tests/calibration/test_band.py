"""The promise of a whole curve, on uniform scores: there the false-alarm rate of a threshold t is known, 1 - t."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.calibration import false_alarm_band, p_values, simultaneous
from spherood.calibration.band import METHODS
from spherood.errors import ConfigError, ShapeError

LEVELS = (0.05, 0.3)


def every_p(n: int) -> Any:
    return np.arange(1, n + 2) / (n + 1)


def in_whole_products(n: int, delta: float) -> list[float]:
    """h at every p, as the paper writes it: the ratio of two products of k whole numbers, exact until the root."""
    k, bounds = n // 2, []
    for j in range(1, n + 2):
        i = n + 1 - j
        ratio = Fraction(math.prod(range(i - k + 1, i + 1)), math.prod(range(n - k + 1, n + 1))) if i >= k else 0
        bounds.append(1 - (delta * float(ratio)) ** (1 / k))
    return bounds


def share_kept(bounds: Any) -> float:
    """P(U_(j) <= bounds_j for all j) of sorted uniform numbers: how many lie below each bound, step by step."""
    n = len(bounds)
    chance, last = np.eye(1, n + 1)[0], 0.0  # chance of c numbers below `last`
    for j, bound in enumerate(bounds, 1):
        share = (bound - last) / (1 - last) if last < 1 else 1.0
        moved = np.zeros(n + 1)
        for c in range(n + 1):
            for more in range(n - c + 1):
                moved[c + more] += chance[c] * math.comb(n - c, more) * share**more * (1 - share) ** (n - c - more)
        moved[:j] = 0  # fewer than j numbers below b_j: broken
        chance, last = moved, bound
    return float(chance.sum())


def test_four_held_out_scores_worked_out_by_hand() -> None:
    # k = 2: h = 1 - sqrt(.05 i (i - 1) / 12) with i = 4, 3, 2, 1, 0 for p = 1/5 .. 5/5
    by_hand = [1 - math.sqrt(0.05), 1 - math.sqrt(0.05 / 2), 1 - math.sqrt(0.05 / 6), 1, 1]
    np.testing.assert_allclose(simultaneous(every_p(4), 4), by_hand, rtol=1e-14)
    dkw = math.sqrt(math.log(20) / 8)  # delta .1
    assert simultaneous([0.2, 0.4], 4, 0.9, "dkw").tolist() == pytest.approx([0.2 + dkw, 1.0], rel=1e-14)


@pytest.mark.parametrize("n", [2, 3, 10, 51, 200])
@pytest.mark.parametrize("delta", LEVELS)
def test_simes_is_the_ratio_of_whole_products(n: int, delta: float) -> None:
    np.testing.assert_allclose(simultaneous(every_p(n), n, 1 - delta), in_whole_products(n, delta), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 25])
@pytest.mark.parametrize("delta", LEVELS)
def test_by_the_exact_law_the_curve_is_broken_in_a_share_delta_of_the_draws(n: int, delta: float) -> None:
    bound = simultaneous(every_p(n), n, 1 - delta)
    assert share_kept(bound[:-1]) == pytest.approx(1 - delta, abs=1e-12)
    assert share_kept(simultaneous(every_p(n), n, 1 - delta, "dkw")[:-1]) >= 1 - delta
    if n > 1:  # with the bounds of the next rank on either side it is another share
        assert share_kept([bound[0], *bound[: n - 1]]) < 1 - delta - 0.04
        assert share_kept(bound[1:]) > 1 - delta + 0.02


def test_the_band_is_broken_anywhere_in_one_draw_of_twenty_and_one_rank_off_in_more() -> None:
    draws, n = 2000, 1000
    broken = one_off = dkw_broken = 0
    dkw = simultaneous(every_p(n), n, method="dkw")
    for score in np.random.default_rng(0).random((draws, n)):
        band = false_alarm_band(score)
        rate = 1 - band.threshold
        broken += bool(np.any(rate > band.upper))
        one_off += bool(np.any(rate[:-1] > band.upper[1:]))  # the bound of the next higher held-out score
        dkw_broken += bool(np.any(rate > dkw[n - 1 :: -1]))
    sd = math.sqrt(0.05 * 0.95 / draws)
    assert broken / draws == pytest.approx(0.05, abs=4 * sd)
    assert one_off / draws > 0.05 + 4 * sd  # 9.3 % of 4,000 other draws
    assert 0 < dkw_broken < broken


def test_where_scores_tie_the_band_still_holds() -> None:
    draws, values = 2000, 8
    broken = one_off = 0
    for score in np.random.default_rng(0).integers(0, values, size=(draws, 40)):
        band = false_alarm_band(score)
        rate = 1 - (band.threshold + 1) / values  # P(S > t), S uniform on 0 .. 7
        broken += bool(np.any(rate > band.upper))
        one_off += bool(np.any(rate[:-1] > band.upper[1:]))
    assert 0 < broken / draws <= 0.05
    assert one_off / draws > 0.05


def test_a_band_with_ties_worked_out_by_hand() -> None:
    band = false_alarm_band([3, 1, 1, 2])
    assert band.threshold.tolist() == [1, 2, 3]
    assert band.observed.tolist() == [0.5, 0.25, 0.0]
    np.testing.assert_array_equal(band.upper, simultaneous([3 / 5, 2 / 5, 1 / 5], 4))


@given(held_out=st.lists(st.integers(-5, 5), min_size=1, max_size=30))
@settings(derandomize=True, deadline=None)
def test_an_alarm_is_raised_exactly_where_the_p_value_is_at_most_that_of_the_threshold(held_out: list[int]) -> None:
    n = len(held_out)
    band = false_alarm_band(held_out)
    score = np.arange(-6, 7)
    for t, above in zip(band.threshold, np.rint(band.observed * n), strict=True):
        np.testing.assert_array_equal(score > t, p_values(held_out, score) <= (1 + above) / (n + 1))


@given(
    n=st.integers(1, 60_000),
    j=st.integers(1, 60_000),
    method=st.sampled_from(METHODS),
    confidence=st.floats(0.01, 0.999),
)
@settings(derandomize=True, deadline=None)
def test_h_rises_stays_above_p_and_falls_with_a_lower_confidence(
    n: int, j: int, method: str, confidence: float
) -> None:
    p = np.array([min(j, n) / (n + 1), (min(j, n) + 0.5) / (n + 1), (min(j, n) + 1) / (n + 1)])
    h = simultaneous(p, n, max(confidence, 0.6), method)
    assert np.all(np.diff(h) >= 0)
    assert np.all((h >= p - 1e-12) & (h <= 1))
    assert np.all(simultaneous(p, n, 0.5, method) <= h)
    if method == "simes":
        assert h[1] == h[2]  # between two ranks, the higher one


def test_no_rank_is_lost_to_rounding() -> None:
    for n in (10, 99, 1000, 50_000):
        assert np.all(np.diff(simultaneous(every_p(n)[: n - n // 2 + 1], n)) > 0)  # every rank its own bound
        spelled_otherwise = 1 - np.arange(n, -1, -1) / (n + 1)
        np.testing.assert_array_equal(simultaneous(spelled_otherwise, n), simultaneous(every_p(n), n))


def test_a_p_value_below_the_smallest_possible_one_counts_as_that() -> None:
    np.testing.assert_array_equal(simultaneous([0.0, 0.001], 9), simultaneous([0.1, 0.1], 9))


def test_fifty_thousand_held_out_scores_are_exact_and_take_no_time() -> None:
    n, k = 50_000, 25_000
    start = time.perf_counter()
    h = simultaneous(every_p(n), n)
    assert time.perf_counter() - start < 0.5
    for j in (1, 2, 500, 20_000):
        log_ratio = math.fsum(math.log1p(-k / m) for m in range(n - j + 2, n + 1))
        assert h[j - 1] == pytest.approx(-math.expm1((math.log(1 - 0.95) + log_ratio) / k), rel=1e-12)


def test_bad_settings_and_bad_p_values_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        simultaneous([0.5], 10, method="sims")
    assert str(caught.value) == "simultaneous: there is no method 'sims'. Did you mean 'simes'?"
    with pytest.raises(ConfigError) as caught:
        simultaneous([0.5], 0)
    assert str(caught.value) == ("simultaneous: expected a number of held-out scores, got 0. Pass a whole number >= 1.")
    with pytest.raises(ConfigError, match=r"^simultaneous: confidence must lie strictly between 0 and 1, got 1\."):
        simultaneous([0.5], 10, confidence=1.0)
    with pytest.raises(ConfigError, match=r"^false_alarm_band: confidence must lie strictly between 0 and 1, got 1\."):
        false_alarm_band([0.5], confidence=1.0)
    with pytest.raises(ShapeError) as wrong:
        simultaneous([0.5, 1.5, -1.0], 10)
    assert str(wrong.value) == (
        "simultaneous: p_value must lie in [0, 1], got 1.5 at index 1. "
        "Pass p_values(held_out_score, score), not scores."
    )
    with pytest.raises(ShapeError, match=r"p_value must lie in \[0, 1\], got -0\.5 at index 0"):
        simultaneous([-0.5], 10)
    with pytest.raises(ShapeError, match=r"^false_alarm_band: held_out_score is empty"):
        false_alarm_band([])
