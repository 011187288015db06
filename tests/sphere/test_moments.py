from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spherood.sphere import Moments


def drawn(rows: int, seed: int = 0, dim: int = 4) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(x: Tensor, label: Tensor | None = None, batch: int = 1000) -> Moments:
    moments = Moments()
    for start in range(0, len(x), batch):
        moments.add(x[start : start + batch], None if label is None else label[start : start + batch])
    return moments


def test_three_points_in_two_classes_give_the_moments_worked_out_by_hand() -> None:
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 3.0]])
    moments = of(x, torch.tensor([0, 0, 1]))
    assert moments.rows == 3
    assert moments.mean.tolist() == [1.0, 1.0]
    assert moments.class_mean.tolist() == [[1.0, 0.0], [1.0, 3.0]]
    torch.testing.assert_close(moments.tied, torch.tensor([[2.0, 0.0], [0.0, 0.0]]).double() / 3)
    torch.testing.assert_close(moments.total, torch.tensor([[2.0, 0.0], [0.0, 6.0]]).double() / 3)
    origin = torch.zeros(2, dtype=torch.float64)
    torch.testing.assert_close(moments.about(origin), torch.tensor([[5.0, 3.0], [3.0, 9.0]]).double() / 3)


@pytest.mark.parametrize("batch", [1, 7, 60])
def test_the_moments_are_those_of_the_definition_however_the_rows_were_batched(batch: int) -> None:
    x, label = drawn(60) + 1e6, torch.arange(60) // 20  # sorted by class, and far from zero
    moments = of(x, label, batch)
    mean = torch.stack([x[label == c].mean(dim=0) for c in range(3)])
    within, about, point = x - mean[label], x - x.mean(dim=0), torch.full((4,), 1e6, dtype=torch.float64)
    torch.testing.assert_close(moments.class_mean, mean)
    torch.testing.assert_close(moments.mean, x.mean(dim=0))
    torch.testing.assert_close(moments.tied, within.T @ within / 60, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moments.total, about.T @ about / 60, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(moments.about(point), (x - point).T @ (x - point) / 60, rtol=1e-8, atol=1e-8)


def test_without_labels_and_merged_all_rows_are_one_class() -> None:
    x, label = drawn(60), torch.arange(60) % 3
    for moments in (of(x), of(x, label).merged()):
        assert moments.rows == 60
        torch.testing.assert_close(moments.class_mean, x.mean(dim=0)[None])
        torch.testing.assert_close(moments.tied, of(x, label).total)
        torch.testing.assert_close(moments.total, of(x, label).total)


def test_a_factor_on_the_moments_is_one_on_the_rows() -> None:
    x, label, factor = drawn(60) + 3, torch.arange(60) % 3, torch.tensor([2.0, 0.0, -1.0, 0.5]).double()
    scaled, expected = of(x, label).scaled(factor), of(factor * x, label)
    for name in ("rows", "mean", "class_mean", "tied", "total", "rounding"):
        torch.testing.assert_close(getattr(scaled, name), getattr(expected, name))


def test_equal_rows_vary_by_no_more_than_rounding() -> None:
    x = (drawn(1) + 0.1).repeat(40, 1)
    x[:20] += 1000  # two classes, each one row many times
    moments = of(x, (torch.arange(40) < 20).long())
    assert float(moments.tied.diagonal().max()) <= moments.rounding < 1e-6
