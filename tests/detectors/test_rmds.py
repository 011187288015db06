from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from spherood.detectors import RMDS, Mahalanobis
from spherood.errors import FitError
from spherood.sphere import normalize

CROSS = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 2.0], [0.0, -2.0]])
TWO_CROSSES = torch.cat([CROSS, CROSS + torch.tensor([10.0, 0.0])])
LABEL = torch.tensor([0] * 4 + [1] * 4)


def drawn(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    """Classes in turn, apart and correlated, in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.randn(dim, dim, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    noise = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    return noise @ shape + 4 * torch.eye(dim, dtype=torch.float64)[torch.arange(rows) % 3]


def label_of(rows: int) -> Tensor:
    return torch.arange(rows) % 3


@pytest.mark.parametrize(("name", "unit", "atol"), [("rmds", False, 1.4e-4), ("rmds_normalized", True, 2.2e-4)])
def test_the_scores_are_those_of_the_references(resnet20: SimpleNamespace, name: str, unit: bool, atol: float) -> None:
    score = RMDS(unit=unit).fit(resnet20.train, resnet20.label).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score[name], rtol=0, atol=3 * atol)


def test_two_crosses_give_the_differences_worked_out_by_hand() -> None:
    score = RMDS().fit(TWO_CROSSES, LABEL).score(torch.tensor([[1.0, 2.0], [10.0, 2.0], [5.0, 0.0]]))
    tied = torch.tensor([1 / 0.5 + 4 / 2, 4 / 2, 25 / 0.5])  # diag(1/2, 2) about (0, 0) and (10, 0)
    everything = torch.tensor([16 / 25.5 + 4 / 2, 25 / 25.5 + 4 / 2, 0.0])  # diag(51/2, 2) about (5, 0)
    torch.testing.assert_close(score, tied - everything)


@pytest.mark.parametrize("unit", [False, True])
def test_the_scores_are_those_of_the_definition_in_float64(unit: bool) -> None:
    x, query, label = drawn(200), drawn(50, 1) + 2, label_of(200)
    score = RMDS(unit=unit).fit(x, label).score(query)
    if unit:
        x, query = normalize(x), normalize(query)
    mean = torch.stack([x[label == c].mean(dim=0) for c in range(3)])
    within, about = x - mean[label], x - x.mean(dim=0)
    tied, total = torch.linalg.inv(within.T @ within / 200), torch.linalg.inv(about.T @ about / 200)
    near = torch.stack([((query - m) @ tied * (query - m)).sum(dim=1) for m in mean]).amin(dim=0)
    far = ((query - x.mean(dim=0)) @ total * (query - x.mean(dim=0))).sum(dim=1)
    torch.testing.assert_close(score.double(), near - far, rtol=1e-4, atol=1e-3)


def test_it_is_the_distance_to_the_nearest_class_less_that_to_everything_as_one_class() -> None:
    x, query, label = drawn(200), drawn(50, 1), label_of(200)
    near, far = Mahalanobis().fit(x, label), Mahalanobis().fit(x, torch.zeros_like(label))
    torch.testing.assert_close(RMDS().fit(x, label).score(query), near.score(query) - far.score(query))


def test_of_a_single_class_nothing_is_left() -> None:
    x, query = drawn(200), 5 * drawn(50, 1)
    assert RMDS().fit(x, torch.zeros(200, dtype=torch.int64)).score(query).tolist() == [0.0] * 50


def test_no_stretch_turn_or_shift_of_the_space_changes_a_score() -> None:
    x, query, label = drawn(200), drawn(50, 1), label_of(200)
    map_ = drawn(5, 7)
    moved = RMDS().fit(x @ map_ + 30, label).score(query @ map_ + 30)
    torch.testing.assert_close(moved, RMDS().fit(x, label).score(query), rtol=1e-3, atol=1e-3)


def test_on_unit_features_neither_turn_nor_length_changes_a_score() -> None:
    x, query, label = drawn(200), drawn(50, 1), label_of(200)
    turn, length = torch.linalg.qr(drawn(5, 7))[0], drawn(200, 3).abs()[:, :1] + 0.1
    moved = RMDS(unit=True).fit(length * x @ turn, label).score(7 * query @ turn)
    torch.testing.assert_close(moved, RMDS(unit=True).fit(x, label).score(query), rtol=1e-3, atol=1e-3)


def test_errors_are_told_in_its_own_name_and_a_failing_fit_leaves_the_old_one() -> None:
    judge = RMDS().fit(drawn(200), label_of(200))
    before = judge.score(drawn(9))
    with pytest.raises(FitError, match=r"^RMDS\.fit: needs labels\. Call fit\(feature, label\)\."):
        judge.fit(drawn(9))
    with pytest.raises(FitError, match=r"^RMDS\.fit: class 2 has no sample\. Labels must run 0\.\.C-1 without gaps\."):
        judge.fit(drawn(9), torch.tensor([0, 1, 3] * 3))
    with pytest.raises(FitError, match=r"^RMDS\.fit: the features do not vary\. Is the encoder collapsed"):
        judge.fit(drawn(3), label_of(3))  # each class one image: within classes nothing varies, over all it does
    assert torch.equal(judge.score(drawn(9)), before)
