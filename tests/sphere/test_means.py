from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.sphere import ClassMeans


def test_means_by_hand() -> None:
    means = ClassMeans()
    means.add(torch.tensor([[1.0, 2.0], [3.0, 4.0], [10.0, 20.0]]), torch.tensor([0, 0, 1]))
    assert means.mean.tolist() == [[2, 3], [10, 20]]
    assert means.count.tolist() == [2, 1]
    assert means.absent == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 59), max_size=8), st.integers(0, 999))
def test_the_means_do_not_depend_on_how_rows_were_batched(cuts: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, label = torch.randn(60, 5, generator=generator), torch.randint(7, (60,), generator=generator)
    whole, parts = ClassMeans(7), ClassMeans()  # the second one learns of its classes as they come
    whole.add(x, label)
    edges = [0, *sorted(set(cuts)), 60]
    for start, stop in pairwise(edges):
        parts.add(x[start:stop], label[start:stop])
    seen = len(parts.count)
    torch.testing.assert_close(parts.sum, whole.sum[:seen], rtol=1e-13, atol=1e-13)
    assert torch.equal(parts.count, whole.count[:seen])


def test_a_hundred_thousand_float32_rows_lose_no_digit() -> None:
    means = ClassMeans()
    tenth = torch.full((100_000, 1), 0.1)
    means.add(tenth, torch.zeros(100_000, dtype=torch.int64))
    assert abs(float(means.mean) - float(tenth[0].double())) < 1e-12  # a float32 sum is off by 1e-6 and more


def test_absent_classes_are_named() -> None:
    means = ClassMeans(5)
    means.add(torch.ones(2, 3, dtype=torch.float16), torch.tensor([3, 1]))
    assert means.absent == [0, 2, 4]
    assert means.mean.isnan().all(dim=1).tolist() == [True, False, True, False, True]


def test_means_hold_no_gradient() -> None:
    means = ClassMeans()
    means.add(torch.ones(2, 3, requires_grad=True), torch.tensor([0, 1]))
    assert not means.mean.requires_grad


def test_the_direction_of_a_mean_has_length_one() -> None:
    means = ClassMeans()
    means.add(torch.tensor([[6.0, 0.0], [0.0, 8.0], [0.0, -2.0]]), torch.tensor([0, 0, 1]))
    torch.testing.assert_close(means.direction, torch.tensor([[0.6, 0.8], [0.0, -1.0]], dtype=torch.float64))
