from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.calibration import p_values
from spherood.errors import ShapeError

tying = st.lists(st.integers(-5, 5), min_size=1, max_size=30)


def test_four_held_out_scores_worked_out_by_hand() -> None:
    p = p_values([4.0, 1.0, 3.0, 1.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    np.testing.assert_allclose(p, [5 / 5, 5 / 5, 3 / 5, 3 / 5, 2 / 5, 1 / 5], rtol=1e-15)


@given(held_out=tying, score=tying)
@settings(derandomize=True, deadline=None)
def test_it_is_what_counting_one_by_one_gives(held_out: list[int], score: list[int]) -> None:
    naive = [(1 + sum(s >= new for s in held_out)) / (len(held_out) + 1) for new in score]
    np.testing.assert_array_equal(p_values(held_out, score), naive)


@given(held_out=tying, score=tying)
@settings(derandomize=True, deadline=None)
def test_neither_order_nor_a_stretched_score_changes_a_p_value(held_out: list[int], score: list[int]) -> None:
    p = p_values(held_out, score)
    np.testing.assert_array_equal(p_values(held_out[::-1], score), p)
    np.testing.assert_array_equal(p_values(np.exp(held_out), np.exp(score)), p)
    assert p.min() >= 1 / (len(held_out) + 1)
    assert p.max() <= 1


def test_an_id_input_falls_below_t_in_at_most_a_share_t_of_the_draws() -> None:
    draws = np.random.default_rng(0).normal(size=(20_000, 20))  # 19 held out and one more, afresh each time
    p = np.array([p_values(row[:-1], row[-1:])[0] for row in draws])
    for t in (0.05, 0.2, 0.5):  # multiples of 1 / 20, where the bound is met exactly
        assert np.mean(p <= t) == pytest.approx(t, abs=4 * np.sqrt(t * (1 - t) / len(p)))


def test_tensors_and_arrays_may_be_mixed() -> None:
    p = p_values(torch.tensor([1.25, 1.75], dtype=torch.bfloat16), np.array([1.5], dtype=np.float32))
    assert p.tolist() == [2 / 3]


def test_bad_scores_are_refused_by_name() -> None:
    with pytest.raises(ShapeError, match=r"p_values: expected score \(N,\), got \(2, 2\)"):
        p_values([1.0], np.zeros((2, 2)))
    with pytest.raises(ShapeError, match=r"p_values: held_out_score is empty"):
        p_values([], [1.0])
    with pytest.raises(ShapeError, match=r"p_values: score holds 1 NaN of 2 scores, the first at index 0"):
        p_values([1.0], [np.nan, 1.0])
