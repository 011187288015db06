from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from spherood.detectors import KNN
from spherood.errors import ConfigError, FitError


def drawn(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "k"), [("knn_k1", 1), ("knn_k10", 10), ("knn_k50", 50), ("knn_k200", 200), ("cider_knn_k50", 50)]
)
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, name: str, k: int) -> None:
    score = KNN(k=k).fit(resnet20.train).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score[name], rtol=0, atol=1e-6)


def test_two_rows_in_the_bank_give_the_distances_worked_out_by_hand() -> None:
    x, y, z = torch.eye(3)
    bank, query = torch.stack([2 * x, 3 * y]), torch.stack([z, -5 * x, x])
    torch.testing.assert_close(KNN(k=1).fit(bank).score(query), torch.tensor([2.0, 2.0, 0.0]))
    torch.testing.assert_close(KNN(k=2).fit(bank).score(query), torch.tensor([2.0, 4.0, 2.0]))


def test_a_very_near_neighbour_keeps_its_digits() -> None:
    angle = 1e-4
    query = torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float32)
    score = KNN(k=1).fit(torch.tensor([[1.0, 0.0]])).score(query)
    assert float(score) == pytest.approx(angle**2, rel=1e-3)  # 2 - 2 cos in float32 gives 0 or 1.2e-7


def test_scores_lie_between_0_and_4_and_grow_with_k() -> None:
    bank, query = drawn(40), drawn(30, 1)
    scores = torch.stack([KNN(k=k).fit(bank).score(query) for k in (1, 2, 7, 40)])
    assert bool((scores.diff(dim=0) > 0).all())
    assert float(KNN(k=1).fit(bank).score(bank).max()) < 1e-12
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 4


def test_turns_lengths_and_the_order_of_the_bank_change_nothing() -> None:
    bank, query = drawn(40), drawn(30, 1)
    expected = KNN(k=3).fit(bank).score(query)
    turn = torch.linalg.qr(drawn(5, 2))[0]
    length = drawn(40, 3).abs()[:, :1] + 0.1
    for changed_bank, changed_query in [
        (bank @ turn, query @ turn),
        (bank * length, query * 7),
        (bank.flip(0), query),
    ]:
        torch.testing.assert_close(KNN(k=3).fit(changed_bank).score(changed_query), expected, rtol=1e-4, atol=1e-5)


def test_labels_are_not_needed_and_not_used() -> None:
    bank = drawn(40)
    with_labels = KNN(k=3).fit(bank, torch.arange(40) % 7).score(bank)
    assert torch.equal(KNN(k=3).fit(bank).score(bank), with_labels)
    assert torch.equal(KNN(k=3).fit([(bank, None)]).score(bank), with_labels)


def test_k_beyond_the_bank_is_told_with_the_largest_that_works() -> None:
    with pytest.raises(FitError, match=r"KNN: k=41 is larger than the bank of 40 features\. Use k <= 40"):
        KNN(k=41).fit(drawn(40))
    assert KNN(k=40).fit(drawn(40)).score(drawn(2)).shape == (2,)


@pytest.mark.parametrize("k", [0, -3, 2.5, "ten"])
def test_k_is_a_whole_number_above_zero(k: Any) -> None:
    with pytest.raises(ConfigError, match=rf"KNN: k must be a whole number of at least 1, got {k}\. Try 50"):
        KNN(k=k)


def test_k_may_come_from_a_numpy_sweep() -> None:
    bank = drawn(40)
    assert torch.equal(KNN(k=np.int64(5)).fit(bank).score(bank), KNN(k=5).fit(bank).score(bank))
