from __future__ import annotations

from math import e, log
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.errors import ConfigError
from spherood.losses import SupCon
from spherood.sphere import normalize

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def drawn(rows: int, classes: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(rows, dim, generator=generator, dtype=torch.float64))
    return z, torch.randint(classes, (rows,), generator=generator)


@pytest.mark.parametrize("case", "abcd")
def test_values_and_gradients_are_those_of_the_released_code(case: str) -> None:
    file = np.load(Path(__file__).parents[1] / "golden" / "supcon.npz")
    g = {key[2:]: file[key] for key in file if key.startswith(f"{case}_")}
    raw = torch.from_numpy(g["raw_features"]).double().requires_grad_()
    loss = SupCon(temperature=float(g["temperature"]), base_temperature=float(g["base_temperature"]))
    total = loss(raw / raw.norm(dim=1, keepdim=True), torch.from_numpy(g["labels"])).total
    total.backward()
    torch.testing.assert_close(total.detach(), torch.as_tensor(g["loss"]), **TIGHT)
    torch.testing.assert_close(raw.grad, torch.from_numpy(g["grad_raw"]), **TIGHT)


def test_a_pair_and_a_loner_give_the_value_worked_out_by_hand() -> None:
    x, y = torch.eye(2, dtype=torch.float64)
    total = SupCon(temperature=0.5, base_temperature=0.25)(torch.stack([x, x, y]), torch.tensor([4, 4, 9])).total
    assert float(total) == pytest.approx(2 * 2 / 3 * (log(e**2 + 1) - 2), rel=1e-12)  # the loner counts 0 in the mean


def test_one_row_and_rows_without_any_partner_give_zero_with_a_zero_gradient() -> None:
    for rows in (1, 3):
        z = drawn(rows, 1, 4)[0].float().requires_grad_()
        total = SupCon()(z, torch.arange(rows)).total
        total.backward()
        assert float(total.detach()) == 0
        assert z.grad is not None
        assert not bool(z.grad.any())


def test_one_class_alone_has_the_value_of_the_formula() -> None:
    z, _ = drawn(5, 1, 4)
    cosine = z @ z.T / 0.1
    off = ~torch.eye(5, dtype=torch.bool)
    per_anchor = [float(cosine[i][off[i]].logsumexp(0) - cosine[i][off[i]].mean()) for i in range(5)]
    total = SupCon()(z, torch.zeros(5, dtype=torch.int64)).total
    assert float(total) == pytest.approx(0.1 / 0.07 * sum(per_anchor) / 5, rel=1e-12)


def test_at_temperature_0_005_float32_stays_finite_and_near_float64() -> None:
    z, label = drawn(16, 4, 8)
    x = z.float().requires_grad_()
    total = SupCon(temperature=0.005)(x, label).total
    total.backward()
    torch.testing.assert_close(total.detach().double(), SupCon(temperature=0.005)(z, label).total, rtol=1e-4, atol=0)
    assert x.grad is not None
    assert bool(x.grad.isfinite().all())


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(1, 6), st.integers(2, 8), st.integers(0, 999))
def test_neither_a_turn_nor_another_order_of_rows_changes_the_value(
    rows: int, classes: int, dim: int, seed: int
) -> None:
    z, label = drawn(rows, classes, dim, seed)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(rows, generator=generator)
    expected = SupCon()(z, label).total
    torch.testing.assert_close(SupCon()(z @ turn, label).total, expected, **TIGHT)
    torch.testing.assert_close(SupCon()(z[order], label[order]).total, expected, **TIGHT)
    torch.testing.assert_close(SupCon()(z, 7 - label).total, expected, **TIGHT)  # the classes' names carry nothing


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"temperature": float("nan")}, {"base_temperature": -1.0}])
def test_a_temperature_that_is_not_above_zero_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"SupCon: temperatures must be > 0, got .* Try 0\.1"):
        SupCon(**setting)
