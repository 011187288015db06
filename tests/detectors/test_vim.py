from __future__ import annotations

from math import e, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import Energy, Residual, ViM
from spherood.errors import ConfigError, FitError, ShapeError


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    """Class c around 4 e_c, in float64."""
    noise = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise + 4 * torch.eye(dim, dtype=torch.float64)[torch.arange(rows) % 3]


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


CLASSIFIER = linear(torch.eye(3, 6) + 0.1, torch.tensor([0.5, -1.0, 2.0]))


def logits_of(feature: Tensor) -> Tensor:
    with torch.no_grad():
        return CLASSIFIER(feature.float())


@pytest.mark.parametrize(("dim", "atol"), [(16, 1.2e-4), (32, 1.4e-3)])
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, dim: int, atol: float) -> None:
    judge = ViM(dim=dim).fit(resnet20.train, classifier=resnet20.classifier)
    score = judge.score(resnet20.query).double().numpy()
    np.testing.assert_allclose(score, resnet20.score[f"vim_dim{dim}"], rtol=0, atol=3 * atol)


def test_four_features_beside_one_axis_give_the_scores_worked_out_by_hand() -> None:
    feature = torch.tensor([[3.0, 0.0, 1.0], [3.0, 0.0, -1.0], [5.0, 0.0, 3.0], [5.0, 0.0, -3.0]])
    judge = ViM(dim=1).fit(feature, classifier=linear(torch.eye(3), torch.zeros(3)))
    # second moment diag(17, 0, 5), residuals 1, 1, 3, 3, largest logits 3, 3, 5, 5: alpha = 4 / 2
    score = judge.score(torch.tensor([[0.0, 3.0, 4.0], [1.0, 0.0, 0.0]]))
    torch.testing.assert_close(score.float(), torch.tensor([2 * 5 - log(1 + e**3 + e**4), -log(e + 2)]))


def test_it_is_the_residual_in_units_of_the_largest_logit_and_the_energy() -> None:
    x, query = drawn(300), drawn(50, 1)
    residual = Residual(dim=2).fit(x, classifier=CLASSIFIER)
    alpha = logits_of(x).amax(dim=1).mean() / residual.score(x).mean()
    expected = alpha * residual.score(query) + Energy().score(logits_of(query))
    score = ViM(dim=2).fit(x, classifier=CLASSIFIER).score(query)
    torch.testing.assert_close(score.double(), expected.double(), rtol=1e-4, atol=1e-4)


def test_turning_features_and_classifier_together_changes_nothing() -> None:
    turn = torch.linalg.qr(drawn(6, 3))[0]
    turned = linear(CLASSIFIER.weight.double() @ turn, CLASSIFIER.bias)
    score = ViM(dim=2).fit(drawn(300) @ turn, classifier=turned).score(drawn(50, 1) @ turn)
    expected = ViM(dim=2).fit(drawn(300), classifier=CLASSIFIER).score(drawn(50, 1))
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def test_longer_features_under_smaller_weights_score_the_same() -> None:
    smaller = linear(CLASSIFIER.weight / 4, CLASSIFIER.bias)
    score = ViM(dim=2).fit(4 * drawn(300), classifier=smaller).score(4 * drawn(50, 1))
    expected = ViM(dim=2).fit(drawn(300), classifier=CLASSIFIER).score(drawn(50, 1))
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def test_a_dim_that_leaves_no_residual_is_told_in_its_own_name() -> None:
    with pytest.raises(FitError, match=r"^ViM\.fit: dim=6 leaves no residual of features with 6 columns\. Use dim < 6"):
        ViM(dim=6).fit(drawn(300), classifier=CLASSIFIER)


def test_features_that_fill_only_their_main_directions_are_told() -> None:
    flat = linear(CLASSIFIER.weight, torch.zeros(3))
    plane = (drawn(300)[:, :2] @ drawn(2, 5)).float()
    for x, dim in [(plane, 2), (drawn(3), 3)]:
        message = (
            rf"^ViM\.fit: {len(x)} features have nothing beyond their {dim} main directions\. Use a smaller dim, or"
        )
        with pytest.raises(FitError, match=message):
            ViM(dim=dim).fit(x, classifier=flat)
    assert bool(ViM(dim=1).fit(plane, classifier=flat).score(plane).isfinite().all())


def test_logits_that_are_negative_on_average_are_told() -> None:
    low = linear(CLASSIFIER.weight, torch.full((3,), -50.0))
    with pytest.raises(
        FitError, match=r"^ViM\.fit: the largest logit is -4\d\.\d on average, and a residual that weighs"
    ):
        ViM().fit(drawn(300), classifier=low)


def test_a_classifier_that_is_missing_or_reads_another_width_is_told() -> None:
    with pytest.raises(FitError, match=r"^ViM\.fit: needs the model's classifier\. Call fit\(feature, label, "):
        ViM().fit(drawn(300))
    with pytest.raises(ShapeError, match=r"^ViM\.fit: features have 6 columns, the classifier reads 5"):
        ViM().fit(drawn(300), classifier=nn.Linear(5, 3))


def test_a_dim_without_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^ViM: dim must be a whole number of at least 1, got 0\. Leave it out"):
        ViM(dim=0)
