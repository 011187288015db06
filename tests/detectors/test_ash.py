from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import ASH
from spherood.detectors.pruning import kept
from spherood.errors import ConfigError, FitError, ShapeError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)).abs()


WEIGHT, BIAS = drawn(4, 9) - 0.7, torch.tensor([0.5, -1.0, 2.0, 0.0])


def ash(percentile: float, weight: Tensor = WEIGHT, bias: Tensor = BIAS) -> ASH:
    return ASH(percentile=percentile).fit(torch.zeros(1, weight.shape[1]), classifier=linear(weight, bias))


@pytest.mark.parametrize("percentile", [65, 90])
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, percentile: float) -> None:
    judge = ASH(percentile=percentile).fit(resnet20.validation, classifier=resnet20.classifier)
    score = judge.score(resnet20.query).double().numpy()
    np.testing.assert_allclose(score, resnet20.score[f"ash_b_p{percentile}"], rtol=0, atol=3 * 1.3e-5)


def test_the_two_highest_of_four_share_the_sum_as_worked_out_by_hand() -> None:
    weight = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])  # one class: the score is minus its logit
    score = ash(50, weight, torch.tensor([0.5])).score(torch.tensor([[1.0, 4.0, 2.0, 3.0], [6.0, 0.0, 2.0, 0.0]]))
    assert score.tolist() == pytest.approx([-(5 * 1010 + 0.5), -(4 * 101 + 0.5)])


@pytest.mark.parametrize(("percentile", "n"), [(0, 10), (65, 4), (75, 2), (85, 2), (90, 1), (94, 1)])
def test_of_ten_entries_the_percentile_keeps(percentile: float, n: int) -> None:
    assert kept(10, percentile) == n  # 6.5 and 8.5 are rounded to the even 6 and 8, 7.5 to 8


def test_only_which_entries_are_highest_and_the_sum_count() -> None:
    query = torch.tensor([[5.0, 1.0, 4.0, 0.5, 2.0, 0.0]])
    same = torch.tensor([[4.2, 1.3, 4.8, 0.0, 1.9, 0.3]])
    torch.testing.assert_close(ash(65).score(query), ash(65).score(same))


def test_the_order_of_columns_and_of_classes_changes_nothing() -> None:
    expected = ash(65).score(drawn(30, 1))
    torch.testing.assert_close(ash(65, WEIGHT.flip(1)).score(drawn(30, 1).flip(1)), expected)
    torch.testing.assert_close(ash(65, WEIGHT.flip(0), BIAS.flip(0)).score(drawn(30, 1)), expected)


def test_features_twice_as_long_score_the_same_under_half_the_weights() -> None:
    torch.testing.assert_close(ash(65, WEIGHT / 2).score(2 * drawn(30, 1)), ash(65).score(drawn(30, 1)))


def test_a_zero_feature_has_the_energy_of_the_bias() -> None:
    torch.testing.assert_close(ash(65).score(torch.zeros(1, 6)), -BIAS.double().logsumexp(0)[None])


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(FitError, match=r"^ASH\.fit: needs the model's classifier"):
        ASH().fit(drawn(50))
    with pytest.raises(FitError, match=r"^ASH\.fit: percentile=95 keeps none of 6 entries\. Use a lower one\.$"):
        ash(95)
    with pytest.raises(ShapeError, match=r"^ASH\.fit: features have 5 columns, the classifier reads 6\."):
        ASH().fit(drawn(50, dim=5), classifier=linear(WEIGHT, BIAS))


@pytest.mark.parametrize("percentile", [-1, 100, float("nan")])
def test_a_percentile_outside_its_range_is_refused(percentile: float) -> None:
    with pytest.raises(ConfigError, match=rf"^ASH: percentile must lie in \[0, 100\), got {percentile}\. Try 90\.$"):
        ASH(percentile=percentile)
