from __future__ import annotations

from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.errors import ConfigError, ShapeError
from spherood.losses import LogitNorm

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def drawn(rows: int, classes: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("case", "abcd")
def test_values_and_gradients_are_those_of_the_released_code(case: str) -> None:
    file = np.load(Path(__file__).parents[1] / "golden" / "logitnorm.npz")
    g = {key[2:]: file[key] for key in file if key.startswith(f"{case}_")}
    logits = torch.from_numpy(g["logits"]).double().requires_grad_()
    total = LogitNorm(temperature=float(g["tau"]))(logits, torch.from_numpy(g["labels"])).total
    total.backward()
    torch.testing.assert_close(total.detach(), torch.as_tensor(g["loss"]), **TIGHT)
    torch.testing.assert_close(logits.grad, torch.from_numpy(g["grad_logits"]), **TIGHT)


def test_a_row_of_length_five_gives_the_value_worked_out_by_hand() -> None:
    total = LogitNorm(temperature=0.5)(torch.tensor([[3.0, 4.0]], dtype=torch.float64), torch.tensor([0])).total
    assert float(total) == pytest.approx(log(1 + exp((0.8 - 0.6) / 0.5)), rel=1e-7)


def test_the_gradient_is_that_of_the_value() -> None:
    logits, label = drawn(4, 3)
    assert torch.autograd.gradcheck(lambda x: LogitNorm(temperature=0.5)(x, label).total, logits.requires_grad_())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(2, 8), st.floats(-2, 6), st.integers(0, 999))
def test_louder_or_softer_rows_change_no_value_and_no_row_is_told_to_grow(
    rows: int, classes: int, power: float, seed: int
) -> None:
    logits, label = drawn(rows, classes, seed)
    louder = (10**power * logits).requires_grad_()
    total = LogitNorm()(louder, label).total
    shortest = float(torch.cat([logits, louder.detach()]).norm(dim=1).min())
    apart = 2 * 1e-7 / shortest / 0.04  # the 1e-7 beside the length, in logits
    torch.testing.assert_close(total, LogitNorm()(logits, label).total, rtol=0, atol=2 * apart)
    (gradient,) = torch.autograd.grad(total, louder)
    assert float((gradient * louder.detach()).sum(dim=1).abs().max()) <= 2 * apart  # along itself a row has no slope


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(2, 8), st.integers(0, 999))
def test_neither_the_order_of_rows_nor_that_of_the_classes_changes_the_value(
    rows: int, classes: int, seed: int
) -> None:
    logits, label = drawn(rows, classes, seed)
    generator = torch.Generator().manual_seed(seed)
    order, place = torch.randperm(rows, generator=generator), torch.randperm(classes, generator=generator)
    expected = LogitNorm()(logits, label).total
    torch.testing.assert_close(LogitNorm()(logits[order], label[order]).total, expected, **TIGHT)
    torch.testing.assert_close(LogitNorm()(logits[:, place], place.argsort()[label]).total, expected, **TIGHT)


def test_a_zero_row_is_undecided_and_its_gradient_finite() -> None:
    logits = torch.zeros(1, 5, requires_grad=True)
    total = LogitNorm()(logits, torch.tensor([3])).total
    total.backward()
    assert float(total.detach()) == pytest.approx(log(5), rel=1e-6)
    assert logits.grad is not None
    assert bool(logits.grad.isfinite().all())
    assert float(logits.grad[0, 3]) == pytest.approx(-4 / 5 / 0.04 / 1e-7, rel=1e-5)


def test_half_precision_logits_too_long_for_a_half_precision_length_still_count() -> None:
    logits = torch.tensor([[60_000.0, -60_000.0]], dtype=torch.float16)  # 84,853 long; float16 ends at 65,504
    total = LogitNorm(temperature=1.0)(logits, torch.tensor([0])).total
    assert float(total) == pytest.approx(log(1 + exp(-(2**0.5))), rel=1e-6)


def test_labels_out_of_range_are_told_with_the_number_of_classes() -> None:
    with pytest.raises(ShapeError, match=r"LogitNorm: labels run 0\.\.3, expected 0\.\.2\. Pass classes=4"):
        LogitNorm()(torch.ones(2, 3), torch.tensor([0, 3]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_a_temperature_that_is_not_above_zero_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=r"LogitNorm: temperature must be > 0, got .* Try 0\.04"):
        LogitNorm(temperature=temperature)
