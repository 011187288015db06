from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from spherood.detectors import SSD, Mahalanobis
from spherood.errors import FitError
from spherood.sphere import normalize


def drawn(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    noise = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return noise + torch.arange(1, dim + 1)


def test_the_scores_are_those_of_the_reference(resnet20: SimpleNamespace) -> None:
    score = SSD().fit(resnet20.train).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score["ssd_1cluster"], rtol=3 * 4e-7, atol=0)


def test_four_directions_give_the_distances_worked_out_by_hand() -> None:
    feature = torch.tensor([[3.0, 4.0], [-3.0, 4.0], [6.0, -8.0], [-3.0, -4.0]])  # unit: (+-.6, +-.8)
    score = SSD().fit(feature).score(torch.tensor([[2.0, 0.0], [0.0, -1.0], [30.0, 40.0], [0.0, 0.0]]))
    torch.testing.assert_close(score, torch.tensor([1 / 0.36, 1 / 0.64, 2.0, 0.0]))


def test_where_every_coordinate_varies_it_is_the_mahalanobis_distance_of_unit_features_as_one_class() -> None:
    x, query = drawn(200), drawn(50, 1)
    expected = Mahalanobis(unit=True).fit(x, torch.zeros(200, dtype=torch.int64)).score(query)
    torch.testing.assert_close(SSD().fit(x).score(query), expected, rtol=1e-4, atol=1e-4)


def test_turns_and_lengths_and_the_order_of_rows_change_nothing() -> None:
    x, query = drawn(200), drawn(50, 1)
    expected = SSD().fit(x).score(query)
    turn, length = torch.linalg.qr(drawn(5, 2))[0], drawn(200, 3).abs()[:, :1] + 0.1
    for moved, changed_query in [(x @ turn, query @ turn), (length * x, 7 * query), (x.flip(0), query)]:
        torch.testing.assert_close(SSD().fit(moved).score(changed_query), expected, rtol=1e-3, atol=1e-3)


def test_a_coordinate_that_hardly_varies_counts_as_much_as_any_other() -> None:
    x = torch.cat([drawn(500), 1e-5 * (drawn(500, 1, 1) - 1)], dim=1)
    odd = x[:1].clone()
    odd[0, 5] = 1e-3  # a hundred standard deviations
    one = torch.zeros(500, dtype=torch.int64)
    assert float(SSD().fit(x).score(odd)) > 5000
    assert float(Mahalanobis(unit=True).fit(x, one).score(odd)) < 100


@pytest.mark.parametrize("constant", [0.0, 0.3])
def test_a_coordinate_that_does_not_vary_counts_for_nothing(constant: float) -> None:
    rest = (1 - constant**2) ** 0.5
    x, query = rest * normalize(drawn(200)), rest * normalize(drawn(50, 1))
    beside = torch.full((200, 1), constant, dtype=x.dtype)  # in float32 its unit rows vary by rounding
    judge = SSD().fit(torch.cat([x, beside], dim=1).float())
    score = judge.score(torch.cat([query, beside[:50] + 1e-4], dim=1).float())
    torch.testing.assert_close(score, SSD().fit(x).score(query), rtol=1e-2, atol=1e-2)


def test_directions_that_do_not_vary_are_refused() -> None:
    for x in (torch.ones(9, 4), torch.arange(1, 10)[:, None] * torch.tensor([0.3, 0.7, 0.1]), torch.zeros(3, 4)):
        with pytest.raises(FitError, match=r"^SSD\.fit: the features do not vary\. Is the encoder collapsed"):
            SSD().fit(x)
