from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import SHE
from spherood.detectors.she import Metric
from spherood.errors import ConfigError, FitError, ShapeError

EVERY = pytest.mark.parametrize("metric", get_args(Metric))


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    made.load_state_dict({"weight": weight, "bias": bias})
    return made


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


WEIGHT, BIAS, LABEL = drawn(4, 9), torch.tensor([0.5, -0.5, 0.2, 0.0]), torch.arange(200) % 4
CLASSIFIER = linear(WEIGHT, BIAS)


@pytest.mark.parametrize(
    ("metric", "name", "atol"),
    [("inner", "inner_product", 3 * 1.3e-5), ("euclidean", "euclidean", 3 * 7e-7), ("cosine", "cosine", 1e-6)],
)
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, metric: Metric, name: str, atol: float) -> None:
    score = SHE(metric=metric).fit(resnet20.train, resnet20.label, resnet20.classifier).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score[f"she_{name}"], rtol=0, atol=atol)


def test_patterns_of_what_is_classified_right_give_the_scores_worked_out_by_hand() -> None:
    feature = torch.tensor([[4.0, 0.0], [2.0, 0.0], [0.0, 5.0], [0.0, 7.0]])
    label = torch.tensor([0, 0, 1, 0])  # the last one is taken for class 1: it shapes no pattern
    classifier, query = linear(torch.eye(2), torch.zeros(2)), torch.tensor([[3.0, 2.0], [3.0, 4.0]])
    for metric, by_hand in [
        ("inner", [-9, -20]),
        ("cosine", [-3 / 13**0.5, -4 / 5]),
        ("euclidean", [2, (9 + 1) ** 0.5]),
    ]:
        judge = SHE(metric=metric).fit(feature, label, classifier)  # type: ignore[arg-type]
        assert judge.pattern.tolist() == [[3, 0], [0, 5]]
        assert judge.score(query).tolist() == pytest.approx(by_hand)


@EVERY
def test_turns_and_the_order_of_classes_change_nothing(metric: Metric) -> None:
    expected = SHE(metric=metric).fit(drawn(200), LABEL, CLASSIFIER).score(drawn(30, 1))
    turn = torch.linalg.qr(drawn(6, 3))[0]
    turned = SHE(metric=metric).fit(drawn(200) @ turn, LABEL, linear(WEIGHT @ turn, BIAS)).score(drawn(30, 1) @ turn)
    torch.testing.assert_close(turned, expected, rtol=1e-4, atol=1e-5)
    renamed = SHE(metric=metric).fit(drawn(200), 3 - LABEL, linear(WEIGHT.flip(0), BIAS.flip(0))).score(drawn(30, 1))
    torch.testing.assert_close(renamed, expected)


@pytest.mark.parametrize(("metric", "power"), [("inner", 2), ("cosine", 0), ("euclidean", 1)])
def test_features_three_times_as_long_grow_the_score_by_a_power_of_three(metric: Metric, power: int) -> None:
    expected = SHE(metric=metric).fit(drawn(200), LABEL, CLASSIFIER).score(drawn(30, 1))
    longer = SHE(metric=metric).fit(3 * drawn(200), LABEL, linear(WEIGHT / 3, BIAS)).score(3 * drawn(30, 1))
    torch.testing.assert_close(longer, 3**power * expected, rtol=1e-4, atol=1e-4)


def test_a_batch_without_a_right_guess_shapes_nothing() -> None:
    wrong = (drawn(50, 2), ((drawn(50, 2) @ WEIGHT.T + BIAS).argmax(dim=1) + 1) % 4)
    judge = SHE().fit([wrong, (drawn(200), LABEL)], classifier=CLASSIFIER)
    assert torch.equal(judge.pattern, SHE().fit(drawn(200), LABEL, CLASSIFIER).pattern)


@pytest.mark.parametrize("absent", [2, 3])
def test_a_class_never_classified_right_is_named_by_number(absent: int) -> None:
    right = (drawn(200) @ WEIGHT.T + BIAS).argmax(dim=1)
    without = torch.where(right == absent, 1, right)
    message = (
        rf"^SHE\.fit: class {absent} has no sample that is classified as such\. Fit on the training images, and check "
        r"the order of the classes\.$"
    )
    with pytest.raises(FitError, match=message):
        SHE().fit(drawn(200), without, CLASSIFIER)


def test_what_cannot_be_fitted_is_told() -> None:
    with pytest.raises(FitError, match=r"^SHE\.fit: needs the model's classifier"):
        SHE().fit(drawn(200), LABEL)
    with pytest.raises(FitError, match=r"^SHE\.fit: needs labels\. Call fit\(feature, label, classifier="):
        SHE().fit(drawn(200), classifier=CLASSIFIER)
    with pytest.raises(FitError, match=r"^SHE\.fit: labels reach 4, the classifier knows 0\.\.3\. Drop unknown labels"):
        SHE().fit(drawn(200), LABEL + 1, CLASSIFIER)
    with pytest.raises(ShapeError, match=r"^SHE\.fit: features have 5 columns, the classifier reads 6\."):
        SHE().fit(drawn(200, dim=5), LABEL, CLASSIFIER)


def test_a_metric_without_meaning_is_refused() -> None:
    message = r"^SHE: metric must be 'inner', 'cosine' or 'euclidean', got 'inner_product'\.$"
    with pytest.raises(ConfigError, match=message):
        SHE(metric="inner_product")  # type: ignore[arg-type]
