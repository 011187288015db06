from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spherood.sphere import residual_basis, zero_point


def drawn(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_of_three_axes_the_two_that_vary_least_are_left() -> None:
    basis = residual_basis(torch.diag(torch.tensor([1.0, 9.0, 4.0])), 1)
    torch.testing.assert_close(basis @ basis.T, torch.diag(torch.tensor([1.0, 0.0, 1.0])))


@pytest.mark.parametrize("dim", [0, 1, 4])
def test_the_basis_is_orthonormal_and_holds_the_least_variance_of_any(dim: int) -> None:
    x = drawn(60) * torch.tensor([3.0, 1.0, 0.5, 2.0, 0.1], dtype=torch.float64)
    second = x.T @ x / 60
    basis = residual_basis(second, dim)
    assert basis.shape == (5, 5 - dim)
    torch.testing.assert_close(basis.T @ basis, torch.eye(5 - dim, dtype=torch.float64))
    for seed in range(20):
        other = torch.linalg.qr(drawn(5, seed))[0][:, : 5 - dim]
        assert float((basis.T @ second @ basis).trace()) <= float((other.T @ second @ other).trace()) + 1e-12


def test_logits_are_zero_at_the_zero_point_of_independent_classes() -> None:
    weight, bias = drawn(3), drawn(1, 1, 3)[0]
    point = zero_point(weight, bias)
    torch.testing.assert_close(weight @ point + bias, torch.zeros(3, dtype=torch.float64))
    away = torch.linalg.svd(weight).Vh[3:]  # directions that no logit sees
    torch.testing.assert_close(away @ point, torch.zeros(2, dtype=torch.float64))


def test_classes_that_sum_to_zero_but_for_rounding_do_not_blow_it_up() -> None:
    weight = drawn(3).float()
    weight[2] = -(weight[0] + weight[1])
    point = zero_point(weight, torch.tensor([1.0, 1.0, 1.0]))
    assert float(point.norm()) < 1e-3
