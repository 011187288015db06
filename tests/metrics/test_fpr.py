from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.errors import ConfigError
from spherood.metrics import fpr_id_at_ood95, fpr_ood_at_id95

ID, OOD = [0.1, 0.2, 0.3, 0.6], [0.4, 0.5, 0.7, 0.9]
tying = st.lists(st.integers(0, 25), min_size=1, max_size=45)


def test_the_two_metrics_of_one_name_on_four_against_four() -> None:
    assert fpr_id_at_ood95(ID, OOD) == 1 / 4  # all OOD are caught from .4 on, and .6 with them
    assert fpr_ood_at_id95(ID, OOD) == 2 / 4  # all ID are kept up to .6, and .4, .5 with them


@pytest.mark.parametrize(("n", "missed"), [(19, 0), (20, 1), (39, 1), (40, 2), (60, 3), (1000, 50), (99_980, 4999)])
def test_exactly_95_percent_is_enough_and_one_image_less_is_not(n: int, missed: int) -> None:
    ood = np.arange(1, n + 1)
    caught = [missed + 1.0]  # an ID image that ties with the last OOD image that must be caught
    let_go = [missed + 0.5]
    assert fpr_id_at_ood95(caught + let_go, ood) == 0.5
    assert fpr_ood_at_id95(-ood, -np.array(caught + let_go)) == 0.5


def test_ten_images_are_kept_to_90_percent_by_cider_and_to_100_by_the_definition() -> None:
    known, foreign = np.arange(10), [9]
    assert fpr_ood_at_id95(known, foreign) == 1
    assert fpr_ood_at_id95(known, foreign, rule="cider") == 0


def test_cider_takes_the_loosest_of_equal_recalls_and_stops_at_the_first_full_one() -> None:
    known = [*range(19), 100]
    assert (
        fpr_ood_at_id95(known, [18.2, 18.4, 50, 101], rule="cider") == 3 / 4
    )  # recall .95 from 18 up to just below 100
    assert fpr_ood_at_id95(known, [18.2, 18.4, 50, 101]) == 0
    assert fpr_ood_at_id95([1.0], [0.5, 1.0, 2.0], rule="cider") == 2 / 3  # full at 1, so 2 is not reached


def test_a_thinned_curve_reports_full_where_the_definition_reports_95_percent() -> None:
    both = np.arange(100)
    assert fpr_id_at_ood95(both, both) == 0.95
    assert fpr_id_at_ood95(both, both, rule="openood") == 1.0


def counted(positive: list[int], negative: list[int]) -> list[tuple[int, int]]:
    """(tp, fp) by counting again at every threshold, strictest first."""
    thresholds = sorted({*positive, *negative}, reverse=True)
    return [(sum(s >= t for s in positive), sum(s >= t for s in negative)) for t in thresholds]


@given(id_score=tying, ood_score=tying)
@settings(derandomize=True, deadline=None)
def test_the_definition_by_trying_every_threshold(id_score: list[int], ood_score: list[int]) -> None:
    enough = [(tp, fp) for tp, fp in counted(ood_score, id_score) if 20 * tp >= 19 * len(ood_score)]
    assert fpr_id_at_ood95(id_score, ood_score) == enough[0][1] / len(id_score)


@given(id_score=tying, ood_score=tying)
@settings(derandomize=True, deadline=None)
def test_openood_by_walking_the_curve_without_points_between_equal_steps(
    id_score: list[int], ood_score: list[int]
) -> None:
    curve = counted(ood_score, id_score)
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(curve)]
    between_equal = {i + 1 for i, (into, out) in enumerate(pairwise(steps)) if into == out}
    enough = [fp for i, (tp, fp) in enumerate(curve) if i not in between_equal and 20 * tp >= 19 * len(ood_score)]
    assert fpr_id_at_ood95(id_score, ood_score, rule="openood") == enough[0] / len(id_score)


@given(id_score=tying, ood_score=tying)
@settings(derandomize=True, deadline=None)
def test_cider_by_measuring_every_distance_to_95_percent(id_score: list[int], ood_score: list[int]) -> None:
    best, distance = 0, np.inf
    for tp, fp in counted(ood_score, id_score):
        off = abs(tp / len(ood_score) - 0.95)
        if off <= distance:  # a later point of the same distance is looser
            best, distance = fp, off
        if tp == len(ood_score):
            break
    assert fpr_id_at_ood95(id_score, ood_score, rule="cider") == best / len(id_score)


@given(id_score=tying, ood_score=tying, rule=st.sampled_from([None, "cider"]))
@settings(derandomize=True, deadline=None)
def test_swapping_the_sides_and_the_sign_swaps_the_two_metrics(
    id_score: list[int], ood_score: list[int], rule: str | None
) -> None:
    turned = -np.array(ood_score), -np.array(id_score)
    assert fpr_ood_at_id95(id_score, ood_score, rule) == fpr_id_at_ood95(*turned, rule)


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no rule 'openod'\. Did you mean 'openood'\?"):
        fpr_id_at_ood95(ID, OOD, rule="openod")
    with pytest.raises(ConfigError, match=r"fpr_ood_at_id95: there is no rule 'openood'\. Known: cider\."):
        fpr_ood_at_id95(ID, OOD, rule="openood")
