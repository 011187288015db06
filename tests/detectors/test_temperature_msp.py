from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from spherood.detectors import MSP, TemperatureMSP
from spherood.errors import FitError


def drawn(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and labels that follow softmax(logits / 3)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(rows, 5, generator=generator, dtype=torch.float64)
    return logits, torch.multinomial((logits / 3).softmax(dim=1), 1, generator=generator)[:, 0]


def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace) -> None:
    judge = TemperatureMSP().fit(resnet20.validation_logits, resnet20.validation_label)
    assert float(judge.temperature) == pytest.approx(1.7587, abs=1e-4)
    score = judge.score(resnet20.query_logits)
    np.testing.assert_allclose(score.numpy(), resnet20.score["temp_scaling"], rtol=0, atol=3e-3)


def test_the_score_is_that_of_logits_over_the_temperature() -> None:
    judge = TemperatureMSP().fit(*drawn(500))
    query = drawn(30, 1)[0]
    torch.testing.assert_close(judge.score(query), MSP().score(query / judge.temperature.double()))


def test_the_temperature_moves_from_one_and_a_half_towards_the_best() -> None:
    logits, label = drawn(500)
    assert 1.6 < float(TemperatureMSP().fit(logits, label).temperature) < 3
    assert float(TemperatureMSP().fit(logits, logits.argmax(dim=1)).temperature) < 1.5


def test_the_order_of_classes_and_of_rows_changes_nothing() -> None:
    logits, label = drawn(500)
    expected = TemperatureMSP().fit(logits, label).temperature
    torch.testing.assert_close(TemperatureMSP().fit(logits.flip(1), 4 - label).temperature, expected)
    torch.testing.assert_close(TemperatureMSP().fit(logits.flip(0), label.flip(0)).temperature, expected)
    torch.testing.assert_close(TemperatureMSP().fit(logits + 50, label).temperature, expected)


def test_labels_that_are_missing_or_no_column_are_told() -> None:
    logits, label = drawn(20)
    with pytest.raises(FitError, match=r"^TemperatureMSP\.fit: needs labels\. Call fit\(logits, label\)\.$"):
        TemperatureMSP().fit(logits)
    message = r"^TemperatureMSP\.fit: labels reach \d, the logits have 5 columns\. Drop unknown labels\.$"
    with pytest.raises(FitError, match=message):
        TemperatureMSP().fit(logits, label + 4)


def test_a_search_that_ends_below_zero_asks_for_more() -> None:
    right = torch.tensor([[0.2, 0.0], [6.0, 0.0], [9.0, 0.0]], dtype=torch.float64)  # none is wrong: 0 is best
    message = (
        r"^TemperatureMSP\.fit: the search for a temperature ended at -14\.\d+\. Give it more held-out logits, wrong "
        r"guesses among them\.$"
    )
    with pytest.raises(FitError, match=message):
        TemperatureMSP().fit(right, torch.zeros(3, dtype=torch.int64))
