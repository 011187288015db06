from __future__ import annotations

from math import cos, pi, sin

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.sphere import advance, normalize

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def row_loop(prototypes: Tensor, embedding: Tensor, label: Tensor, momentum: float) -> Tensor:
    rows = list(prototypes)
    for z, y in zip(embedding, label.tolist(), strict=True):
        moved = momentum * rows[y] + (1 - momentum) * z
        rows[y] = moved / moved.norm()
    return torch.stack(rows)


def drawn(rows: int, classes: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prototypes = normalize(torch.randn(classes, dim, generator=generator, dtype=torch.float64))
    embedding = normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64))
    return prototypes, embedding, torch.randint(classes, (rows,), generator=generator)


def turn(dim: int, seed: int) -> Tensor:
    square = torch.randn(dim, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.qr(square)[0]


def test_at_momentum_one_half_every_row_halves_the_angle() -> None:
    x, y = torch.eye(2, dtype=torch.float64)
    after = advance(torch.stack([x, x]), torch.stack([y, y]), torch.tensor([0, 0]), 0.5)
    by_hand = torch.tensor([[cos(3 * pi / 8), sin(3 * pi / 8)], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(after, by_hand, **EXACT)


@pytest.mark.parametrize(
    ("classes", "momentum"), [(10, 0.0), (10, 0.5), (10, 1.0), (10, 0.95), (100, 0.5), (1000, 0.5)]
)
def test_rounds_give_the_prototypes_and_gradients_of_the_row_loop(classes: int, momentum: float) -> None:
    prototypes, embedding, label = drawn(1024, classes, 128)
    weight = torch.randn(classes, 128, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    results = []
    for way in (row_loop, advance):
        p, z = prototypes.clone().requires_grad_(), embedding.clone().requires_grad_()
        after = way(p, z, label, momentum)
        (after * weight).sum().backward()
        results.append((after.detach(), z.grad, p.grad))
    for ours, plain in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours, plain, **EXACT)


def test_the_derivative_is_that_of_finite_differences() -> None:
    prototypes, embedding, _ = drawn(7, 3, 4)
    label = torch.tensor([2, 0, 2, 2, 0, 2, 2])  # class 1 is absent
    assert torch.autograd.gradcheck(
        lambda p, z: advance(p, z, label, 0.7), (prototypes.requires_grad_(), embedding.requires_grad_())
    )


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(2, 9), st.floats(0, 1), st.integers(0, 999))
def test_prototypes_stay_unit_and_absent_classes_keep_theirs(
    rows: int, classes: int, dim: int, momentum: float, seed: int
) -> None:
    prototypes, embedding, label = drawn(rows, classes, dim, seed)
    after = advance(prototypes, embedding, label, momentum)
    torch.testing.assert_close(after.norm(dim=1), torch.ones(classes, dtype=torch.float64), **EXACT)
    absent = ~torch.isin(torch.arange(classes), label)
    assert torch.equal(after[absent], prototypes[absent])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 999))
def test_rows_of_other_classes_may_come_in_between(rows: int, classes: int, seed: int) -> None:
    prototypes, embedding, label = drawn(rows, classes, 5, seed)
    by_class = label.argsort(stable=True)  # the order within a class stays
    torch.testing.assert_close(
        advance(prototypes, embedding[by_class], label[by_class], 0.5),
        advance(prototypes, embedding, label, 0.5),
        **EXACT,
    )


def test_the_order_within_a_class_matters() -> None:
    prototypes, embedding, label = drawn(8, 1, 5)
    forth, back = advance(prototypes, embedding, label, 0.5), advance(prototypes, embedding.flip(0), label, 0.5)
    assert float((forth * back).sum()) < 0.99


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(2, 8), st.integers(0, 999))
def test_turning_rows_and_prototypes_turns_the_result(rows: int, dim: int, seed: int) -> None:
    prototypes, embedding, label = drawn(rows, 4, dim, seed)
    q = turn(dim, seed)
    torch.testing.assert_close(
        advance(prototypes @ q, embedding @ q, label, 0.8), advance(prototypes, embedding, label, 0.8) @ q, **EXACT
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32])
def test_labels_of_any_integer_type_mean_the_same(dtype: torch.dtype) -> None:
    prototypes, embedding, label = drawn(20, 4, 5)
    expected = advance(prototypes, embedding, label, 0.5)
    assert torch.equal(advance(prototypes, embedding, label.to(dtype), 0.5), expected)


def test_the_old_prototypes_are_left_as_they_were() -> None:
    prototypes, embedding, label = drawn(20, 4, 5)
    before = prototypes.clone()
    advance(prototypes, embedding, label, 0.5)
    assert torch.equal(prototypes, before)
