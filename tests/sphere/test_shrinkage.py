from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from torch import Tensor

from spherood.sphere import ledoit_wolf


def centred(rows: int, dim: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, dim, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return x - x.mean(dim=0)


def share(x: Tensor) -> float:
    return ledoit_wolf([x], x.T @ x / len(x))


def test_four_rows_give_the_share_worked_out_by_hand() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]], dtype=torch.float64)
    # S = diag(1/2, 9/2), t = 5/2, d = 4 + 4; b = ((1 + 1 + 81 + 81) / 4 - (1/4 + 81/4)) / 4
    assert share(x) == pytest.approx((41 - 20.5) / 4 / 8)


@given(st.integers(2, 200), st.integers(2, 40), st.integers(0, 9))
def test_the_share_is_that_of_scikit_learn(rows: int, dim: int, seed: int) -> None:
    x = centred(rows, dim, seed)
    expected = LedoitWolf(assume_centered=True).fit(x.numpy()).shrinkage_
    assert share(x) == pytest.approx(expected, rel=1e-6)


def test_the_share_is_near_the_best_one_of_a_normal_distribution() -> None:
    variance = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25], dtype=torch.float64)
    generator, rows = torch.Generator().manual_seed(0), 200
    found = [
        share(torch.randn(rows, 5, generator=generator, dtype=torch.float64) * variance.sqrt()) for _ in range(100)
    ]
    spread = (variance.square().sum() + variance.sum() ** 2) / rows  # E |S - V|^2 for normal rows
    best = spread / (spread + (variance - variance.mean()).square().sum())
    assert sum(found) / 100 == pytest.approx(float(best), rel=0.1)


def test_neither_a_turn_nor_a_scale_nor_the_batching_changes_it() -> None:
    x = centred(60)
    turn = torch.linalg.qr(centred(5, 5, 1) + torch.eye(5))[0]
    assert share(1e-3 * x @ turn) == pytest.approx(share(x))
    assert ledoit_wolf(x.split([1, 0, 40, 19]), x.T @ x / 60) == pytest.approx(share(x))


def test_many_rows_need_little_and_few_that_are_nearly_round_need_all() -> None:
    assert share(centred(20_000)) < 1e-3
    x = torch.tensor([[1.1, 0.0], [-1.1, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    assert share(x) == 1.0  # b is 0.15, d 0.006


def test_two_opposite_rows_need_none_and_rounding_makes_it_no_less_than_none() -> None:
    assert min(share(centred(2, 5, seed)) for seed in range(20)) == 0.0


def test_a_covariance_that_is_round_already_needs_none() -> None:
    assert share(torch.tensor([[1.0], [-2.0], [1.0]], dtype=torch.float64)) == 0.0  # one dimension
    assert share(2 * torch.eye(4, dtype=torch.float64)) == 0.0
