from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.errors import ShapeError
from spherood.metrics import paired_t

numbers = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=12)


def test_two_and_three_differences_worked_out_by_hand() -> None:
    # n = 2: t = 2 / (sqrt 2 / sqrt 2) = 2 with one degree of freedom, a Cauchy law
    assert paired_t([1.0, 3.0]) == pytest.approx(1 - 2 / math.pi * math.atan(2), abs=1e-15)
    # n = 3: t = 2 / (1 / sqrt 3) = sqrt 12; P(|T| < t) = t / sqrt(2 + t^2) with two degrees of freedom
    assert paired_t([1.0, 2.0, 3.0]) == pytest.approx(1 - math.sqrt(12 / 14), abs=1e-15)


@pytest.mark.parametrize("n", range(2, 13))
@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0, 5.0])
def test_it_agrees_with_scipy(n: int, shift: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    difference = np.random.default_rng(n).normal(shift, 1, n)
    assert paired_t(difference) == pytest.approx(stats.ttest_1samp(difference, 0).pvalue, rel=1e-9, abs=1e-14)


@given(difference=numbers)
@settings(derandomize=True, deadline=None)
def test_which_method_came_first_does_not_matter(difference: list[float]) -> None:
    p = paired_t(difference)
    assert 0 <= p <= 1
    assert paired_t([-d for d in difference]) == p


@pytest.mark.parametrize("unit", [1e-300, 100.0, 1e300])
def test_the_unit_does_not_matter(unit: float) -> None:
    difference = np.array([0.3, -0.1, 0.4, 0.2])
    assert paired_t(unit * difference) == pytest.approx(paired_t(difference), rel=1e-12)


def test_5_percent_of_1000_draws_without_a_difference_fall_below_5_percent() -> None:
    rng = np.random.default_rng(0)
    alarms = sum(paired_t(rng.normal(0, 1, 5)) <= 0.05 for _ in range(1000))
    assert 32 <= alarms <= 69  # 99 % of Bin(1000, .05)


def test_no_difference_at_all_is_certain_chance_and_a_constant_one_is_none() -> None:
    assert paired_t([0.0, 0.0, 0.0]) == 1.0
    assert paired_t([0.1, 0.1, 0.1]) == 0.0  # their computed variance is not quite 0
    assert paired_t([-2.0, -2.0]) == 0.0
    assert paired_t([-1.0, 1.0]) == 1.0


def test_ten_thousand_differences_are_no_trouble() -> None:
    difference = np.tile([1.0, -0.98], 5000)  # t = 1.01 or nearly normal: 2 (1 - Phi(1.01)) = .3125
    assert paired_t(difference) == pytest.approx(0.3125, abs=1e-3)


def test_a_single_difference_is_refused_with_the_way_out() -> None:
    with pytest.raises(ShapeError, match=r"paired_t: needs at least 2 differences, got 1\. .* another seed\."):
        paired_t([0.5])
    with pytest.raises(ShapeError, match="paired_t: differences is empty"):
        paired_t([])
    with pytest.raises(ShapeError, match="paired_t: differences holds 1 NaN of 2 scores"):
        paired_t([0.5, math.nan])
