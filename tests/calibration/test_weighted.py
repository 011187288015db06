"""A shift that is known: held-out x is uniform on (0, 1), new x has the density 2 x, so w(x) = 2 x."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.calibration import effective_sample_size, p_values, weighted_p_values
from spherood.errors import CalibrationError, ShapeError

tying = st.lists(st.tuples(st.integers(-5, 5), st.integers(1, 8)), min_size=1, max_size=30)


def test_three_held_out_scores_worked_out_by_hand() -> None:
    p = weighted_p_values([1.0, 3.0, 2.0], [1.0, 4.0, 3.0], [0.0, 2.0, 2.5, 9.0], [2.0, 2.0, 2.0, 2.0])
    np.testing.assert_allclose(p, [10 / 10, 9 / 10, 6 / 10, 2 / 10], rtol=1e-15)
    np.testing.assert_allclose(weighted_p_values([1.0, 3.0], [1.0, 3.0], [2.0, 2.0], [4.0, 0.0]), [7 / 8, 3 / 4])


@given(held_out=tying, new=tying)
@settings(derandomize=True, deadline=None)
def test_it_is_what_adding_one_by_one_gives(held_out: list[tuple[int, int]], new: list[tuple[int, int]]) -> None:
    (s, w), (score, own) = zip(*held_out, strict=True), zip(*new, strict=True)
    naive = [
        (sum(wi for si, wi in held_out if si >= here) + mine) / (sum(w) + mine)
        for here, mine in zip(score, own, strict=True)
    ]
    np.testing.assert_allclose(weighted_p_values(s, w, score, own), naive, rtol=1e-14)


@given(held_out=tying, new=tying)
@settings(derandomize=True, deadline=None)
def test_equal_weights_give_the_plain_p_values_and_a_common_factor_changes_nothing(
    held_out: list[tuple[int, int]], new: list[tuple[int, int]]
) -> None:
    (s, w), (score, own) = zip(*held_out, strict=True), zip(*new, strict=True)
    equal = weighted_p_values(s, [0.3] * len(s), score, [0.3] * len(score))
    np.testing.assert_array_equal(equal, p_values(s, score))
    p = weighted_p_values(s, w, score, own)
    for factor in (1e-300, 1e307):
        scaled = weighted_p_values(s, factor * np.array(w), score, factor * np.array(own))
        np.testing.assert_allclose(scaled, p, rtol=1e-13)


def test_a_weight_of_zero_is_a_score_left_out() -> None:
    score, own = [0.5, 1.5, 2.5], [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(
        weighted_p_values([1.0, 2.0, 3.0], [2.0, 0.0, 4.0], score, own),
        weighted_p_values([1.0, 3.0], [2.0, 4.0], score, own),
    )
    assert weighted_p_values([1.0, 2.0], [1.0, 1.0], [3.0], [0.0]).tolist() == [0.0]


def shifted_draws(draws: int, n: int) -> tuple[Any, Any, Any, Any]:
    """Held-out scores and weights (draws, n), one new score and weight (draws,); the score rises with x, with noise."""
    rng = np.random.default_rng(0)
    x, new = rng.random((draws, n)), np.sqrt(rng.random(draws))
    return x + 0.5 * rng.random(x.shape), 2 * x, new + 0.5 * rng.random(draws), 2 * new


def test_under_the_known_shift_the_promise_holds_and_one_rank_lower_or_unweighted_it_does_not() -> None:
    draws, n = 10_000, 39
    held_out, weight, score, own = shifted_draws(draws, n)
    kept, lower, plain = np.empty(draws), np.empty(draws), np.empty(draws)
    for i in range(draws):
        one = (held_out[i], weight[i], score[i : i + 1], own[i : i + 1])
        kept[i] = weighted_p_values(*one)[0]
        plain[i] = p_values(one[0], one[2])[0]
        above = np.flatnonzero(held_out[i] >= score[i])
        nearest = above[np.argmin(held_out[i][above])] if len(above) else None
        # one held-out score fewer counts as at least this one; above them all, not even the new one itself
        missing = own[i] if nearest is None else weight[i][nearest]
        lower[i] = kept[i] - missing / (weight[i].sum() + own[i])
    for t in (0.1, 0.2, 0.5):
        sd = math.sqrt(t * (1 - t) / draws)
        assert t - 2 / n < np.mean(kept <= t) <= t + 3 * sd
        assert np.mean(lower <= t) > t + 3 * sd
        assert np.mean(plain <= t) > t + 3 * sd


def test_where_scores_tie_the_promise_holds_under_the_shift() -> None:
    draws = 5_000
    held_out, weight, score, own = shifted_draws(draws, 39)
    p = np.array(
        [
            weighted_p_values(np.floor(6 * held_out[i]), weight[i], np.floor(6 * score[i : i + 1]), own[i : i + 1])[0]
            for i in range(draws)
        ]
    )
    for t in (0.1, 0.2, 0.5):
        assert np.mean(p <= t) <= t


def test_the_effective_sample_size_worked_out_by_hand() -> None:
    assert effective_sample_size([3.0, 1.0]) == pytest.approx(16 / 10, rel=1e-15)
    assert effective_sample_size([0.7] * 12) == pytest.approx(12, rel=1e-15)
    assert effective_sample_size([0.0, 0.0, 5.0]) == 1.0
    assert effective_sample_size([3e300, 1e300]) == pytest.approx(16 / 10, rel=1e-15)
    assert effective_sample_size([3e-300, 1e-300]) == pytest.approx(16 / 10, rel=1e-15)


def test_a_million_scores_take_no_loop() -> None:
    rng = np.random.default_rng(0)
    s, w = rng.random(200_000), rng.random(200_000)
    p = weighted_p_values(s, w, s, w)
    assert p.max() == 1.0
    assert p.min() == pytest.approx(2 * w[s.argmax()] / (w.sum() + w[s.argmax()]), rel=1e-9)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_weights_that_are_no_ratio_are_refused(wrong: float) -> None:
    words = (
        "that are negative, NaN or infinite, the first at index 1. A weight is a ratio of densities, finite and >= 0."
    )
    with pytest.raises(ShapeError) as caught:
        weighted_p_values([1.0, 2.0, 3.0], [1.0, wrong, wrong], [1.0], [1.0])
    assert str(caught.value) == f"weighted_p_values: weight holds 2 of 3 {words}"
    with pytest.raises(ShapeError) as caught:
        weighted_p_values([1.0], [1.0], [1.0, 2.0], [1.0, wrong])
    assert str(caught.value) == f"weighted_p_values: own_weight holds 1 of 2 {words}"
    with pytest.raises(ShapeError) as caught:
        effective_sample_size([1.0, wrong])
    assert str(caught.value) == f"effective_sample_size: weight holds 1 of 2 {words}"


def test_weights_that_are_all_zero_say_what_to_collect() -> None:
    words = (
        "all 2 weights are 0: no held-out image is of a kind that occurs now. "
        "Collect held-out images of the shifted source."
    )
    with pytest.raises(CalibrationError) as caught:
        weighted_p_values([1.0, 2.0], [0.0, 0.0], [1.0], [1.0])
    assert str(caught.value) == f"weighted_p_values: {words}"
    with pytest.raises(CalibrationError) as caught:
        effective_sample_size([0, 0])
    assert str(caught.value) == f"effective_sample_size: {words}"


def test_one_weight_per_score_and_both_finite() -> None:
    with pytest.raises(ShapeError) as caught:
        weighted_p_values([1.0, 2.0], [1.0], [1.0], [1.0])
    assert str(caught.value) == "weighted_p_values: 2 scores and 1 in weight. Pass one weight per score."
    with pytest.raises(ShapeError) as caught:
        weighted_p_values([1.0, 2.0], [1.0, 1.0], [1.0], [1.0, 1.0])
    assert str(caught.value) == "weighted_p_values: 1 scores and 2 in own_weight. Pass one weight per score."
    with pytest.raises(ShapeError, match=r"^weighted_p_values: score holds 1 NaN of 1 scores"):
        weighted_p_values([1.0], [1.0], [math.nan], [1.0])
