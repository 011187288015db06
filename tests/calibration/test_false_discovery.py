"""Batches that share one held-out set; ID scores are uniform on (0, 1), OOD scores lie higher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.calibration import discoveries, least_discoveries, null_share, p_values
from spherood.calibration.false_discovery import discovery_cut
from spherood.errors import CalibrationError, ConfigError, ShapeError

DRAWS = 4000
N, M, RATE = 199, 10, 0.1  # (n + 1) rate / m = 2: the lines of the procedure are p-values, and the bound is met exactly

p_lists = st.lists(st.integers(1, 40).map(lambda j: j / 40), min_size=1, max_size=25)


def test_four_p_values_worked_out_by_hand() -> None:
    # lines at rate .1: .025, .05, .075, .1. The second passes, so the first is flagged too, though above its own line.
    assert discoveries([0.04, 0.9, 0.03, 0.08]).tolist() == [True, False, True, False]
    assert discoveries([0.03, 0.06, 0.08, 0.11]).tolist() == [False] * 4
    # half of them ID: lines .05, .1, .15, .2
    assert discoveries([0.03, 0.06, 0.08, 0.11], null_share=0.5).tolist() == [True] * 4
    assert discoveries([0.03, 0.06, 0.08, 0.11], rate=0.2).tolist() == [True] * 4


@given(p=p_lists, percent=st.integers(1, 99))
@settings(derandomize=True, deadline=None)
def test_it_is_what_trying_every_number_of_flags_gives(p: list[float], percent: int) -> None:
    def holds(flags: int) -> bool:  # 40 p m 100 <= percent flags 40, in whole numbers
        line = percent * flags * 40
        return sum(round(40 * one) * 100 * len(p) <= line for one in p) >= flags

    most = max((flags for flags in range(1, len(p) + 1) if holds(flags)), default=0)
    flagged = discoveries(p, percent / 100)
    assert flagged.sum() == most
    assert sorted(p)[:most] == sorted(np.array(p)[flagged])


def test_what_is_equal_on_paper_is_flagged() -> None:
    assert 3 * 0.1 > 0.3
    assert discoveries([3 * 0.1], 0.3).tolist() == [True]


def false_discovery_rate(
    p_of: Callable[[Any, Any], Any], foreign: int, levels: int | None = None
) -> tuple[float, float]:
    """Mean share of ID among what is flagged, and its standard error."""
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(DRAWS):
        held_out, batch = rng.random(N), np.concatenate([rng.random(M - foreign), 0.97 + 0.1 * rng.random(foreign)])
        if levels:
            held_out, batch = np.floor(held_out * levels), np.floor(batch * levels)
        flagged = discoveries(p_of(held_out, batch), RATE)
        shares.append(flagged[: M - foreign].sum() / max(1, flagged.sum()))
    return float(np.mean(shares)), float(np.std(shares)) / math.sqrt(DRAWS)


def one_rank_lower(held_out: Any, score: Any) -> Any:
    return p_values(held_out, score) - 1 / (N + 1)


@pytest.mark.parametrize("foreign", [0, 2, 4])
def test_the_false_discovery_rate_is_kept_and_one_rank_lower_it_is_not(foreign: int) -> None:
    id_share = (M - foreign) / M
    rate, error = false_discovery_rate(p_values, foreign)
    assert rate == pytest.approx(id_share * RATE, abs=4 * error)  # pi0 * rate, met exactly
    rate, error = false_discovery_rate(one_rank_lower, foreign)
    assert rate > id_share * RATE + 4 * error


def test_where_scores_tie_the_rate_is_kept() -> None:
    rate, _ = false_discovery_rate(p_values, foreign=3, levels=50)
    assert 0.02 < rate <= 0.7 * RATE


def test_with_the_estimated_share_of_id_more_is_flagged_and_the_rate_is_kept() -> None:
    rng = np.random.default_rng(0)
    foreign, m = 24, 40
    false, true, true_plain = [], [], []
    for _ in range(DRAWS // 2):
        batch = np.concatenate([rng.random(m - foreign), 0.9 + 0.2 * rng.random(foreign)])
        p = p_values(rng.random(N), batch)
        flagged = discoveries(p, RATE, null_share(p))
        false.append(flagged[:-foreign].sum() / max(1, flagged.sum()))
        true.append(flagged[-foreign:].sum())
        true_plain.append(discoveries(p, RATE)[-foreign:].sum())
    assert np.mean(false) == pytest.approx(RATE, abs=3 * np.std(false) / math.sqrt(len(false)))  # nearly all used up
    assert np.mean(true) > np.mean(true_plain) + 1


def test_the_share_of_id_worked_out_by_hand() -> None:
    assert null_share([0.1, 0.2, 0.5, 0.6, 0.01, 0.02, 0.03, 0.04]) == 2 / 4  # one above .5, and one for safety
    assert null_share([0.01] * 9 + [0.85], cut=0.6) == pytest.approx(2 / 4)
    assert null_share([0.9, 0.8]) == 1.0  # 3 of 1


def test_the_share_of_id_is_on_average_not_too_low() -> None:
    rng = np.random.default_rng(0)
    estimates = []
    for _ in range(1000):
        batch = np.concatenate([rng.random(40), 0.99 + 0.1 * rng.random(60)])
        estimates.append(null_share(p_values(rng.random(N), batch)))
    assert 0.4 <= np.mean(estimates) <= 0.45


def test_the_fewest_discoveries_counted_by_hand() -> None:
    assert least_discoveries(999, 10_000) == 100  # 1/1000 <= .1 R / 10000
    assert least_discoveries(1_000, 10_000) == 100  # 99.9, upwards
    assert least_discoveries(10_000, 10) == 1
    assert least_discoveries(9, 7) == 7  # the smallest p is .1: all of them or none
    assert least_discoveries(99, 29, 0.29) == 1  # equal on paper; .29 * 100 is a little less than 29 in floats


@given(n=st.integers(1, 500), m=st.integers(1, 60), percent=st.integers(1, 99))
@settings(derandomize=True, deadline=None)
def test_fewer_inputs_above_all_held_out_scores_are_not_flagged_and_so_many_are(n: int, m: int, percent: int) -> None:
    rate = percent / 100

    def flagged(foreign: int) -> int:
        score = np.where(np.arange(m) < foreign, n + 1.0, 0.0)
        return int(discoveries(p_values(np.arange(1, n + 1), score), rate).sum())

    try:
        least = least_discoveries(n, m, rate)
    except CalibrationError:
        assert flagged(m) == 0
    else:
        assert flagged(least) >= least
        assert least == 1 or flagged(least - 1) == 0


def test_too_few_held_out_scores_are_told_before() -> None:
    with pytest.raises(CalibrationError) as caught:
        least_discoveries(5, 100)
    assert str(caught.value) == (
        "least_discoveries: a false-discovery rate of 0.1 needs at least 9 held-out ID scores, got 5. "
        "Collect 4 more or ask for 1/6."
    )
    assert least_discoveries(5, 100, 1 / 6) == 100
    with pytest.raises(
        CalibrationError, match=r"at least 9 held-out ID scores, got 8\. Collect 1 more or ask for 1/9\."
    ):
        least_discoveries(8, 100)


def test_bad_settings_and_bad_p_values_are_refused() -> None:
    for share in (0.0, 1.01, math.nan):
        with pytest.raises(ConfigError) as caught:
            discoveries([0.5], null_share=share)
        assert str(caught.value) == (
            f"discoveries: null_share must be above 0 and at most 1, got {share}. Pass null_share(p_value), or 1."
        )
    with pytest.raises(ConfigError, match=r"^discoveries: rate must lie strictly between 0 and 1, got 10\."):
        discoveries([0.5], rate=10)
    with pytest.raises(ConfigError, match=r"^null_share: cut must lie strictly between 0 and 1, got 1\."):
        null_share([0.5], cut=1)
    with pytest.raises(ConfigError, match=r"^least_discoveries: rate must lie strictly between 0 and 1, got 0\."):
        least_discoveries(10, 10, 0)
    with pytest.raises(ConfigError, match=r"^least_discoveries: expected a number of held-out scores, got 0\."):
        least_discoveries(0, 10)
    with pytest.raises(ConfigError, match=r"^least_discoveries: expected a number of inputs, got 0\."):
        least_discoveries(10, 0)
    with pytest.raises(ShapeError, match=r"^discoveries: p_value must lie in \[0, 1\], got 2 at index 1\."):
        discoveries([0.5, 2.0])
    with pytest.raises(ShapeError, match=r"^null_share: p_value is empty"):
        null_share([])


@given(counts=st.lists(st.just(0) | st.integers(0, 6), min_size=2, max_size=40), percent=st.integers(1, 99))
@settings(derandomize=True, deadline=None)
def test_counting_the_p_values_gives_the_flags_that_all_of_them_give(counts: list[int], percent: int) -> None:
    rate, cut = percent / 100, discovery_cut(counts, percent / 100)
    if not any(counts):
        assert cut == 0
        return
    p = np.repeat(np.arange(1, len(counts) + 1) / len(counts), counts)
    flagged = discoveries(p, rate)
    assert (p <= cut).tolist() == flagged.tolist()
    assert cut == p[flagged].max(initial=0)


def test_the_cut_worked_out_by_hand() -> None:
    # 10 inputs against 9 held-out scores; lines at rate .3: .03 for each input up to it
    assert discovery_cut([3, 0, 0, 0, 0, 0, 0, 0, 0, 7], 0.3) == 0  # .1 > .09
    assert discovery_cut([4, 0, 0, 0, 0, 0, 0, 0, 0, 6], 0.3) == 0.1  # .1 <= .12
    assert discovery_cut([4, 3, 0, 0, 0, 0, 0, 0, 0, 3], 0.3) == 0.2  # .2 <= .21
    assert discovery_cut([0, 7, 0, 0, 0, 0, 0, 0, 0, 3], 0.3) == 0.2
    assert discovery_cut([0] * 9 + [10], 0.3) == 0
    assert discovery_cut([0] * 10, 0.3) == 0
    assert discovery_cut([4, 0, 0, 0, 0, 0, 0, 0, 0, 6], 0.5) == 0.1  # .2 <= .2, but no input has it
    assert 0.6 / 3 < 1 / 5
    assert discovery_cut([1, 0, 0, 0, 2], 0.6) == 0.2  # equal on paper


def test_more_inputs_than_a_32_bit_number_holds_are_counted() -> None:
    counts = np.full(4, 2**31 - 1, dtype=np.int32)
    counts[1:3] = 0
    assert discovery_cut(counts, 0.5) == 0.25


def test_counts_that_are_none_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        discovery_cut([3, -1, 2])
    assert str(caught.value) == (
        "discovery_cut: counts must be >= 0, got -1 at index 1. Count how many inputs have each p-value."
    )
    with pytest.raises(
        ShapeError, match=r"^discovery_cut: expected counts \(N,\) of whole numbers, got dtype float64\."
    ):
        discovery_cut([0.5, 1.0])
    with pytest.raises(ConfigError, match=r"^discovery_cut: rate must lie strictly between 0 and 1, got 10\."):
        discovery_cut([1, 2], rate=10)
