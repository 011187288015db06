from __future__ import annotations

from itertools import combinations
from math import inf, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.errors import ConfigError, DataError, ShapeError
from spherood.sphere import enclosing, normalize
from spherood.sphere.enclosing import EnclosingSphere, enclosing_sphere


def drawn(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turn(dim: int, seed: int) -> Tensor:
    return torch.linalg.qr(drawn(dim, dim, seed))[0]


def check(sphere: EnclosingSphere, points: Tensor, tolerance: float = 1e-6) -> None:
    """The two halves of the promise that need no other algorithm."""
    farthest = float((points.double() - sphere.center).norm(dim=1).max())
    assert farthest <= sphere.radius + 1e-12 * (1 + points.abs().max())
    assert sphere.lower <= sphere.radius <= sphere.lower * (1 + tolerance) * (1 + 1e-12)


def plane_by_brute_force(points: Tensor) -> float:
    """Radius of the smallest circle around all: it stands on two points as a diameter, or on three."""
    best = inf
    for two in combinations(points, 2):
        center = (two[0] + two[1]) / 2
        best = min(best, _reach(center, points, float((two[0] - center).norm())))
    for three in combinations(points, 3):
        edge = torch.stack([three[1] - three[0], three[2] - three[0]])
        if abs(float(torch.linalg.det(edge))) > 1e-9:
            center = three[0] + torch.linalg.solve(edge, edge.square().sum(dim=1) / 2)
            best = min(best, _reach(center, points, float((three[0] - center).norm())))
    return best


def _reach(center: Tensor, points: Tensor, radius: float) -> float:
    return radius if float((points - center).norm(dim=1).max()) <= radius * (1 + 1e-12) else inf


@pytest.mark.parametrize("dim", [1, 2, 3, 10, 128])
def test_a_simplex_of_side_root_two_has_the_radius_worked_out_by_hand(dim: int) -> None:
    points = torch.eye(dim + 1, dtype=torch.float64)
    sphere = enclosing_sphere(points, tolerance=1e-10)
    assert sphere.radius == pytest.approx(sqrt(dim / (dim + 1)), rel=1e-10)
    torch.testing.assert_close(
        sphere.center, torch.full((dim + 1,), 1 / (dim + 1), dtype=torch.float64), atol=1e-5, rtol=0
    )


def test_antipodal_points_have_the_sphere_between_them() -> None:
    sphere = enclosing_sphere(torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0], [0.5, 0.0, 0.1]]))
    assert sphere.radius == pytest.approx(sqrt(14), rel=1e-12)
    torch.testing.assert_close(sphere.center, torch.zeros(3, dtype=torch.float64), atol=1e-12, rtol=0)


def test_three_points_on_a_line_are_held_by_the_outer_two() -> None:
    sphere = enclosing_sphere(torch.tensor([[3.0], [4.0], [9.0], [5.0]]))
    assert sphere.radius == sphere.lower == 3
    assert sphere.center.tolist() == [6]


def test_an_obtuse_triangle_stands_on_its_longest_side_an_acute_one_on_all_corners() -> None:
    obtuse = enclosing_sphere(torch.tensor([[0.0, 0.0], [4.0, 0.0], [1.0, 1.0]]), tolerance=1e-12)
    acute = enclosing_sphere(torch.tensor([[0.0, 0.0], [4.0, 0.0], [2.0, 4.0]]), tolerance=1e-12)
    assert obtuse.radius == pytest.approx(2, rel=1e-11)
    assert acute.radius == pytest.approx(2.5, rel=1e-11)  # 4 sqrt(20) sqrt(20) / (4 * area 8)
    torch.testing.assert_close(acute.center, torch.tensor([2.0, 1.5], dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("rows", "dim"), [(200, 2), (500, 5), (300, 20)])
def test_points_all_over_a_sphere_give_back_that_sphere(rows: int, dim: int) -> None:
    middle = 100 * drawn(1, dim, 1)
    unit = normalize(drawn(rows, dim))
    points = middle + 7 * torch.cat([unit, -unit])  # each with its opposite, so no smaller sphere holds them
    sphere = enclosing_sphere(points)
    check(sphere, points)
    assert sphere.radius == pytest.approx(7, rel=2e-6)
    assert float((sphere.center - middle[0]).norm()) < 7 * sqrt(2 * 2e-6)


def test_one_point_and_equal_points_have_radius_zero() -> None:
    for rows in (1, 2, 9):
        sphere = enclosing_sphere(torch.tensor([[0.1, 0.7]]).repeat(rows, 1))
        assert (sphere.radius, sphere.lower) == (0, 0)
        assert sphere.center.tolist() == torch.tensor([0.1, 0.7]).double().tolist()


def test_duplicated_points_change_nothing() -> None:
    points = drawn(40, 6)
    once, thrice = enclosing_sphere(points), enclosing_sphere(points.repeat_interleave(3, dim=0))
    assert thrice.radius == pytest.approx(once.radius, rel=2e-6)


@pytest.mark.parametrize("seed", range(12))
def test_in_the_plane_it_is_the_circle_of_brute_force(seed: int) -> None:
    points = drawn(14, 2, seed)
    if seed % 3 == 0:
        points = (2 * points).round()  # duplicates, lines, several on one circle
    sphere = enclosing_sphere(points, tolerance=1e-9)
    check(sphere, points, 1e-9)
    assert sphere.radius == pytest.approx(plane_by_brute_force(points), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.sampled_from([1e-2, 1e-6, 1e-10]), st.integers(0, 999))
def test_every_point_is_inside_and_the_bounds_meet(rows: int, dim: int, tolerance: float, seed: int) -> None:
    points = drawn(rows, dim, seed)
    check(enclosing_sphere(points, tolerance=tolerance), points, tolerance)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(2, 8), st.floats(0.01, 100), st.integers(0, 999))
def test_turning_moving_stretching_and_shuffling_act_on_the_sphere_as_on_the_points(
    rows: int, dim: int, scale: float, seed: int
) -> None:
    points, shift, q = drawn(rows, dim, seed), drawn(1, dim, seed + 1), turn(dim, seed)
    before = enclosing_sphere(points, tolerance=1e-10)
    after = enclosing_sphere((scale * points @ q + shift).flip(0), tolerance=1e-10)
    assert after.radius == pytest.approx(scale * before.radius, rel=1e-9, abs=1e-12)
    there = scale * before.center @ q + shift[0]
    torch.testing.assert_close(after.center, there, atol=1e-4 * scale * (before.radius + 1e-9), rtol=1e-9)


@pytest.mark.parametrize(("rows", "inner", "steps"), [(2000, 10, 400), (300, 128, 1500)])
def test_hard_sets_are_found_to_the_last_digits_in_few_steps(
    monkeypatch: pytest.MonkeyPatch, rows: int, inner: int, steps: int
) -> None:
    """Few points that decide in many dimensions; points all around the centre: ten times the steps uncorrected."""
    monkeypatch.setattr(enclosing, "STEPS", steps)
    points = drawn(rows, inner) @ drawn(inner, 128, 1) * 0.1 + torch.eye(128, dtype=torch.float64)[0]
    points = normalize(points if inner < 128 else drawn(rows, 128))
    check(enclosing_sphere(points, tolerance=1e-12), points, 1e-12)


def test_without_any_correction_the_steps_alone_keep_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclosing, "CORRECT_EVERY", 10**9)
    monkeypatch.setattr(enclosing, "STEPS", 250)  # too few for any but the exact line search
    points = drawn(200, 20)
    check(enclosing_sphere(points), points)


def test_a_loose_tolerance_is_kept_and_stops_earlier() -> None:
    points = drawn(400, 30)
    loose, tight = enclosing_sphere(points, tolerance=0.1), enclosing_sphere(points, tolerance=1e-9)
    check(loose, points, 0.1)
    assert loose.radius > tight.radius * 1.001
    assert loose.lower < tight.lower <= tight.radius


def test_a_cluster_far_from_the_origin_keeps_its_digits() -> None:
    points = torch.eye(4, dtype=torch.float64) + 1e6
    assert enclosing_sphere(points, tolerance=1e-9).radius == pytest.approx(sqrt(3 / 4), rel=2e-9)


def test_points_stay_as_they_were_and_half_precision_goes_in() -> None:
    points = drawn(20, 3).half().requires_grad_()
    before = points.detach().clone()
    sphere = enclosing_sphere(points)
    assert torch.equal(points.detach(), before)
    assert not sphere.center.requires_grad
    check(sphere, before)


def test_bad_points_are_refused_with_what_to_do() -> None:
    with pytest.raises(ShapeError, match=r"expected points \(N, d\) with N, d >= 1, got \(0, 3\)"):
        enclosing_sphere(torch.zeros(0, 3))
    with pytest.raises(ShapeError, match=r"got \(3,\)"):
        enclosing_sphere(torch.zeros(3))
    with pytest.raises(DataError, match=r"NaN or infinite\. Drop those rows"):
        enclosing_sphere(torch.tensor([[0.0], [float("nan")]]))
    with pytest.raises(ConfigError, match=r"tolerance must be at least 1e-12, got 0. Try 1e-6"):
        enclosing_sphere(torch.zeros(1, 1), tolerance=0)
