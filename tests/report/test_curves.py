from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from spherood.benchmark.result import ScoreResult
from spherood.errors import ConfigError
from spherood.report.curves import BINS, curves, decimals, drawn_range, kept, roc, threshold_grid

Make = Callable[..., ScoreResult]


def test_a_roc_curve_of_four_scores_is_the_one_drawn_by_hand() -> None:
    rejected, caught = roc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))
    # above 3: none; above 2: one OOD of two; above 1: both OOD and one ID (the tie at 2 is a slanted line); then all
    np.testing.assert_allclose(rejected, [0, 0, 0.5, 1])
    np.testing.assert_allclose(caught, [0, 0.5, 1, 1])


def test_a_thinned_roc_curve_keeps_its_ends_and_stays_near_the_whole_one() -> None:
    draw = np.random.default_rng(0)
    id_score, ood_score = draw.normal(0, 1, 3000), draw.normal(1, 1, 2000)
    x, y = roc(id_score, ood_score)
    all_x, all_y = roc(id_score, ood_score, points=10**6)
    assert len(x) <= 200 < len(all_x)
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    assert abs(np.trapezoid(y, x) - np.trapezoid(all_y, all_x)) < 1e-3
    greater = (ood_score[:, None] > id_score).mean()
    assert abs(np.trapezoid(all_y, all_x) - greater) < 1e-12


def test_a_score_equal_to_the_threshold_is_kept() -> None:
    np.testing.assert_array_equal(
        kept(np.array([3.0, 1.0, 2.0, 2.0]), np.array([0.5, 1.0, 1.9, 2.0, 9.0])), [0, 1, 1, 3, 4]
    )


def test_the_grid_holds_the_calibrated_threshold_exactly_and_only_thresholds_of_the_range() -> None:
    id_score = np.random.default_rng(0).normal(size=1000)
    grid = threshold_grid(id_score, -2.0, 5.0, 1.23456789012345)
    assert 1.23456789012345 in grid
    assert (np.diff(grid) > 0).all()
    assert 150 < len(grid) <= 203
    assert (grid[0], grid[-1]) == (-2.0, 5.0)


def test_every_share_of_the_grid_equals_the_share_counted_one_by_one(result_with: Make) -> None:
    result = result_with([0, 1, 1, 2, 3], {"far": [1, 4, 5, 5]}, 1.0)
    drawn = curves("m", result)
    for threshold, id_kept, far_kept in zip(drawn.grid, drawn.id_group.kept, drawn.ood_group["far"].kept, strict=True):
        assert id_kept == sum(not score > threshold for score in [0, 1, 1, 2, 3])
        assert far_kept == sum(not score > threshold for score in [1, 4, 5, 5])
    assert drawn.grid[drawn.calibrated] == 1.0
    assert drawn.id_group.kept[drawn.calibrated] == 3


def test_the_bins_count_every_image_and_say_how_many_lie_outside(result_with: Make) -> None:
    id_score = [*np.linspace(0, 1, 1000), 50.0]
    drawn = curves("m", result_with(id_score, {"far": [2.0, 1e9, np.inf]}, 0.9))
    assert drawn.low < 0.01
    assert drawn.high < 4  # two widths of ID beyond ID, though one set goes to 1e9
    assert len(drawn.id_group.bins) == BINS
    assert drawn.id_group.bins.sum() == 1001
    far = drawn.ood_group["far"]
    assert (far.bins.sum(), far.bins[-1], far.outside) == (3, 2, 2)


def test_the_drawn_range_holds_the_threshold_and_has_a_width() -> None:
    one = np.ones(5)
    assert drawn_range(one, [one], 1.0) == (0.5, 1.5)
    assert drawn_range(np.arange(10.0), [one], 40.0)[1] == 40.0
    assert drawn_range(np.full(3, np.inf), [], 2.0) == (1.5, 2.5)


@pytest.mark.parametrize(("high", "digits"), [(1.0, 3), (0.02, 5), (50.0, 2), (1e9, 0)])
def test_decimals_tell_a_thousandth_of_the_range(high: float, digits: int) -> None:
    assert decimals(0.0, high) == digits


def test_scores_that_cannot_be_drawn_are_refused_by_name(result_with: Make) -> None:
    with pytest.raises(ConfigError, match="score knn of CIDER has 2 scores on far, 1 of them NaN"):
        curves("CIDER", result_with([0, 1], {"far": [1, np.nan]}, 0.5))
    with pytest.raises(ConfigError, match="0 scores on ID"):
        curves("CIDER", result_with([], {"far": [1]}, 0.5))
    with pytest.raises(ConfigError, match=r"threshold inf\. Calibrate it"):
        curves("CIDER", result_with([0, 1], {"far": [1]}, np.inf))
