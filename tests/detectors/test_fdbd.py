from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import FDBD
from spherood.detectors.fdbd import Denominator
from spherood.errors import ConfigError, FitError, ShapeError

BOTH = pytest.mark.parametrize("denominator", get_args(Denominator))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 1


CLASSIFIER = linear(drawn(4, 9), torch.tensor([0.5, -1.0, 2.0, 0.0]))


@BOTH
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, denominator: Denominator) -> None:
    judge = FDBD(denominator=denominator).fit(resnet20.train, classifier=resnet20.classifier)
    score = judge.score(resnet20.query).double().numpy()
    np.testing.assert_allclose(score, resnet20.score[f"fdbd_{denominator}"], rtol=0, atol=3 * 1.6e-6)


def test_three_classes_give_the_scores_worked_out_by_hand() -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])  # apart: 5, 3, 4
    feature = torch.tensor([[1.0, 1.0], [3.0, 1.0]])  # m = (2, 1)
    query = torch.tensor([[2.0, 0.0], [0.0, 2.0]])  # z = (6, 0, 1) and (0, 8, 1) with bias (0, 0, 1)
    classifier = linear(weight, torch.tensor([0.0, 0.0, 1.0]))
    distance = FDBD().fit(feature, classifier=classifier).score(query)
    torch.testing.assert_close(distance.float(), -torch.tensor([(6 / 5 + 5 / 3) / 1, (8 / 5 + 7 / 4) / 5**0.5]))
    norm = FDBD(denominator="norm").fit(feature, classifier=classifier).score(query)
    torch.testing.assert_close(norm.float(), -torch.tensor([(6 / 5 + 5 / 3) / 2, (8 / 5 + 7 / 4) / 2]))


@BOTH
def test_the_scores_are_those_of_a_slow_loop_over_the_planes(denominator: Denominator) -> None:
    x, query = drawn(60), drawn(9, 1)
    weight, bias = CLASSIFIER.weight.detach().double(), CLASSIFIER.bias.detach().double()
    expected = []
    for h in query:
        z = weight @ h + bias
        best = int(z.argmax())
        gaps = [(z[best] - z[c]) / (weight[best] - weight[c]).norm() for c in range(4) if c != best]
        size = (h - x.mean(dim=0)).norm() if denominator == "distance" else h.norm()
        expected.append(float(-sum(gaps) / size))
    score = FDBD(denominator=denominator).fit(x, classifier=CLASSIFIER).score(query)
    assert score.tolist() == pytest.approx(expected, rel=1e-5)


@BOTH
def test_turns_an_added_logit_and_the_order_of_classes_change_nothing(denominator: Denominator) -> None:
    x, query, turn = drawn(60), drawn(30, 1), torch.linalg.qr(drawn(6, 3))[0]
    weight, bias = CLASSIFIER.weight.detach().double(), CLASSIFIER.bias.detach()
    expected = FDBD(denominator=denominator).fit(x, classifier=CLASSIFIER).score(query)
    for moved, changed_query, classifier in [
        (x @ turn, query @ turn, linear(weight @ turn, bias)),
        (x, query, linear(weight + drawn(1, 5), bias + 3)),  # the same logit added to every class
        (x, query, linear(weight.flip(0), bias.flip(0))),
    ]:
        score = FDBD(denominator=denominator).fit(moved, classifier=classifier).score(changed_query)
        torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


@BOTH
def test_weights_and_bias_that_grow_alike_change_nothing(denominator: Denominator) -> None:
    grown = linear(5 * CLASSIFIER.weight, 5 * CLASSIFIER.bias)
    score = FDBD(denominator=denominator).fit(drawn(60), classifier=grown).score(drawn(30, 1))
    expected = FDBD(denominator=denominator).fit(drawn(60), classifier=CLASSIFIER).score(drawn(30, 1))
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def test_without_bias_a_longer_feature_scores_the_same_by_norm() -> None:
    bare = linear(CLASSIFIER.weight, torch.zeros(4))
    judge = FDBD(denominator="norm").fit(drawn(60), classifier=bare)
    torch.testing.assert_close(judge.score(7 * drawn(30, 1)), judge.score(drawn(30, 1)), rtol=1e-4, atol=1e-5)


@BOTH
def test_where_the_denominator_is_zero_the_score_is_still_a_number(denominator: Denominator) -> None:
    judge = FDBD(denominator=denominator).fit(torch.eye(6)[:1], classifier=CLASSIFIER)
    nowhere = torch.eye(6)[:1] if denominator == "distance" else torch.zeros(1, 6)
    score = float(judge.score(nowhere))
    assert np.isfinite(score)
    assert score < -1e9


def test_a_class_that_shares_the_weights_of_another_has_no_plane_to_it() -> None:
    weight, bias, query = CLASSIFIER.weight.detach(), CLASSIFIER.bias.detach(), drawn(60, 1)
    twin = linear(torch.cat([weight, weight[2:3]]), torch.cat([bias, bias[2:3] - 1]))
    third = (query.float() @ weight.T + bias).argmax(dim=1) == 2
    assert 0 < int(third.sum()) < 60
    score = FDBD().fit(drawn(60), classifier=twin).score(query)
    assert bool(score.isfinite().all())
    torch.testing.assert_close(score[third], FDBD().fit(drawn(60), classifier=CLASSIFIER).score(query)[third])


def test_a_classifier_that_is_missing_or_reads_another_width_is_told() -> None:
    with pytest.raises(FitError, match=r"^FDBD\.fit: needs the model's classifier\. Call fit\(feature, label, "):
        FDBD().fit(drawn(60))
    with pytest.raises(ShapeError, match=r"^FDBD\.fit: features have 6 columns, the classifier reads 5"):
        FDBD().fit(drawn(60), classifier=nn.Linear(5, 3))


def test_a_denominator_without_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^FDBD: denominator must be 'distance' or 'norm', got 'length'\.$"):
        FDBD(denominator="length")  # type: ignore[arg-type]
