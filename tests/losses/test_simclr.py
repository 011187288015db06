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
from spherood.losses import SimCLR
from spherood.sphere import normalize

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def drawn(images: int, views: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = normalize(torch.randn(images * views, dim, generator=generator, dtype=torch.float64))
    return z, torch.arange(images).repeat(views)


@pytest.mark.parametrize("case", "abc")
def test_values_and_gradients_are_those_of_the_released_code(case: str) -> None:
    file = np.load(Path(__file__).parents[1] / "golden" / "simclr.npz")
    g = {key[2:]: file[key] for key in file if key.startswith(f"{case}_")}
    raw = torch.from_numpy(g["raw_features"]).double().requires_grad_()
    views = int(g["views"])
    image = torch.arange(len(raw) // views).repeat(views)
    loss = SimCLR(temperature=float(g["temperature"]), base_temperature=float(g["base_temperature"]))
    total = loss(raw / raw.norm(dim=1, keepdim=True), image).total
    total.backward()
    torch.testing.assert_close(total.detach(), torch.as_tensor(g["loss"]), **TIGHT)
    torch.testing.assert_close(raw.grad, torch.from_numpy(g["grad_raw"]), **TIGHT)


def test_two_images_in_two_equal_views_give_the_value_worked_out_by_hand() -> None:
    z = torch.eye(2, dtype=torch.float64).repeat(2, 1)
    total = SimCLR(base_temperature=0.25)(z, torch.tensor([0, 1, 0, 1])).total
    assert float(total) == pytest.approx(0.5 / 0.25 * (log(e**2 + 2) - 2), rel=1e-12)  # a partner at 1, two rows at 0


def test_the_engine_is_asked_for_the_index_of_the_image() -> None:
    assert SimCLR.labels == "image"


def test_the_gradient_is_that_of_the_value() -> None:
    z, image = drawn(3, 2, 4)
    assert torch.autograd.gradcheck(lambda x: SimCLR()(x, image).total, z.requires_grad_())


@pytest.mark.parametrize("images", [1, 4])
def test_one_view_has_no_partner_and_gives_zero_with_a_zero_gradient(images: int) -> None:
    z, image = drawn(images, 1, 5)
    x = z.float().requires_grad_()
    total = SimCLR()(x, image).total
    total.backward()
    assert float(total.detach()) == 0
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(2, 8), st.integers(0, 999))
def test_neither_a_turn_nor_another_order_of_rows_changes_the_value(
    images: int, views: int, dim: int, seed: int
) -> None:
    z, image = drawn(images, views, dim, seed)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    order = torch.randperm(len(z), generator=generator)
    expected = SimCLR()(z, image).total
    torch.testing.assert_close(SimCLR()(z @ turn, image).total, expected, **TIGHT)
    torch.testing.assert_close(SimCLR()(z[order], image[order]).total, expected, **TIGHT)
    torch.testing.assert_close(
        SimCLR()(z, 50_000 - image).total, expected, **TIGHT
    )  # a place in a data set, not 0..C-1


@pytest.mark.parametrize("setting", [{"temperature": 0.0}, {"temperature": float("nan")}, {"base_temperature": -1.0}])
def test_a_temperature_that_is_not_above_zero_is_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"SimCLR: temperatures must be > 0, got .* Try 0\.5"):
        SimCLR(**setting)
