from __future__ import annotations

from math import exp, inf, log, nan
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from spherood.detectors import GEN
from spherood.errors import ConfigError
from spherood.metrics import auroc

LOGITS = 5 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OF_OPENOOD = pytest.mark.parametrize(
    ("name", "settings"), [("gen_g0.1_M100", {}), ("gen_g0.5_M5", {"gamma": 0.5, "m": 5})]
)


@OF_OPENOOD
def test_openood_rounds_one_minus_p_in_float32_and_with_that_mistake_the_scores_are_its(
    resnet20: SimpleNamespace, name: str, settings: dict[str, Any]
) -> None:
    judge = GEN(**settings)
    p = torch.from_numpy(resnet20.query_logits).softmax(dim=1).sort(dim=1, descending=True).values[:, : judge.m]
    rounded = (p * (1 - p)).pow(judge.gamma).sum(dim=1)
    np.testing.assert_allclose(rounded.numpy(), resnet20.score[name], rtol=0, atol=1e-5)
    score, reference = judge.score(resnet20.query_logits).numpy(), resnet20.score[name]
    assert abs(auroc(score[:500], score[500:]) - auroc(reference[:500], reference[500:])) < 1e-4
    honest = p[:, 0] < 0.99  # where float32 keeps the digits of 1 - p
    assert int(honest.sum()) > 100
    np.testing.assert_allclose(score[honest], reference[honest], rtol=0, atol=1e-4)


def test_odds_of_three_to_one_give_the_score_worked_out_by_hand() -> None:
    logits = torch.tensor([[log(3), 0.0]], dtype=torch.float64)  # p (1 - p) = 3/16 for both
    assert GEN(gamma=0.5).score(logits).tolist() == [pytest.approx(2 * (3 / 16) ** 0.5, rel=1e-14)]
    assert GEN(gamma=0.5, m=1).score(logits).tolist() == [pytest.approx((3 / 16) ** 0.5, rel=1e-14)]
    assert GEN().score(logits).tolist() == [pytest.approx(2 * (3 / 16) ** 0.1, rel=1e-14)]


def test_the_m_largest_are_counted_wherever_they_stand() -> None:
    odds = torch.tensor([[1.0, 5.0, 1.0, 3.0]], dtype=torch.float64)  # p = .1, .5, .1, .3
    assert GEN(gamma=1.0, m=2).score(odds.log()).tolist() == [pytest.approx(0.5 * 0.5 + 0.3 * 0.7, rel=1e-14)]


@pytest.mark.parametrize("gap", [40.0, 300.0])
def test_near_certainty_keeps_its_digits(gap: float) -> None:
    score = GEN().score(torch.tensor([[gap, 0.0]]))
    assert score.tolist() == [pytest.approx(2 * exp(-gap) ** 0.1, rel=1e-12)]  # 1 - p is 0 in float64 from 37 on


def test_adding_a_number_or_changing_the_order_of_classes_changes_nothing() -> None:
    torch.testing.assert_close(GEN(m=3).score(LOGITS + 50), GEN(m=3).score(LOGITS))
    torch.testing.assert_close(GEN(m=3).score(LOGITS.flip(1)), GEN(m=3).score(LOGITS))


def test_more_than_all_classes_are_all_and_equal_logits_score_highest() -> None:
    assert torch.equal(GEN(m=7).score(LOGITS), GEN(m=1000).score(LOGITS))
    assert float(GEN().score(LOGITS).max()) < float(GEN().score(torch.zeros(1, 7)))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"gamma": 0.0}, r"GEN: gamma must be > 0 and finite, got 0\.0\. Try 0\.1\."),
        ({"gamma": inf}, "GEN: gamma must be > 0 and finite, got inf"),
        ({"gamma": nan}, "GEN: gamma must be > 0 and finite, got nan"),
        ({"m": 0}, r"GEN: m must be a whole number of at least 1, got 0\. Try 100\."),
        ({"m": 2.5}, r"GEN: m must be a whole number of at least 1, got 2\.5"),
    ],
)
def test_a_setting_without_meaning_is_refused(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GEN(**setting)
