from __future__ import annotations

from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.errors import ConfigError, ShapeError
from spherood.metrics import auroc, auroc_interval, clopper_pearson

ID, OOD = [0.0, 2.0], [1.0, 3.0]  # V_id = (1, 1/2), V_ood = (1/2, 1): both have variance 1/8, the AUROC is 3/4
QUARTILE = NormalDist().inv_cdf(0.75)  # confidence .5 keeps the interval of so few images away from its clips
tying = st.lists(st.integers(0, 6), min_size=1, max_size=9)


def slowly(id_score: list[int], sets: list[list[int]], confidence: float) -> tuple[float, float]:
    """Every pair counted, every sum written out."""

    def won(ood: int, known: int) -> float:
        return float(ood > known) + 0.5 * float(ood == known)

    def variance_of_mean(values: list[float]) -> float:
        n, mean = len(values), sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / (n - 1) / n if n > 1 else 0.0

    count = len(sets)
    of_id = [sum(sum(won(o, i) for o in ood) / len(ood) for ood in sets) / count for i in id_score]
    of_ood = [[sum(won(o, i) for i in id_score) / len(id_score) for o in ood] for ood in sets]
    variance = variance_of_mean(of_id) + sum(variance_of_mean(values) for values in of_ood) / count**2
    middle, reach = sum(of_id) / len(of_id), NormalDist().inv_cdf((1 + confidence) / 2) * variance**0.5
    return max(0.0, middle - reach), min(1.0, middle + reach)


def test_two_against_two_worked_out_by_hand() -> None:
    reach = QUARTILE * (1 / 16 + 1 / 16) ** 0.5
    assert auroc_interval(ID, [OOD], confidence=0.5) == pytest.approx((0.75 - reach, 0.75 + reach), abs=1e-14)


def test_a_second_equal_set_halves_the_ood_part_and_nothing_of_the_id_part() -> None:
    reach = QUARTILE * (1 / 16 + 1 / 32) ** 0.5
    assert auroc_interval(ID, [OOD, OOD], confidence=0.5) == pytest.approx((0.75 - reach, 0.75 + reach), abs=1e-14)


@given(id_score=tying, sets=st.lists(tying, min_size=1, max_size=3), confidence=st.sampled_from([0.1, 0.5, 0.95]))
@settings(derandomize=True, deadline=None)
def test_it_is_what_counting_every_pair_gives(id_score: list[int], sets: list[list[int]], confidence: float) -> None:
    assert auroc_interval(id_score, sets, confidence) == pytest.approx(slowly(id_score, sets, confidence), abs=1e-7)


@given(id_score=tying, sets=st.lists(tying, min_size=1, max_size=3))
@settings(derandomize=True, deadline=None)
def test_it_lies_in_the_unit_interval_around_the_mean_of_the_aurocs(id_score: list[int], sets: list[list[int]]) -> None:
    low, high = auroc_interval(id_score, sets)
    middle = sum(auroc(id_score, ood) for ood in sets) / len(sets)
    assert 0 <= low <= middle + 1e-12
    assert middle - 1e-12 <= high <= 1


@given(id_score=tying, sets=st.lists(tying, min_size=1, max_size=3))
@settings(derandomize=True, deadline=None)
def test_turning_the_scores_round_mirrors_it(id_score: list[int], sets: list[list[int]]) -> None:
    low, high = auroc_interval(id_score, sets)
    turned = auroc_interval(-np.array(id_score), [-np.array(ood) for ood in sets])
    assert turned == pytest.approx((1 - high, 1 - low), abs=1e-7)


def test_95_percent_of_500_draws_cover_the_true_mean_of_two_sets() -> None:
    rng = np.random.default_rng(0)
    true = (NormalDist().cdf(0.5 / 2**0.5) + NormalDist().cdf(1.5 / 2**0.5)) / 2
    covered = 0
    for _ in range(500):
        sets = [rng.normal(0.5, 1, 150), rng.normal(1.5, 1, 60)]
        low, high = auroc_interval(rng.normal(0, 1, 80), sets)
        covered += low <= true <= high
    low, high = clopper_pearson(covered, 500, confidence=0.99)
    assert low <= 0.95 <= high


def test_a_group_of_one_image_adds_no_variance() -> None:
    reach = QUARTILE * (1 / 16) ** 0.5  # V_id = (1, 0), variance 1/2, over 2; the single OOD image adds nothing
    assert auroc_interval(ID, [1.0], confidence=0.5) == pytest.approx((0.5 - 2 * reach, 0.5 + 2 * reach), abs=1e-14)
    assert auroc_interval([1.0], [2.0]) == (1.0, 1.0)


@pytest.mark.parametrize("as_type", [list, tuple, np.array, torch.tensor])
def test_one_array_is_one_set(as_type: Any) -> None:
    interval = auroc_interval(as_type(ID), as_type(OOD))
    assert interval == auroc_interval(ID, [as_type(OOD)])
    assert [type(end) for end in interval] == [float, float]


def test_a_million_scores_are_no_trouble() -> None:
    rng = np.random.default_rng(0)
    low, high = auroc_interval(rng.normal(0, 1, 500_000), rng.normal(1, 1, 500_000))
    assert low < 0.76025 < high  # Phi(1 / sqrt 2)
    assert high - low < 0.002


@pytest.mark.parametrize(
    ("ood_scores", "message"),
    [
        ([], r"ood_scores is empty"),
        ([OOD, []], r"ood_scores\[1\] is empty"),
        ([OOD, [np.nan]], r"ood_scores\[1\] holds 1 NaN of 1 scores"),
        ([OOD, 1.0], r"expected ood_scores\[1\] \(N,\), got \(\)"),
        (1.0, r"expected ood_scores \(N,\), got \(\)"),
        ({"svhn": OOD}, r"ood_scores is a dict\. Pass list\(ood_scores\.values\(\)\)"),
    ],
)
def test_the_set_that_is_wrong_is_named(ood_scores: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=f"auroc_interval: {message}"):
        auroc_interval(ID, ood_scores)


def test_id_scores_and_confidences_without_sense_are_refused() -> None:
    with pytest.raises(ShapeError, match="auroc_interval: id_score is empty"):
        auroc_interval([], OOD)
    with pytest.raises(ConfigError, match=r"auroc_interval: confidence must lie .* got 95\. For 95 % write 0\.95\."):
        auroc_interval(ID, OOD, confidence=95)
