from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.errors import ConfigError
from spherood.metrics import aupr_in, aupr_out, average_precision

ID, OOD = [0.1, 0.2, 0.3, 0.6], [0.4, 0.5, 0.7, 0.9]
tying = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def points(positive: list[int], negative: list[int]) -> list[tuple[float, float]]:
    """(recall, precision) by counting again at every threshold."""
    curve = [(0.0, 1.0)]
    for t in sorted({*positive, *negative}, reverse=True):
        tp, fp = sum(s >= t for s in positive), sum(s >= t for s in negative)
        curve.append((tp / len(positive), tp / (tp + fp)))
    return curve


def test_four_against_four_worked_out_by_hand() -> None:
    # OOD positive, strictest first: .9, .7, then .6 of an ID image, then .5, .4
    assert average_precision(ID, OOD, positive="ood") == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4, abs=1e-14)
    trapezoids = ((1 + 1) + (1 + 1) + (2 / 3 + 3 / 4) + (3 / 4 + 4 / 5)) / 2 / 4
    assert aupr_out(ID, OOD) == pytest.approx(trapezoids, abs=1e-14)
    # ID positive: .1, .2, .3, then .4, .5 of OOD images, then .6
    assert average_precision(ID, OOD) == pytest.approx((1 + 1 + 1 + 4 / 6) / 4, abs=1e-14)
    assert aupr_in(ID, OOD) == pytest.approx((2 + 2 + 2 + (3 / 5 + 4 / 6)) / 2 / 4, abs=1e-14)


def test_equal_scores_are_one_step_whatever_their_order() -> None:
    assert average_precision([1, 1], [1, 1, 1], positive="ood") == pytest.approx(3 / 5)
    assert aupr_out([1, 1], [1, 1, 1]) == pytest.approx((1 + 3 / 5) / 2)


@given(id_score=tying, ood_score=tying)
@settings(derandomize=True, deadline=None)
def test_both_areas_are_those_of_the_curve_counted_point_by_point(id_score: list[int], ood_score: list[int]) -> None:
    curve = points(ood_score, id_score)
    steps = sum((b[0] - a[0]) * b[1] for a, b in pairwise(curve))
    trapezoids = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(curve))
    assert average_precision(id_score, ood_score, positive="ood") == pytest.approx(steps, abs=1e-13)
    assert aupr_out(id_score, ood_score) == pytest.approx(trapezoids, abs=1e-13)


@given(id_score=tying, ood_score=tying)
@settings(derandomize=True, deadline=None)
def test_calling_the_other_side_positive_is_turning_the_scores_round(id_score: list[int], ood_score: list[int]) -> None:
    turned = -np.array(ood_score), -np.array(id_score)
    assert aupr_in(id_score, ood_score) == pytest.approx(aupr_out(*turned), abs=1e-14)
    assert average_precision(id_score, ood_score, "id") == average_precision(*turned, "ood")


def test_another_positive_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"positive must be 'id' or 'ood', got 'odd'\. Did you mean 'ood'\?"):
        average_precision(ID, OOD, positive="odd")
