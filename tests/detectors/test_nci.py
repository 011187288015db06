from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import NCI
from spherood.errors import ConfigError, FitError, ShapeError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) + 1


WEIGHT, BIAS = drawn(4, 9), torch.tensor([0.5, -1.0, 2.0, 0.0])
CLASSIFIER = linear(WEIGHT, BIAS)


@pytest.mark.parametrize("alpha", [1e-4, 0.1])
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, alpha: float) -> None:
    score = NCI(alpha=alpha).fit(resnet20.train, classifier=resnet20.classifier).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score[f"nci_a{alpha}"], rtol=0, atol=3 * 2.6e-6)


def test_direction_and_length_add_up_as_worked_out_by_hand() -> None:
    feature = torch.tensor([[1.0, 0.0], [1.0, 2.0]])  # m = (1, 1)
    classifier = linear(torch.tensor([[2.0, 0.0], [0.0, 5.0]]), torch.tensor([0.0, 4.0]))
    query = torch.tensor([[4.0, -3.0], [-2.0, 5.0]])  # of class 0: h - m = (3, -4); of class 1: (-3, 4)
    score = NCI(alpha=0.5).fit(feature, classifier=classifier).score(query)
    torch.testing.assert_close(score, -torch.tensor([2 * 3 / 5 + 0.5 * 7, 5 * 4 / 5 + 0.5 * 7]))


def test_at_the_mean_itself_the_length_alone_is_left() -> None:
    judge = NCI(alpha=0.5).fit(torch.tensor([[1.0, -2.0]]), classifier=linear(torch.eye(2), torch.zeros(2)))
    assert judge.score(torch.tensor([[1.0, -2.0]])).tolist() == [-1.5]


def test_a_turn_changes_nothing_where_the_length_does_not_count() -> None:
    turn = torch.linalg.qr(drawn(6, 3))[0]
    expected = NCI(alpha=0).fit(drawn(60), classifier=CLASSIFIER).score(drawn(30, 1))
    turned = NCI(alpha=0).fit(drawn(60) @ turn, classifier=linear(WEIGHT @ turn, BIAS)).score(drawn(30, 1) @ turn)
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-5)


def test_the_order_of_columns_and_of_classes_changes_nothing() -> None:
    expected = NCI(alpha=0.1).fit(drawn(60), classifier=CLASSIFIER).score(drawn(30, 1))
    for x, query, classifier in [
        (drawn(60).flip(1), drawn(30, 1).flip(1), linear(WEIGHT.flip(1), BIAS)),
        (drawn(60), drawn(30, 1), linear(WEIGHT.flip(0), BIAS.flip(0))),
    ]:
        torch.testing.assert_close(NCI(alpha=0.1).fit(x, classifier=classifier).score(query), expected)


def test_longer_weights_lengthen_the_first_term_alone() -> None:
    grown = linear(3 * WEIGHT, 3 * BIAS)
    short, long = (NCI(alpha=0).fit(drawn(60), classifier=one).score(drawn(30, 1)) for one in (CLASSIFIER, grown))
    torch.testing.assert_close(long, 3 * short)


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(FitError, match=r"^NCI\.fit: needs the model's classifier"):
        NCI().fit(drawn(50))
    with pytest.raises(ShapeError, match=r"^NCI\.fit: features have 5 columns, the classifier reads 6\."):
        NCI().fit(drawn(50, dim=5), classifier=CLASSIFIER)


@pytest.mark.parametrize("alpha", [-1e-4, float("inf"), float("nan")])
def test_an_alpha_without_meaning_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigError, match=rf"^NCI: alpha must be 0 or more, got {alpha}\. Try 1e-4\.$"):
        NCI(alpha=alpha)
