from __future__ import annotations

from math import e, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import DICE
from spherood.errors import ConfigError, FitError, ShapeError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).abs()


WEIGHT, BIAS = drawn(4, 9) - 0.7, torch.tensor([0.5, -1.0, 2.0, 0.0])


def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace) -> None:
    judge = DICE(percentile=70).fit(resnet20.train, classifier=resnet20.classifier)
    np.testing.assert_allclose(
        judge.score(resnet20.query).double().numpy(), resnet20.score["dice_p70"], rtol=0, atol=3 * 5e-6
    )


def test_the_connections_that_matter_are_kept_as_worked_out_by_hand() -> None:
    feature = torch.tensor([[1.0, 0.0], [3.0, 20.0]])  # m = (2, 10)
    weight = torch.tensor([[1.0, 0.1], [0.25, -3.0]])  # m W = 2, 1, 0.5 and -30; their median is 0.75
    judge = DICE(percentile=50).fit(feature, classifier=linear(weight, torch.tensor([0.0, 1.0])))
    torch.testing.assert_close(judge.weight, torch.tensor([[1.0, 0.1], [0.0, 0.0]]))
    score = judge.score(torch.tensor([[2.0, 10.0], [-5.0, 0.0]]))
    assert score.tolist() == pytest.approx([-log(e**3 + e), -log(e**-5 + e)], rel=1e-6)


def test_a_connection_at_the_percentile_is_cut_too() -> None:
    classifier = linear(torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1))
    judge = DICE(percentile=50).fit(torch.ones(2, 3), classifier=classifier)
    assert judge.weight.tolist() == [[0, 0, 3]]


def test_the_order_of_columns_and_of_classes_changes_nothing() -> None:
    expected = DICE().fit(drawn(50), classifier=linear(WEIGHT, BIAS)).score(drawn(30, 1))
    turned = DICE().fit(drawn(50).flip(1), classifier=linear(WEIGHT.flip(1), BIAS)).score(drawn(30, 1).flip(1))
    torch.testing.assert_close(turned, expected)
    renamed = DICE().fit(drawn(50), classifier=linear(WEIGHT.flip(0), BIAS.flip(0))).score(drawn(30, 1))
    torch.testing.assert_close(renamed, expected)


def test_features_twice_as_long_score_the_same_under_half_the_weights() -> None:
    expected = DICE().fit(drawn(50), classifier=linear(WEIGHT, BIAS)).score(drawn(30, 1))
    longer = DICE().fit(2 * drawn(50), classifier=linear(WEIGHT / 2, BIAS)).score(2 * drawn(30, 1))
    torch.testing.assert_close(longer, expected)


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(FitError, match=r"^DICE\.fit: needs the model's classifier"):
        DICE().fit(drawn(50))
    with pytest.raises(ShapeError, match=r"^DICE\.fit: features have 5 columns, the classifier reads 6\."):
        DICE().fit(drawn(50, dim=5), classifier=linear(WEIGHT, BIAS))


@pytest.mark.parametrize("percentile", [-1, 100, float("nan")])
def test_a_percentile_outside_its_range_is_refused(percentile: float) -> None:
    with pytest.raises(ConfigError, match=rf"^DICE: percentile must lie in \[0, 100\), got {percentile}\. Try 90\.$"):
        DICE(percentile=percentile)
