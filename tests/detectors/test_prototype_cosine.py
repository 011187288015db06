from __future__ import annotations

from math import sqrt
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from spherood.detectors import PrototypeCosine
from spherood.errors import FitError


def drawn(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def label_of(rows: int) -> Tensor:
    return torch.arange(rows) % 3


def test_two_classes_give_the_cosines_worked_out_by_hand() -> None:
    x, y, z = torch.eye(3)
    feature = torch.stack([2 * x, 9 * y, 5 * z])  # unit rows x and y make class 0, z class 1
    judge = PrototypeCosine().fit(feature, torch.tensor([0, 0, 1]))
    score = judge.score(torch.stack([x, 3 * z, -x - y, x + z]))
    torch.testing.assert_close(score, torch.tensor([-1 / sqrt(2), -1.0, 0.0, -1 / sqrt(2)]))


def test_the_scores_are_those_of_a_slow_loop_on_real_features(resnet20: SimpleNamespace) -> None:
    train, label, query = resnet20.train, resnet20.label, resnet20.query[:50]
    unit = [row / sqrt(float((row**2).sum())) for row in train.astype(float)]
    score = PrototypeCosine().fit(train, label).score(query)
    prototype = []
    for c in range(10):
        total = sum(row for row, its in zip(unit, label, strict=True) if its == c)
        prototype.append(total / sqrt(float((total**2).sum())))
    for row, found in zip(query.astype(float), score, strict=True):
        expected = -max(float(row @ mu) for mu in prototype) / sqrt(float((row**2).sum()))
        assert float(found) == pytest.approx(expected, abs=1e-6)


def test_turns_and_lengths_and_the_order_of_classes_change_nothing() -> None:
    x, query, label = drawn(60), drawn(30, 1), label_of(60)
    expected = PrototypeCosine().fit(x, label).score(query)
    turn, length = torch.linalg.qr(drawn(5, 2))[0], drawn(60, 3).abs()[:, :1] + 0.1
    for moved, changed_query, changed_label in [
        (x @ turn, query @ turn, label),
        (length * x, 7 * query, label),
        (x, query, 2 - label),
    ]:
        score = PrototypeCosine().fit(moved, changed_label).score(changed_query)
        torch.testing.assert_close(score, expected, rtol=1e-5, atol=1e-6)


def test_scores_lie_between_minus_one_and_one_and_a_prototype_scores_minus_one() -> None:
    judge = PrototypeCosine().fit(drawn(60), label_of(60))
    score = judge.score(drawn(500, 1))
    assert -1 - 1e-6 <= float(score.min()) < float(score.max()) <= 1 + 1e-6
    torch.testing.assert_close(judge.score(judge.prototype), -torch.ones(3))


def test_a_class_whose_directions_cancel_gives_numbers() -> None:
    feature = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    score = PrototypeCosine().fit(feature, torch.tensor([0, 0, 1])).score(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(score, torch.tensor([0.0, -1.0]))


def test_missing_labels_and_a_class_without_sample_are_told() -> None:
    with pytest.raises(FitError, match=r"PrototypeCosine\.fit: needs labels\. Call fit\(feature, label\)\."):
        PrototypeCosine().fit(drawn(9))
    with pytest.raises(FitError, match=r"PrototypeCosine\.fit: class 1 has no sample\. Labels must run 0\.\.C-1"):
        PrototypeCosine().fit([(drawn(3), torch.tensor([0, 2, 2])), (drawn(2), torch.tensor([4, 3]))])
