from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.metrics import auroc

tying = st.lists(st.integers(0, 6), min_size=1, max_size=12)


def test_four_against_four_is_fourteen_pairs_of_sixteen() -> None:
    assert auroc([0.1, 0.2, 0.3, 0.6], [0.4, 0.5, 0.7, 0.9]) == 14 / 16


def test_one_against_one_is_all_nothing_or_half() -> None:
    assert (auroc([1.0], [2.0]), auroc([2.0], [1.0]), auroc([1.0], [1.0])) == (1.0, 0.0, 0.5)


@given(id_score=tying, ood_score=tying)
@settings(derandomize=True, deadline=None)
def test_it_is_the_share_of_pairs_in_the_right_order(id_score: list[int], ood_score: list[int]) -> None:
    pairs = [float(o > i) + 0.5 * float(o == i) for i in id_score for o in ood_score]
    assert auroc(id_score, ood_score) == pytest.approx(sum(pairs) / len(pairs), abs=1e-14)


@given(id_score=tying, ood_score=tying)
@settings(derandomize=True, deadline=None)
def test_stretching_the_scores_changes_nothing_and_turning_them_round_gives_the_rest(
    id_score: list[int], ood_score: list[int]
) -> None:
    value = auroc(id_score, ood_score)
    assert auroc(np.exp(id_score), np.exp(ood_score)) == value
    assert auroc(-np.array(id_score), -np.array(ood_score)) == pytest.approx(1 - value, abs=1e-14)


def test_a_million_scores_are_no_trouble_and_the_normal_law_comes_out() -> None:
    rng = np.random.default_rng(0)
    known, foreign = rng.normal(0, 1, 500_000), rng.normal(1, 1, 500_000)
    assert auroc(known, foreign) == pytest.approx(0.76025, abs=0.002)  # Phi(1 / sqrt 2)
