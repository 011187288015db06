from __future__ import annotations

from math import exp
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import SCALE
from spherood.errors import ConfigError, FitError, ShapeError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).abs()


WEIGHT, BIAS = drawn(4, 9) - 0.7, torch.tensor([0.5, -1.0, 2.0, 0.0])


def scale(percentile: float, weight: Tensor = WEIGHT, bias: Tensor = BIAS) -> SCALE:
    return SCALE(percentile=percentile).fit(torch.zeros(1, weight.shape[1]), classifier=linear(weight, bias))


@pytest.mark.parametrize("percentile", [65, 85])
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, percentile: float) -> None:
    judge = SCALE(percentile=percentile).fit(resnet20.validation, classifier=resnet20.classifier)
    score = judge.score(resnet20.query).double().numpy()
    np.testing.assert_allclose(score, resnet20.score[f"scale_p{percentile}"], rtol=0, atol=3 * 1.5e-4)


def test_sum_over_the_two_highest_stretches_as_worked_out_by_hand() -> None:
    weight = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])  # one class: the score is minus its logit
    score = scale(50, weight, torch.tensor([0.5])).score(torch.tensor([[1.0, 4.0, 2.0, 3.0], [6.0, 0.0, 2.0, 0.0]]))
    assert score.tolist() == pytest.approx([-(3241 * exp(10 / 7) + 0.5), -(206 * exp(1) + 0.5)], rel=1e-6)


def test_the_order_of_columns_and_of_classes_changes_nothing() -> None:
    expected = scale(65).score(drawn(30, 1))
    torch.testing.assert_close(scale(65, WEIGHT.flip(1)).score(drawn(30, 1).flip(1)), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scale(65, WEIGHT.flip(0), BIAS.flip(0)).score(drawn(30, 1)), expected)


def test_features_twice_as_long_score_the_same_under_half_the_weights() -> None:
    torch.testing.assert_close(scale(65, WEIGHT / 2).score(2 * drawn(30, 1)), scale(65).score(drawn(30, 1)))


def test_a_zero_feature_and_one_below_zero_are_not_stretched() -> None:
    below = -drawn(1, 1)
    expected = -torch.cat([BIAS.double()[None], (below @ WEIGHT.T + BIAS).double()]).logsumexp(dim=1)
    torch.testing.assert_close(scale(65).score(torch.cat([torch.zeros(1, 6), below])), expected, rtol=1e-6, atol=1e-6)


def test_a_flat_feature_under_a_high_percentile_gets_a_number() -> None:
    judge = scale(99, torch.ones(1, 200), torch.zeros(1))
    assert float(judge.score(torch.ones(1, 200))) == pytest.approx(-200 * exp(80), rel=1e-5)  # n = 2: r would be 100


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(FitError, match=r"^SCALE\.fit: needs the model's classifier"):
        SCALE().fit(drawn(50))
    with pytest.raises(FitError, match=r"^SCALE\.fit: percentile=95 keeps none of 6 entries\. Use a lower one\.$"):
        scale(95)
    with pytest.raises(ShapeError, match=r"^SCALE\.fit: features have 5 columns, the classifier reads 6\."):
        SCALE().fit(drawn(50, dim=5), classifier=linear(WEIGHT, BIAS))


@pytest.mark.parametrize("percentile", [-1, 100, float("nan")])
def test_a_percentile_outside_its_range_is_refused(percentile: float) -> None:
    with pytest.raises(ConfigError, match=rf"^SCALE: percentile must lie in \[0, 100\), got {percentile}\. Try 85\.$"):
        SCALE(percentile=percentile)
