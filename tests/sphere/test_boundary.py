from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spherood.sphere import boundary, boundary_outliers, normalize
from spherood.sphere.boundary import farthest, kth_square, outermost

TIGHT = {"rtol": 1e-9, "atol": 1e-12}
CASE = pytest.mark.parametrize("case", "ab")


def golden(case: str) -> dict[str, Any]:
    file = np.load(Path(__file__).parents[1] / "golden" / "npos.npz")
    tensors = {key[2:]: torch.from_numpy(file[key]) for key in file if key.startswith(f"{case}_")}
    return {key: value if value.ndim else value.item() for key, value in tensors.items()}


def candidates(g: dict[str, Any]) -> Tensor:
    """(A, M, D), by the definition."""
    return g["id_features"][g["boundary_idx"][g["pick_draw"]]][:, None] + g["cov"] * g["noise"]


def outliers(g: dict[str, Any], *, as_released: bool = False) -> Tensor:
    return boundary_outliers(
        g["id_features"][None],
        g["pick_draw"][None],
        g["cov"] * g["noise"],
        k=g["K"],
        select=g["select"],
        points=g["points_per_anchor"],
        as_released=as_released,
    )[0]


@CASE
def test_the_outermost_rows_are_those_of_the_released_code(case: str) -> None:
    g = golden(case)
    distance, row = outermost(g["id_features"], g["K"], g["select"])
    assert torch.equal(row, g["boundary_idx"])
    torch.testing.assert_close(distance, g["boundary_kth_sqdist"], **TIGHT)
    assert torch.equal(row[g["pick_draw"]], g["chosen_anchor_idx"])


@CASE
def test_candidates_and_their_distances_are_those_of_the_released_code(case: str) -> None:
    g = golden(case)
    candidate = candidates(g)
    torch.testing.assert_close(candidate.flatten(0, 1), g["candidates"], **TIGHT)
    torch.testing.assert_close(
        kth_square(candidate, g["id_features"], g["K"]).flatten(), g["candidate_kth_sqdist"], **TIGHT
    )


@CASE
def test_the_farthest_candidates_are_kept_or_those_of_the_released_code(case: str) -> None:
    g = golden(case)
    first = g["noise"].shape[0] * torch.arange(g["pick"])[:, None]
    kept = farthest(candidates(g), g["id_features"], g["K"], g["points_per_anchor"]) + first
    assert torch.equal(kept.flatten(), g["outlier_idx_intended"])
    torch.testing.assert_close(outliers(g), g["candidates"][g["outlier_idx_intended"]], **TIGHT)
    torch.testing.assert_close(outliers(g, as_released=True), g["outliers_reference"], **TIGHT)


def test_the_farthest_lie_farther_than_all_candidates_do_and_the_released_choice_hardly() -> None:
    g = golden("a")
    means = [
        float(kth_square(rows, g["id_features"], g["K"]).mean())
        for rows in (outliers(g), outliers(g, as_released=True), candidates(g))
    ]
    assert means == pytest.approx([1.436, 1.398, 1.393], abs=5e-4)


def test_a_point_between_three_directions_has_the_distances_worked_out_by_hand() -> None:
    bank = torch.tensor([[2.0, 0.0], [0.0, 5.0], [-1.0, 0.0]], dtype=torch.float64)
    x = torch.tensor([[3.0, 4.0]], dtype=torch.float64)  # cosines .6, .8, -.6
    found = torch.cat([kth_square(x, bank, k) for k in (1, 2, 3)])
    torch.testing.assert_close(found, torch.tensor([0.4, 0.8, 3.2], dtype=torch.float64))
    own = torch.randn(200, 7, generator=torch.Generator().manual_seed(0))  # float32: some cosines with itself exceed 1
    apart = kth_square(own, own, 1)  # each is its own first neighbour
    assert 0 <= float(apart.min()) <= float(apart.max()) < 1e-6


@given(st.integers(0, 999), st.integers(1, 4), st.integers(2, 9), st.integers(2, 6))
def test_distances_are_those_of_sorting_all_of_them(seed: int, rows: int, banked: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, bank = (torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (rows, banked))
    apart = torch.stack([(normalize(row) - normalize(bank)).square().sum(dim=1).sort().values for row in x])
    for k in range(1, banked + 1):
        torch.testing.assert_close(kth_square(x, bank, k), apart[:, k - 1], rtol=1e-9, atol=1e-12)


def drawn(classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Banks (C, 12, 6), draws (C, 2) of 5, noise (7, 6)."""
    generator = torch.Generator().manual_seed(seed)
    bank = torch.randn(classes, 12, 6, generator=generator, dtype=torch.float64)
    draw = torch.rand(classes, 5, generator=generator).argsort(dim=1)[:, :2]
    return bank, draw, 0.3 * torch.randn(7, 6, generator=generator, dtype=torch.float64)


@given(st.integers(0, 999))
def test_turning_banks_and_noise_turns_the_outliers(seed: int) -> None:
    bank, draw, noise = drawn(3, seed)
    square = torch.randn(6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.linalg.qr(square).Q
    still = boundary_outliers(bank, draw, noise, k=4, select=5, points=3)
    turned = boundary_outliers(bank @ turn, draw, noise @ turn, k=4, select=5, points=3)
    torch.testing.assert_close(turned, still @ turn, rtol=0, atol=1e-12)


@pytest.mark.parametrize("as_released", [False, True])
def test_classes_do_not_meet_however_many_are_computed_at_once(
    as_released: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, draw, noise = drawn(5)
    settings = {"k": 4, "select": 5, "points": 3, "as_released": as_released}
    together = boundary_outliers(bank, draw, noise, **settings)
    assert together.shape == (5, 2 * 3, 6)
    for c in range(5):
        alone = boundary_outliers(bank[c : c + 1], draw[c : c + 1], noise, **settings)
        torch.testing.assert_close(together[c : c + 1], alone, **TIGHT)
    for tile in (1, 2 * 12 * 14):  # one class at a time; two
        monkeypatch.setattr(boundary, "TILE", tile)
        torch.testing.assert_close(boundary_outliers(bank, draw, noise, **settings), together, **TIGHT)


@pytest.mark.parametrize("as_released", [False, True])
@pytest.mark.parametrize("points", [1, 3])
def test_one_anchor_and_one_point_are_enough(as_released: bool, points: int) -> None:
    bank, draw, noise = drawn(2)
    found = boundary_outliers(bank, draw[:, :1], noise, k=4, select=5, points=points, as_released=as_released)
    assert found.shape == (2, points, 6)
    for c in range(2):
        candidate = bank[c][outermost(bank[c], 4, 5)[1][draw[c, 0]]] + noise
        far = kth_square(candidate, bank[c], 4).argsort(descending=True)[:points]
        torch.testing.assert_close(found[c], candidate[far], **TIGHT)


def test_outliers_carry_no_gradient_and_a_zero_row_makes_none_of_them_nan() -> None:
    bank, draw, noise = drawn(2)
    found = boundary_outliers(
        bank.index_fill(1, torch.tensor([0, 1]), 0).requires_grad_(), draw, noise, k=4, select=5, points=3
    )
    assert not found.requires_grad
    assert bool(found.isfinite().all())
