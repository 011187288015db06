from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch

from spherood.detectors import MaxLogit


def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace) -> None:
    score = MaxLogit().score(resnet20.query_logits)
    np.testing.assert_allclose(score.numpy(), resnet20.score["mls"], rtol=0, atol=1e-6)


def test_the_largest_of_three_logits_is_the_score_turned_round() -> None:
    assert MaxLogit().score(torch.tensor([[1.0, 4.0, -9.0], [-2.0, -3.0, -5.0]])).tolist() == [-4.0, 2.0]


def test_shift_scale_and_order_of_the_classes_act_as_on_a_maximum() -> None:
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = MaxLogit().score(logits)
    torch.testing.assert_close(MaxLogit().score(3 * logits + 50), 3 * expected - 50)
    assert torch.equal(MaxLogit().score(logits.flip(1)), expected)
