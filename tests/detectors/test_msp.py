from __future__ import annotations

from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from spherood.detectors import MSP


def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace) -> None:
    score = MSP().score(resnet20.query_logits)
    np.testing.assert_allclose(score.numpy(), resnet20.score["msp"], rtol=0, atol=3 * 6e-7)


def test_odds_of_three_to_one_give_minus_three_quarters() -> None:
    score = MSP().score(torch.tensor([[log(3), 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert score.tolist() == [pytest.approx(-0.75, rel=1e-15), -0.5]


def test_sure_guesses_do_not_tie_at_minus_one() -> None:
    score = MSP().score(torch.tensor([[30.0, 0.0], [31.0, 0.0]]))
    assert (1 + score).tolist() == pytest.approx([exp(-30), exp(-31)], rel=1e-2, abs=0)


def test_adding_a_number_or_changing_the_order_of_classes_changes_nothing() -> None:
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(MSP().score(logits + 50), MSP().score(logits))
    torch.testing.assert_close(MSP().score(logits.flip(1)), MSP().score(logits))
