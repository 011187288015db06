from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from spherood.detectors import KNN
from spherood.detectors.surprise import curve, curve_of, divided, summed
from spherood.errors import FitError


def of(reference: Tensor, score: Tensor) -> Tensor:
    """The surprise of some scores (B,)."""
    knot, surprise, slope = curve(reference.double())
    return summed([score], knot[None], surprise[None], slope[None])


def test_the_curve_gives_minus_the_log_of_the_p_value_at_its_knots_and_goes_on_straight() -> None:
    reference = torch.arange(1.0, 10.0, dtype=torch.float64)  # nine scores: p at the highest is 2 / 10
    knot, surprise, slope = curve(reference)
    assert knot[0].item() == pytest.approx(1)
    assert surprise[0].item() == pytest.approx(-math.log(10 / 10))
    assert knot[-1].item() == pytest.approx(9)
    assert surprise[-1].item() == pytest.approx(-math.log(2 / 10))
    assert slope.item() == pytest.approx(1 / 0.5)  # of 8 and 9 the mean excess over 8
    _, _, slope = curve(torch.arange(1.0, 41.0, dtype=torch.float64))
    assert slope.item() == pytest.approx(1 / 1.5)  # of 37 to 40, a tenth, over 37


def test_between_knots_below_and_above_them_it_is_what_a_pencil_draws() -> None:
    score = torch.tensor([8.5, 0.0, 9.0, 11.0])
    middle = -(math.log(3 / 10) + math.log(2 / 10)) / 2
    by_hand = torch.tensor([middle, 0.0, -math.log(2 / 10), -math.log(2 / 10) + 2 * 2.0], dtype=torch.float64)
    torch.testing.assert_close(of(torch.arange(1.0, 10.0), score), by_hand, rtol=1e-6, atol=1e-6)


def test_scores_that_are_all_equal_make_a_curve_too() -> None:
    below, at, above = of(torch.full((20,), 3.0), torch.tensor([2.0, 3.0, 4.0])).tolist()
    assert below == pytest.approx(0)
    assert below <= at < above < math.inf


def test_any_rising_scale_of_a_score_gives_the_same_surprise_at_the_reference() -> None:
    reference = torch.rand(25, generator=torch.Generator().manual_seed(0), dtype=torch.float64)  # each is a knot
    torch.testing.assert_close(of(reference.exp() * 7, reference.exp() * 7), of(reference, reference))


def test_every_fifth_row_is_reference_however_the_rows_are_batched() -> None:
    x, label = torch.arange(23.0)[:, None], torch.arange(23)
    batches = [(x[:7], label[:7]), (x[7:8], label[7:8]), (x[8:], label[8:])]
    for given in [(x, label), (batches, None)]:
        rest, reference = divided(KNN(), *given)
        for _ in range(2):  # as often as one likes
            assert torch.cat([rows for rows, _ in reference]).flatten().tolist() == [4, 9, 14, 19]
            kept = torch.cat([part for _, part in rest if part is not None]).tolist()
            assert kept == [row for row in range(23) if row % 5 != 4]


def test_the_reference_is_scored_by_a_fit_that_has_not_seen_it() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    rest, reference = divided(KNN(k=1), x, None)
    knot, _, _ = curve_of(KNN(k=1), rest, reference)
    assert knot[0] > 0  # a row of the bank is 0 from itself


def test_four_rows_and_a_generator_are_refused() -> None:
    x = torch.randn(9, 3)
    with pytest.raises(FitError, match=r"^KNN\.fit: needs 5 rows or more to compare with\. Give it more\.$"):
        divided(KNN(), x[:4], None)
    with pytest.raises(FitError, match=r"KNN\.fit: reads the batches twice"):
        divided(KNN(), (pair for pair in [(x, None)]), None)
