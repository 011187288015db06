"""The tails against sums of whole numbers, which are exact."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from spherood.metrics.binomial import log_at_least, log_at_most


def exactly(k: int, n: int, p: Fraction) -> float:
    """log P(X <= k) without a rounding before the last step."""
    a, b = p.numerator, p.denominator - p.numerator
    ways = sum(math.comb(n, j) * a**j * b ** (n - j) for j in range(k + 1))
    return math.log(ways) - n * math.log(p.denominator)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 40, 300])
@pytest.mark.parametrize("p", [Fraction(1, 1024), Fraction(1, 4), Fraction(1, 2), Fraction(1023, 1024)])
def test_every_tail_equals_the_sum_of_its_terms(n: int, p: Fraction) -> None:
    for k in range(0, n, max(1, n // 12)):
        assert log_at_most(k, n, float(p)) == pytest.approx(exactly(k, n, p), rel=1e-11, abs=1e-11)
        assert log_at_least(n - k, n, float(1 - p)) == pytest.approx(exactly(k, n, p), rel=1e-11, abs=1e-11)


def test_a_million_coins_are_symmetric_to_the_last_digits() -> None:
    n = 1_000_000
    half = 0.5 * (1 + math.exp(math.lgamma(n + 1) - 2 * math.lgamma(n / 2 + 1) - n * math.log(2)))
    assert math.exp(log_at_most(n // 2, n, 0.5)) == pytest.approx(half, rel=1e-9)
    assert log_at_most(n // 2 - 1, n, 0.5) == pytest.approx(log_at_least(n // 2 + 1, n, 0.5), abs=1e-12)
    both = math.exp(log_at_most(n // 2 - 700, n, 0.5)) + math.exp(log_at_least(n // 2 - 699, n, 0.5))
    assert both == pytest.approx(1, abs=1e-12)


def test_beyond_the_ends_there_is_nothing_or_all() -> None:
    assert (log_at_most(-1, 5, 0.3), log_at_most(5, 5, 0.3)) == (-math.inf, 0.0)
    assert (log_at_least(6, 5, 0.3), log_at_least(0, 5, 0.3)) == (-math.inf, 0.0)
