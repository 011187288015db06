"""The promise per group. Scores of group g are uniform on (g, g + 1): there the rate of a threshold t is g + 1 - t."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.calibration import GroupThresholds, group_p_values, group_thresholds, p_values, threshold
from spherood.errors import CalibrationError, ConfigError, ShapeError
from spherood.metrics.binomial import log_at_most

DRAWS = 1000
SIZES = {0: 59, 1: 93, 2: 30, 3: 30}  # for 5 % at 95 %: 59 allow none above, 93 one, groups 2 and 3 together none
GROUP = np.repeat(list(SIZES), list(SIZES.values()))


def draws(seed: int = 0) -> Any:
    return GROUP + np.random.default_rng(seed).random((DRAWS, len(GROUP)))


def rate(group: int, t: Any) -> Any:
    return np.clip(group + 1 - t, 0, 1)


def test_thresholds_and_p_values_worked_out_by_hand() -> None:
    # 50 % at 75 % confidence needs two scores, none above: the larger one. Groups 4 and 9 have one each.
    score, group = [1.0, 2.0, 8.0, 9.0, 5.0], [7, 7, 4, 9, 7]
    found = group_thresholds(score, group, 0.5, 0.75)
    assert found == GroupThresholds({7: 5.0}, 9.0, (4, 9), "small groups")
    assert found.of([4, 7, 7, 9, 1000, -3]).tolist() == [9.0, 5.0, 5.0, 9.0, 9.0, 9.0]
    p = group_p_values(score, group, [1.5, 1.5, 8.5, 8.5], [7, 4, 9, 1000], least=2)
    np.testing.assert_allclose(p, [3 / 4, 3 / 3, 2 / 3, 2 / 3], rtol=1e-15)


def test_small_groups_that_are_too_few_together_share_the_threshold_of_all() -> None:
    score, group = [1.0, 2.0, 8.0, 5.0], [7, 7, 4, 7]
    assert group_thresholds(score, group, 0.5, 0.75) == GroupThresholds({7: 5.0}, 8.0, (4,), "all")
    p = group_p_values(score, group, [4.5, 4.5, 4.5], [7, 4, 0], least=2)
    np.testing.assert_allclose(p, [2 / 4, 3 / 5, 3 / 5], rtol=1e-15)


def test_where_no_group_is_small_a_group_never_seen_gets_the_threshold_of_all() -> None:
    score, group = [1.0, 2.0, 8.0, 5.0], [7, 7, 4, 4]
    found = group_thresholds(score, group, 0.5, 0.75)
    assert found == GroupThresholds({4: 8.0, 7: 2.0}, 8.0, (), "all")
    assert found.of([7, 5]).tolist() == [2.0, 8.0]
    np.testing.assert_allclose(group_p_values(score, group, [4.5], [5], least=2), [3 / 5])


def test_every_threshold_is_of_the_method_asked_for() -> None:
    # 30 % on average needs three scores, none above; at 95 % confidence all five would be too few
    found = group_thresholds([1.0, 2.0, 8.0, 9.0, 5.0], [7, 7, 4, 9, 7], 0.3, method="marginal")
    assert found == GroupThresholds({7: 5.0}, 9.0, (4, 9), "all")


def test_where_every_group_is_small_all_share() -> None:
    score, group = [1.0, 2.0, 8.0], [1, 2, 3]
    assert group_thresholds(score, group, 0.5, 0.75) == GroupThresholds({}, 8.0, (1, 2, 3), "small groups")


def test_every_group_breaks_its_promise_in_one_draw_of_twenty_at_most_and_one_rank_further_in_more() -> None:
    scores = draws()
    found = [group_thresholds(score, GROUP) for score in scores]
    assert {(tuple(one.own), one.pooled_groups, one.pooled_from) for one in found} == {((0, 1), (2, 3), "small groups")}
    sd = math.sqrt(0.05 * 0.95 / DRAWS)
    for group, above in ((0, 0), (1, 1)):
        law = math.exp(log_at_most(above, SIZES[group], 0.05))
        broken = np.mean([rate(group, one.own[group]) > 0.05 for one in found])
        assert law <= 0.05
        assert broken == pytest.approx(law, abs=4 * sd)
        further = np.sort(scores[:, group == GROUP])[:, -2 - above]
        assert np.mean(rate(group, further) > 0.05) > 0.05 + 4 * sd


def test_the_shared_threshold_keeps_its_promise_over_the_small_groups_together_and_in_none_of_them() -> None:
    scores = draws() - np.where(GROUP == 3, 0.9, 0)  # groups 2 and 3 overlap: (2, 3) and (2.1, 3.1)
    pooled = np.array([group_thresholds(score, GROUP).pooled for score in scores])

    def together(t: Any) -> Any:
        return (rate(2, t) + rate(2.1, t)) / 2

    assert np.mean(together(pooled) > 0.05) <= 0.05
    further = np.sort(scores[:, GROUP >= 2])[:, -2]
    assert np.mean(together(further) > 0.05) > 0.05 + 4 * math.sqrt(0.05 * 0.95 / DRAWS)
    assert np.mean(rate(2.1, pooled) > 0.05) > 0.2


def test_the_threshold_of_all_promises_nothing_to_a_small_group() -> None:
    group = np.repeat([0, 1], [400, 10])
    score = group + np.random.default_rng(0).random(410)
    found = group_thresholds(score, group)
    assert (found.pooled_groups, found.pooled_from) == ((1,), "all")
    assert found.pooled == threshold(score)
    assert rate(1, found.of([1])[0]) == 1.0  # every image of it is an alarm


def test_where_scores_tie_a_group_keeps_its_promise() -> None:
    coarse = np.floor(draws()[:300] * 30) / 30  # in each group 30 values, equally often
    for group in (0, 1):
        rates = [
            group + (29 - round(group_thresholds(score, GROUP).own[group] * 30 - 30 * group)) / 30 for score in coarse
        ]
        assert np.mean(np.array(rates) - group > 0.05) <= 0.05


def test_the_marginal_method_is_right_on_average_in_every_group() -> None:
    found = [group_thresholds(score, GROUP, method="marginal") for score in draws()]
    for group, n in SIZES.items():
        k = math.ceil((n + 1) * 0.95)
        rates = np.array([rate(group, one.of([group])[0]) for one in found])
        assert rates.mean() == pytest.approx((n + 1 - k) / (n + 1), abs=4 * rates.std() / math.sqrt(DRAWS))


def test_a_p_value_falls_below_t_in_a_share_t_of_the_draws_in_every_group_and_one_rank_lower_in_more() -> None:
    rng = np.random.default_rng(1)
    group, n = np.repeat([0, 1], [19, 39]), {0: 19, 1: 39}
    draws_, t = 4000, 0.1  # a multiple of 1/20 and 1/40, where the bound is met exactly
    p = np.array(
        [
            group_p_values(group + rng.random(58), group, np.arange(2) + rng.random(2), [0, 1], least=19)
            for _ in range(draws_)
        ]
    )
    sd = math.sqrt(t * (1 - t) / draws_)
    for g in (0, 1):
        assert np.mean(p[:, g] <= t) == pytest.approx(t, abs=4 * sd)
        assert np.mean(p[:, g] - 1 / (n[g] + 1) <= t) > t + 4 * sd


@given(
    held_out=st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 4)), min_size=1, max_size=40),
    new=st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 6)), min_size=1, max_size=10),
    least=st.integers(1, 12),
)
@settings(derandomize=True, deadline=None)
def test_p_values_are_what_counting_one_by_one_gives(
    held_out: list[tuple[int, int]], new: list[tuple[int, int]], least: int
) -> None:
    (s, y), (score, group) = zip(*held_out, strict=True), zip(*new, strict=True)
    least = min(least, len(s))
    rest = [si for si, yi in held_out if y.count(yi) < least]
    naive = []
    for here, mine in new:
        own = [si for si, yi in held_out if yi == mine]
        against = own if len(own) >= least else rest if len(rest) >= least else list(s)
        naive.append((1 + sum(si >= here for si in against)) / (len(against) + 1))
    np.testing.assert_array_equal(group_p_values(s, y, score, group, least), naive)


def test_one_group_is_the_plain_threshold_and_the_plain_p_value() -> None:
    rng = np.random.default_rng(0)
    score, new = rng.normal(size=500), rng.normal(size=50)
    assert group_thresholds(score, np.zeros(500, int), 0.02, 0.9).of([0]) == threshold(score, 0.02, 0.9)
    p = group_p_values(score, np.zeros(500, int), new, np.zeros(50, int), least=500)
    np.testing.assert_array_equal(p, p_values(score, new))


def test_order_does_not_matter_and_integers_of_any_kind_will_do() -> None:
    score = draws()[0]
    turn = np.random.default_rng(0).permutation(len(score))
    found = group_thresholds(score, GROUP)
    assert group_thresholds(score[turn], torch.tensor(GROUP[turn], dtype=torch.int32)) == found
    assert group_thresholds(score, GROUP.astype(np.uint8)) == found
    np.testing.assert_array_equal(found.of(torch.tensor([3, 1])), [found.pooled, found.own[1]])
    new, group = np.arange(8) / 2, np.arange(8) % 5
    np.testing.assert_array_equal(
        group_p_values(score, GROUP, new, group, 59),
        group_p_values(score[turn], GROUP[turn].astype(np.uint8), new[::-1], group[::-1].astype(np.int16), 59)[::-1],
    )


def test_too_few_scores_in_all_groups_together_are_told_how_many_are_missing() -> None:
    with pytest.raises(CalibrationError) as caught:
        group_thresholds(np.arange(40), np.arange(40) % 2)
    assert str(caught.value) == (
        "Threshold: a false-alarm rate of 0.05 needs at least 59 held-out ID scores, got 40. "
        "Collect 19 more or ask for 0.08."
    )
    with pytest.raises(CalibrationError) as caught:
        group_p_values(np.arange(40), np.arange(40) % 2, [1.0], [0], least=41)
    assert str(caught.value) == (
        "group_p_values: a group needs at least 41 held-out ID scores, all groups together have 40. "
        "Collect 1 more or pass least=40."
    )
    assert group_p_values(np.arange(40), np.arange(40) % 2, [1.0], [0], least=40) == [40 / 41]


def test_bad_groups_and_settings_are_refused() -> None:
    with pytest.raises(ShapeError) as caught:
        group_thresholds([1.0, 2.0], [1])
    assert str(caught.value) == (
        "group_thresholds: 2 scores and 1 in held_out_group. Pass one group per score, in one order."
    )
    with pytest.raises(ShapeError, match=r"^group_p_values: 1 scores and 2 in group\. Pass one group per score"):
        group_p_values([1.0], [1], [1.0], [1, 1], least=1)
    with pytest.raises(ShapeError, match=r"^group_p_values: 1 scores and 2 in held_out_group\."):
        group_p_values([1.0], [1, 1], [1.0], [1], least=1)
    with pytest.raises(ShapeError, match=r"expected held_out_group \(N,\) of integer groups, got dtype float64\."):
        group_thresholds([1.0], [1.0])
    with pytest.raises(ShapeError, match=r"^GroupThresholds\.of: group is empty"):
        group_thresholds([1.0, 2.0], [1, 1], 0.5, 0.75).of([])
    with pytest.raises(ConfigError) as wrong:
        group_p_values([1.0], [1], [1.0], [1], least=0)
    assert str(wrong.value) == (
        "group_p_values: expected a number of held-out scores per group, got 0. Pass a whole number >= 1."
    )
    with pytest.raises(ConfigError, match=r"there is no method 'marginl'\. Did you mean 'marginal'\?"):
        group_thresholds([1.0], [1], method="marginl")
