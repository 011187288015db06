from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import Residual
from spherood.detectors.residual import default_dim
from spherood.errors import ConfigError, FitError, ShapeError


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    """Directions of falling variance, about a point away from zero."""
    noise = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise * torch.linspace(3, 0.5, dim, dtype=torch.float64) + 1


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


CLASSIFIER = linear(drawn(3, 9), torch.tensor([0.5, -1.0, 2.0]))


@pytest.mark.parametrize(("name", "part"), [("valfit", "validation"), ("trainfit", "train")])
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, name: str, part: str) -> None:
    judge = Residual(dim=32).fit(getattr(resnet20, part), classifier=resnet20.classifier)
    expected = resnet20.score[f"residual_dim32_{name}"]
    np.testing.assert_allclose(judge.score(resnet20.query).double().numpy(), expected, rtol=0, atol=3 * 5.4e-5)


def test_what_lies_off_the_main_axis_is_the_score_worked_out_by_hand() -> None:
    classifier = linear(torch.eye(3), torch.tensor([-1.0, -2.0, 0.0]))  # o = (1, 2, 0)
    feature = torch.tensor([1.0, 2.0, 0.0]) + torch.tensor([[5.0, 1.0, 0.0], [-5.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    judge = Residual(dim=1).fit(feature, classifier=classifier)  # second moment about o: diag(50, 2, 1) / 3
    torch.testing.assert_close(judge.origin, torch.tensor([1.0, 2.0, 0.0]))
    query = torch.tensor([[1.0, 2.0, 0.0], [90.0, 2.0, 0.0], [0.0, 5.0, 4.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(judge.score(query), torch.tensor([0.0, 0.0, 5.0, 2.0]))
    two = Residual(dim=2).fit(feature, classifier=classifier)
    torch.testing.assert_close(two.score(query), torch.tensor([0.0, 0.0, 4.0, 0.0]))


def test_moving_within_the_main_directions_changes_nothing() -> None:
    judge, query = Residual(dim=2).fit(drawn(200), classifier=CLASSIFIER), drawn(50, 1)
    main = torch.linalg.svd(judge.basis.double().T).Vh[4:]  # what no column of the basis sees
    moved = query + 7 * drawn(50, 2, 2) @ main
    torch.testing.assert_close(judge.score(moved), judge.score(query), rtol=1e-4, atol=1e-4)


def test_turning_features_and_classifier_together_changes_nothing() -> None:
    turn = torch.linalg.qr(drawn(6, 3))[0]
    turned = linear(CLASSIFIER.weight.double() @ turn, CLASSIFIER.bias)
    score = Residual(dim=2).fit(drawn(200) @ turn, classifier=turned).score(drawn(50, 1) @ turn)
    expected = Residual(dim=2).fit(drawn(200), classifier=CLASSIFIER).score(drawn(50, 1))
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)


def test_longer_features_under_smaller_weights_score_as_much_higher() -> None:
    smaller = linear(CLASSIFIER.weight / 4, CLASSIFIER.bias)
    score = Residual(dim=2).fit(4 * drawn(200), classifier=smaller).score(4 * drawn(50, 1))
    expected = Residual(dim=2).fit(drawn(200), classifier=CLASSIFIER).score(drawn(50, 1))
    torch.testing.assert_close(score, 4 * expected, rtol=1e-4, atol=1e-4)


def test_a_classifier_without_bias_measures_from_zero() -> None:
    bare = nn.Linear(6, 3, bias=False)
    assert Residual().fit(drawn(200), classifier=bare).origin.tolist() == [0.0] * 6


def test_the_default_follows_the_number_of_columns() -> None:
    columns = (6, 64, 512, 767, 768, 2047, 2048, 4096)
    assert [default_dim(d) for d in columns] == [3, 32, 256, 383, 512, 512, 1000, 1000]
    assert Residual().fit(drawn(200), classifier=CLASSIFIER).basis.shape == (6, 3)


@pytest.mark.parametrize("dim", [6, 7])
def test_a_dim_that_leaves_no_residual_is_told_with_both_numbers(dim: int) -> None:
    message = (
        rf"^Residual\.fit: dim={dim} leaves no residual of features with 6 columns\. Use dim < 6; without dim it is 3"
    )
    with pytest.raises(FitError, match=message):
        Residual(dim=dim).fit(drawn(200), classifier=CLASSIFIER)


def test_a_classifier_that_is_missing_or_reads_another_width_is_told() -> None:
    with pytest.raises(FitError, match=r"^Residual\.fit: needs the model's classifier\. Call fit\(feature, label, "):
        Residual().fit(drawn(200))
    with pytest.raises(ShapeError, match=r"^Residual\.fit: features have 6 columns, the classifier reads 5"):
        Residual().fit(drawn(200), classifier=nn.Linear(5, 3))


@pytest.mark.parametrize("dim", [0, -1, 2.5, "3"])
def test_a_dim_without_meaning_is_refused(dim: Any) -> None:
    with pytest.raises(
        ConfigError, match=rf"^Residual: dim must be a whole number of at least 1, got {dim}\. Leave it"
    ):
        Residual(dim=dim)
