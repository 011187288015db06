from __future__ import annotations

from math import inf, log, nan
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spherood.detectors import Energy, MaxLogit
from spherood.errors import ConfigError

LOGITS = 5 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("name", "temperature"), [("ebo_T1", 1), ("ebo_T10", 10)])
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, name: str, temperature: float) -> None:
    score = Energy(temperature=temperature).score(resnet20.query_logits)
    np.testing.assert_allclose(score.numpy(), resnet20.score[name], rtol=0, atol=3 * 5e-6)


def test_logits_of_zero_and_log_three_give_the_energies_worked_out_by_hand() -> None:
    logits = torch.tensor([[0.0, log(3)]], dtype=torch.float64)
    assert Energy().score(logits).tolist() == [pytest.approx(-log(4), rel=1e-14)]
    assert Energy(temperature=0.5).score(logits).tolist() == [pytest.approx(-log(10) / 2, rel=1e-14)]


def test_a_number_added_to_the_logits_is_taken_off_the_score_and_the_order_of_classes_counts_for_nothing() -> None:
    expected = Energy(temperature=2.0).score(LOGITS)
    torch.testing.assert_close(Energy(temperature=2.0).score(LOGITS + 50), expected - 50)
    torch.testing.assert_close(Energy(temperature=2.0).score(LOGITS.flip(1)), expected)


def test_scaling_logits_and_temperature_scales_the_score() -> None:
    torch.testing.assert_close(Energy(temperature=3.0).score(3 * LOGITS), 3 * Energy().score(LOGITS))


def test_a_low_temperature_gives_the_maximum_logit_and_large_logits_do_not_overflow() -> None:
    torch.testing.assert_close(Energy(temperature=1e-4).score(LOGITS), MaxLogit().score(LOGITS))
    assert Energy().score(torch.tensor([[1e30, 0.0]])).tolist() == [pytest.approx(-1e30)]
    assert Energy().score(torch.tensor([[0.0, 0.0]])).tolist() == [pytest.approx(-log(2))]


@pytest.mark.parametrize("temperature", [0.0, -1.0, inf, nan])
def test_a_temperature_without_meaning_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"^Energy: temperature must be > 0 and finite, got .*\. Try 1\.0\.$"):
        Energy(temperature=temperature)
