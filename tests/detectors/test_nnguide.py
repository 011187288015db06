from __future__ import annotations

from math import e, log, nan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from spherood.detectors import NNGuide
from spherood.errors import ConfigError, FitError, ShapeError


def linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    made = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        made.weight.copy_(weight)
        made.bias.copy_(bias)
    return made


IDENTITY = linear(torch.eye(2), torch.zeros(2))


def drawn(rows: int, seed: int = 0, dim: int = 6) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CLASSIFIER = linear(drawn(3, 9), torch.tensor([0.5, -1.0, 2.0]))


def chosen(rows: int, **settings: Any) -> list[int]:
    """Which of the rows went into the bank: row i points i / rows of a right angle off the first axis."""
    angle = torch.arange(rows, dtype=torch.float64) / rows * torch.pi / 2
    bank = NNGuide(k=1, **settings).fit(torch.stack([angle.cos(), angle.sin()], dim=1), classifier=IDENTITY).bank
    found: list[int] = (torch.atan2(bank[:, 1], bank[:, 0]) / (torch.pi / 2) * rows).round().int().tolist()
    return found


@pytest.mark.parametrize(("name", "k", "rows"), [("k10_alpha1", 10, 2000), ("k100_alpha0.01_bs200", 100, 200)])
def test_the_scores_are_those_of_openood_from_the_same_bank(
    resnet20: SimpleNamespace, name: str, k: int, rows: int
) -> None:
    judge = NNGuide(k=k, fraction=1.0).fit(resnet20.train[:rows], classifier=resnet20.classifier)
    score = judge.score(resnet20.query).double().numpy()
    np.testing.assert_allclose(score, resnet20.score[f"nnguide_{name}"], rtol=0, atol=3 * 3e-4)


def test_two_rows_in_the_bank_give_the_scores_worked_out_by_hand() -> None:
    feature = torch.tensor([[2.0, 0.0], [0.0, 1.0]])  # with evidence log(e^2 + 1) and log(1 + e)
    two, one = log(e**2 + 1), log(1 + e)
    query = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    nearest = NNGuide(k=1, fraction=1.0).fit(feature, classifier=IDENTITY).score(query)
    torch.testing.assert_close(nearest.float(), torch.tensor([-two * two, -two * one, 0.0]))
    both = NNGuide(k=2, fraction=1.0).fit(feature, classifier=IDENTITY).score(query)
    torch.testing.assert_close(both.float(), torch.tensor([-two * two / 2, -two * one / 2, 0.0]))


def test_a_sure_row_farther_off_can_guide_more_than_a_near_unsure_one() -> None:
    feature = torch.tensor([[0.1, 0.0], [60.0, 60.0]])
    score = NNGuide(k=1, fraction=1.0).fit(feature, classifier=IDENTITY).score(torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(score.float(), torch.tensor([-log(e + 1) * (60 + log(2)) / 2**0.5]))


def test_turning_features_and_classifier_together_and_the_order_of_the_bank_change_nothing() -> None:
    x, query, turn = drawn(60), drawn(30, 1), torch.linalg.qr(drawn(6, 3))[0]
    expected = NNGuide(k=5, fraction=1.0).fit(x, classifier=CLASSIFIER).score(query)
    turned = linear(CLASSIFIER.weight.double() @ turn, CLASSIFIER.bias)
    score = NNGuide(k=5, fraction=1.0).fit(x @ turn, classifier=turned).score(query @ turn)
    torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)
    flipped = NNGuide(k=5, fraction=1.0).fit(x.flip(0), classifier=CLASSIFIER).score(query)
    torch.testing.assert_close(flipped, expected, rtol=1e-5, atol=1e-5)


def test_a_large_bank_scores_as_the_definition() -> None:
    x, query = drawn(3000), drawn(300, 1)
    score = NNGuide(k=7, fraction=1.0).fit(x, classifier=CLASSIFIER).score(query)
    weight, bias = CLASSIFIER.weight.detach().double(), CLASSIFIER.bias.detach().double()
    unit, evidence = x / x.norm(dim=1, keepdim=True), (x @ weight.T + bias).logsumexp(dim=1)
    similarity = (query / query.norm(dim=1, keepdim=True)) @ (unit * evidence[:, None]).T
    expected = -(query @ weight.T + bias).logsumexp(dim=1) * similarity.topk(7).values.mean(dim=1)
    torch.testing.assert_close(score.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "fraction", "size"), [(1000, 0.01, 10), (900, 1 / 3, 300), (50, 1.0, 50), (70, 0.7, 49)]
)
def test_the_bank_holds_its_share_one_row_of_every_stretch(rows: int, fraction: float, size: int) -> None:
    found = chosen(rows, fraction=fraction)
    assert len(found) == size
    assert found == sorted(set(found))
    assert [int(row * fraction + 0.5 * fraction) for row in found] == pytest.approx(list(range(size)), abs=1)


def test_the_default_takes_a_hundred_of_ten_thousand_rows_and_so_suffices_for_its_k() -> None:
    assert len(NNGuide().fit(drawn(10_000), classifier=CLASSIFIER).bank) == 100


def test_the_draw_follows_the_seed_alone() -> None:
    assert chosen(1000, fraction=0.05) == chosen(1000, fraction=0.05, seed=0)
    assert chosen(1000, fraction=0.05) != chosen(1000, fraction=0.05, seed=1)
    x, banks = drawn(1000), []
    for batch in (1, 7, 333, 1000):
        pairs = [(part, None) for part in x.split(batch)]
        banks.append(NNGuide(k=3, fraction=0.05, seed=4).fit(pairs, classifier=CLASSIFIER).bank)
    for bank in banks:
        torch.testing.assert_close(bank, banks[0])


def test_every_row_of_a_stretch_is_drawn_as_often() -> None:
    first = [chosen(20, fraction=0.1, seed=seed)[0] for seed in range(2000)]
    count = np.bincount(first, minlength=10)
    assert len(count) == 10
    assert 140 < count.min() <= count.max() < 260  # 200 +- 4.5 standard deviations


def test_a_list_sorted_by_class_gives_every_class_its_share() -> None:
    class_ = np.array(chosen(5000, fraction=0.01)) // 500
    assert np.bincount(class_).tolist() == [5] * 10


def test_a_bank_smaller_than_k_is_told_with_the_numbers() -> None:
    message = (
        r"^NNGuide\.fit: k=100 is larger than the bank of 6 features, a share of 0\.01 of 600\. Use a smaller k or a"
    )
    with pytest.raises(FitError, match=message):
        NNGuide().fit(drawn(600), classifier=CLASSIFIER)


def test_a_classifier_that_is_missing_or_reads_another_width_is_told() -> None:
    with pytest.raises(FitError, match=r"^NNGuide\.fit: needs the model's classifier\. Call fit\(feature, label, "):
        NNGuide().fit(drawn(300))
    with pytest.raises(ShapeError, match=r"^NNGuide\.fit: features have 6 columns, the classifier reads 5"):
        NNGuide().fit(drawn(300), classifier=nn.Linear(5, 3))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 0}, r"k must be a whole number of at least 1, got 0\. Try 100\."),
        ({"k": 1.5}, r"k must be a whole number of at least 1, got 1\.5"),
        ({"fraction": 0}, r"fraction must lie in \(0, 1\], got 0\. Try 0\.01\."),
        ({"fraction": 1.5}, r"fraction must lie in \(0, 1\], got 1\.5"),
        ({"fraction": nan}, r"fraction must lie in \(0, 1\], got nan"),
        ({"seed": 0.5}, r"seed must be a whole number, got 0\.5\. Try 0\."),
    ],
)
def test_a_setting_without_meaning_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^NNGuide: {message}"):
        NNGuide(**setting)
