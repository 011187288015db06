from __future__ import annotations

from math import e, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import ReAct
from spherood.errors import ConfigError, FitError, ShapeError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).abs()


WEIGHT, BIAS = drawn(4, 9) - 0.7, torch.tensor([0.5, -1.0, 2.0, 0.0])


@pytest.mark.parametrize("percentile", [90, 99])
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, percentile: float) -> None:
    judge = ReAct(percentile=percentile).fit(resnet20.validation, classifier=resnet20.classifier)
    score = judge.score(resnet20.query).double().numpy()
    np.testing.assert_allclose(score, resnet20.score[f"react_p{percentile}"], rtol=0, atol=3 * 4e-6)


def test_activations_are_cut_at_the_pooled_percentile_worked_out_by_hand() -> None:
    feature = torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 10.0]])  # 80 % of six values: 4 itself
    judge = ReAct(percentile=80).fit(feature, classifier=linear(torch.eye(2), torch.zeros(2)))
    assert float(judge.limit) == pytest.approx(4)
    score = judge.score(torch.tensor([[9.0, 4.0], [3.0, 9.0], [-5.0, 2.0]]))
    by_hand = [-log(2 * e**4), -log(e**3 + e**4), -log(e**-5 + e**2)]
    assert score.tolist() == pytest.approx(by_hand, rel=1e-6)


def test_nothing_above_the_limit_counts() -> None:
    judge = ReAct().fit(drawn(50), classifier=linear(WEIGHT, BIAS))
    query, limit = drawn(30, 1), float(judge.limit)
    higher = torch.where(query > limit, query + 100, query)
    assert bool((query > limit).any())
    torch.testing.assert_close(judge.score(higher), judge.score(query))


def test_the_order_of_columns_and_of_classes_changes_nothing() -> None:
    expected = ReAct().fit(drawn(50), classifier=linear(WEIGHT, BIAS)).score(drawn(30, 1))
    turned = ReAct().fit(drawn(50).flip(1), classifier=linear(WEIGHT.flip(1), BIAS)).score(drawn(30, 1).flip(1))
    torch.testing.assert_close(turned, expected)
    renamed = ReAct().fit(drawn(50), classifier=linear(WEIGHT.flip(0), BIAS.flip(0))).score(drawn(30, 1))
    torch.testing.assert_close(renamed, expected)


def test_features_twice_as_long_score_the_same_under_half_the_weights() -> None:
    expected = ReAct().fit(drawn(50), classifier=linear(WEIGHT, BIAS)).score(drawn(30, 1))
    longer = ReAct().fit(2 * drawn(50), classifier=linear(WEIGHT / 2, BIAS)).score(2 * drawn(30, 1))
    torch.testing.assert_close(longer, expected)


def test_what_cannot_be_fitted_is_told() -> None:
    classifier = linear(WEIGHT, BIAS)
    with pytest.raises(FitError, match=r"^ReAct\.fit: needs the model's classifier"):
        ReAct().fit(drawn(50))
    message = r"^ReAct\.fit: reads the batches twice, and a generator gives them once\. Pass a list of batches"
    with pytest.raises(FitError, match=message):
        ReAct().fit(((rows, None) for rows in [drawn(50)]), classifier=classifier)
    with pytest.raises(ShapeError, match=r"^ReAct\.fit: features have 5 columns, the classifier reads 6\."):
        ReAct().fit(drawn(50, dim=5), classifier=classifier)


@pytest.mark.parametrize("percentile", [0, -1, 101, float("nan")])
def test_a_percentile_outside_its_range_is_refused(percentile: float) -> None:
    with pytest.raises(ConfigError, match=rf"^ReAct: percentile must lie in \(0, 100\], got {percentile}\. Try 90\.$"):
        ReAct(percentile=percentile)
