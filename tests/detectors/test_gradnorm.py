from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spherood.detectors import GradNorm
from spherood.errors import FitError, ShapeError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


WEIGHT, BIAS = drawn(4, 9), torch.tensor([0.5, -1.0, 2.0, 0.0])


def fitted(weight: Tensor = WEIGHT, bias: Tensor = BIAS) -> GradNorm:
    return GradNorm().fit(torch.zeros(1, weight.shape[1]), classifier=linear(weight, bias))


def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace) -> None:
    score = GradNorm().fit(resnet20.train, classifier=resnet20.classifier).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score["gradnorm"], rtol=1e-6, atol=0)


def test_odds_of_three_to_one_give_the_score_worked_out_by_hand() -> None:
    weight, bias = torch.zeros(2, 2), torch.tensor([3.0, 1.0]).log()  # p = 3/4, 1/4: |1 - 2 p| sums to 1
    score = fitted(weight, bias).score(torch.tensor([[2.0, -3.0], [0.0, 0.0]]))
    assert score.tolist() == pytest.approx([-5, 0])


def test_it_is_the_norm_of_the_gradient_that_backward_gives() -> None:
    for h, score in zip(drawn(9, 1), fitted().score(drawn(9, 1)), strict=True):
        weight = WEIGHT.clone().requires_grad_()
        to_uniform = F.cross_entropy((weight @ h + BIAS)[None], torch.full((1, 4), 0.25))
        (gradient,) = torch.autograd.grad(to_uniform, weight)
        assert float(score) == pytest.approx(-4 * float(gradient.abs().sum()), rel=1e-5)


def test_the_order_of_columns_and_of_classes_changes_nothing() -> None:
    expected = fitted().score(drawn(30, 1))
    torch.testing.assert_close(fitted(WEIGHT.flip(1)).score(drawn(30, 1).flip(1)), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fitted(WEIGHT.flip(0), BIAS.flip(0)).score(drawn(30, 1)), expected)


def test_twice_the_feature_under_half_the_weights_is_twice_the_score() -> None:
    torch.testing.assert_close(fitted(WEIGHT / 2).score(2 * drawn(30, 1)), 2 * fitted().score(drawn(30, 1)))


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(FitError, match=r"^GradNorm\.fit: needs the model's classifier"):
        GradNorm().fit(drawn(50))
    with pytest.raises(ShapeError, match=r"^GradNorm\.fit: features have 5 columns, the classifier reads 6\."):
        GradNorm().fit(drawn(50, dim=5), classifier=linear(WEIGHT, BIAS))
