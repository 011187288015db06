from __future__ import annotations

import importlib
import json
from dataclasses import asdict
from itertools import combinations, pairwise, product
from math import acos, cos, degrees, exp, log, radians, sin, sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.errors import ConfigError, DataError, ShapeError
from spherood.sphere.geometry import (
    Geometry,
    alignment,
    collapsed,
    compactness,
    dispersion,
    effective_rank,
    geometry,
    least_angle_bound,
    nearest_angle,
    overlap,
    separability,
    uniformity,
)


def at(*angles: float) -> Tensor:
    """Directions in the plane, by degrees from the first axis."""
    return torch.tensor([[cos(radians(a)), sin(radians(a))] for a in angles], dtype=torch.float64)


def drawn(rows: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def simplex(count: int) -> Tensor:
    """`count` directions in as many dimensions, all at arccos(-1 / (count - 1)) from each other."""
    return torch.eye(count, dtype=torch.float64) - 1 / count


def axes(dim: int) -> Tensor:
    return torch.cat([torch.eye(dim), -torch.eye(dim)])


def three_clusters(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    label = torch.arange(30) % 3
    return drawn(30, 5, seed) + 2 * torch.eye(5, dtype=torch.float64)[label], label, drawn(20, 5, seed + 1)


def flat(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def assert_same(one: Geometry, other: Geometry) -> None:
    for name, value in asdict(one).items():
        for mine, theirs in zip(flat(value), flat(asdict(other)[name]), strict=True):
            number = isinstance(mine, float)
            assert theirs == (pytest.approx(mine, rel=1e-6, abs=1e-9) if number else mine), name


def test_compactness_by_hand() -> None:
    overall, per_class = compactness(at(-10, 10, 70), torch.tensor([0, 0, 2]), classes=4)
    assert overall == pytest.approx(20 / 3)
    assert per_class == (pytest.approx(10), None, pytest.approx(0, abs=1e-12), None)


def test_compactness_to_given_prototypes_by_hand() -> None:
    overall, per_class = compactness(at(0, 10, 80), torch.tensor([0, 0, 1]), 3 * at(0, 100))
    assert overall == pytest.approx(10)
    assert per_class == (pytest.approx(5), pytest.approx(20))


def test_the_default_prototype_is_the_mean_of_unit_rows_not_of_long_ones() -> None:
    long_and_short = torch.tensor([[100.0, 0.0], [0.0, 0.01]])
    assert compactness(long_and_short, torch.tensor([0, 0]))[0] == pytest.approx(45)


def test_tiny_and_flat_angles_keep_their_digits() -> None:
    assert compactness(at(1e-9), torch.tensor([0]), at(0))[0] == pytest.approx(1e-9, rel=1e-6, abs=0)
    assert dispersion(at(0, 1e-9))[1] == pytest.approx(1e-9, rel=1e-6, abs=0)
    assert 180 - dispersion(at(0, 180 - 1e-6))[1] == pytest.approx(1e-6, rel=1e-6)


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_a_regular_simplex_attains_its_bound(count: int) -> None:
    mean, least = dispersion(simplex(count))
    bound, name = least_angle_bound(count, count - 1)
    assert name == "simplex"
    assert mean == pytest.approx(bound, rel=1e-9)
    assert least == pytest.approx(bound, rel=1e-9)
    assert bound == pytest.approx(degrees(acos(-1 / (count - 1))))


def test_the_axes_and_their_opposites_attain_rankins_bound() -> None:
    mean, least = dispersion(axes(3))
    assert mean == pytest.approx((3 * 180 + 12 * 90) / 15)
    assert least == pytest.approx(90)
    assert least_angle_bound(6, 3) == least_angle_bound(5, 3) == (90, "Rankin")


def test_two_pairs_on_two_poles_have_a_mean_angle_above_the_simplex_bound() -> None:
    poles = torch.cat([at(0, 0, 180, 180), torch.zeros(4, 1)], dim=1)
    assert dispersion(poles)[0] == pytest.approx(120)
    assert least_angle_bound(4, 3)[0] == pytest.approx(109.4712206)


@pytest.mark.parametrize(
    ("count", "dim", "cosine"), [(27, 6, 1 / 4), (162, 21, 1 / 7), (100, 22, 1 / 11), (275, 22, 1 / 6)]
)
def test_levenshteins_bound_is_attained_by_the_known_sharp_codes(count: int, dim: int, cosine: float) -> None:
    assert least_angle_bound(count, dim) == (pytest.approx(degrees(acos(cosine)), rel=1e-12), "Levenshtein")


@pytest.mark.parametrize(("count", "dim"), [(7, 3), (15, 5), (40, 10), (300, 128), (1000, 128), (8384, 128)])
def test_levenshteins_bound_is_the_best_that_a_polynomial_of_degree_three_proves(count: int, dim: int) -> None:
    """f(t) = (t - s)(t - b)^2 <= 0 on [-1, s]; with Gegenbauer coefficients f_0 > 0, f_1, f_2 >= 0 a code of greatest
    cosine s has at most f(1) / f_0 points (Delsarte, Goethals, Seidel 1977)."""
    bound, name = least_angle_bound(count, dim)
    s, b = cos(radians(bound)), torch.linspace(-1, 0, 200_001, dtype=torch.float64)
    f0 = -(2 * b + s) / dim - s * b**2
    proven = (f0 > 0) & (3 / (dim + 2) + b**2 + 2 * b * s >= 0) & (2 * b + s <= 0)
    assert name == "Levenshtein"
    assert float(((1 - s) * (1 - b) ** 2 / f0)[proven].min()) == pytest.approx(count, rel=1e-6)


def test_beyond_levenshteins_range_caps_bound_the_angle() -> None:
    assert least_angle_bound(100, 2) == (pytest.approx(3.6, abs=1e-3), "caps")  # a polygon attains it
    assert all(least_angle_bound(count, 2)[0] >= 360 / count for count in range(6, 30))
    assert least_angle_bound(50, 3) == (pytest.approx(2 * degrees(acos(1 - 2 / 50)), abs=1e-3), "caps")
    assert least_angle_bound(10_000, 128) == least_angle_bound(8384, 128)  # caps say more than 90 there
    assert least_angle_bound(3, 1) == (0, "pigeonhole")


def test_the_bound_stands_above_the_best_codes_that_are_known() -> None:
    golden = (1 + sqrt(5)) / 2
    icosahedron = torch.tensor(
        [v for a, b in product((1, -1), (golden, -golden)) for v in ((0, a, b), (a, b, 0), (b, 0, a))]
    )
    pairs = [
        torch.eye(8)[i] * a + torch.eye(8)[j] * b
        for i, j in combinations(range(8), 2)
        for a in (1, -1)
        for b in (1, -1)
    ]
    halves = [torch.tensor(v) for v in product((0.5, -0.5), repeat=8) if v.count(-0.5) % 2 == 0]
    for code, angle in ((icosahedron, 63.4349), (torch.stack(pairs + halves), 60)):
        assert dispersion(code)[1] == pytest.approx(angle, abs=1e-4)
        assert angle < least_angle_bound(*code.shape)[0] < 73


@pytest.mark.parametrize("dim", [2, 3, 8, 50])
def test_more_directions_never_have_more_room(dim: int) -> None:
    bounds = [
        least_angle_bound(count, dim)[0]
        for count in (*range(2, 3 * dim, 1 + dim // 4), dim * (dim + 3) // 2, 5000, 10**7)
    ]
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(bounds))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 40), st.integers(1, 6), st.integers(0, 999))
def test_no_drawn_prototypes_exceed_the_bound(count: int, dim: int, seed: int) -> None:
    mean, least = dispersion(drawn(count, dim, seed))
    assert least <= mean
    assert least <= least_angle_bound(count, dim)[0] + 1e-5


def test_collapsed_looks_at_the_furthest_pair() -> None:
    assert collapsed(at(0, 2, 4.9))
    assert not collapsed(at(0, 4, 8))  # neighbours are near, the ends are not
    assert collapsed(at(0, 4, 8), degrees=9)
    assert not collapsed(at(0))
    assert not collapsed(at(0, 180))


def test_separability_by_hand() -> None:
    prototypes, id_rows, ood = at(0, 90), at(10, -10, 85), at(40, 60, 225)
    assert nearest_angle(id_rows, prototypes).tolist() == pytest.approx([10, 10, 5])
    assert separability(id_rows, ood, prototypes) == pytest.approx((40 + 30 + 135) / 3 - 25 / 3)


def test_overlap_by_hand() -> None:
    id_rows, ood = at(0, 5, 15, 25), at(18, 25, 35, 40, 40, 40)
    assert overlap(id_rows, ood, at(0), bins=4) == pytest.approx(1 / 6 + 1 / 6)  # shares 2 1 1 0 of 4, 0 1 1 4 of 6
    assert overlap(id_rows, id_rows, at(0)) == pytest.approx(1)
    assert overlap(at(1, 2), at(50, 60), at(0)) == 0
    assert overlap(at(7, 7), at(7), at(0)) == 1


def test_the_overlap_of_one_distribution_with_itself_reads_as_documented() -> None:
    read = {n: overlap(drawn(n, 128, 1), drawn(n, 128, 2), drawn(10, 128, 3)) for n in (1000, 10_000)}
    assert read[1000] == pytest.approx(0.92, abs=0.03)
    assert read[10_000] == pytest.approx(0.98, abs=0.01)


def test_uniformity_by_hand() -> None:
    rows = 5 * at(0, 90, 180)  # squared distances 2, 2, 4
    assert uniformity(rows) == pytest.approx(log((2 * exp(-4) + exp(-8)) / 3), rel=1e-12)
    assert uniformity(rows, t=0.5) == pytest.approx(log((2 * exp(-1) + exp(-2)) / 3), rel=1e-12)
    assert uniformity(at(0, 180)) == pytest.approx(-8)
    assert uniformity(at(3, 3)) == pytest.approx(0, abs=1e-12)


def test_alignment_by_hand_counts_pairs_not_classes() -> None:
    rows, label = at(0, 90, 180, 20, 20, 77), torch.tensor([0, 0, 0, 2, 2, 5])
    assert alignment(2 * rows, label) == pytest.approx((2 + 2 + 4 + 0) / 4)


def test_alignment_of_two_views_is_the_mean_over_images() -> None:
    one, two = drawn(50, 8, 1), drawn(50, 8, 2)
    unit = [x / x.norm(dim=1, keepdim=True) for x in (one, two)]
    ours = alignment(torch.cat([one, two]), torch.arange(50).repeat(2))
    assert ours == pytest.approx(float((unit[0] - unit[1]).square().sum(dim=1).mean()), rel=1e-12)


def test_effective_rank_by_hand() -> None:
    assert effective_rank(axes(7)) == pytest.approx(7)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1)  # centred it would be nothing
    x, y = torch.eye(2)
    p, q = 2 / 3, 1 / 3  # singular values 2 and 1
    assert effective_rank(torch.stack([x, x, 9 * x, x, y])) == pytest.approx(p**-p * q**-q)


@pytest.mark.parametrize("tile", [1, 4, 7])
def test_tiles_find_what_plain_loops_find(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    embedding, label, ood = three_clusters()
    z = embedding / embedding.norm(dim=1, keepdim=True)
    pairs = list(combinations(range(30), 2))
    squares = [float((z[i] - z[j]).square().sum()) for i, j in pairs]
    angles = [degrees(acos(float(z[i] @ z[j]))) for i, j in pairs]
    same = [s for s, (i, j) in zip(squares, pairs, strict=True) if label[i] == label[j]]
    share = torch.linalg.svdvals(z) / torch.linalg.svdvals(z).sum()
    whole = geometry(embedding, label, ood=ood)
    module = importlib.import_module("spherood.sphere.geometry")  # the room may export a function of that name
    monkeypatch.setattr(module, "TILE", tile)
    assert uniformity(embedding) == pytest.approx(log(sum(exp(-2 * s) for s in squares) / len(pairs)), rel=1e-12)
    assert alignment(embedding, label) == pytest.approx(sum(same) / len(same), rel=1e-12)
    assert dispersion(embedding) == (pytest.approx(sum(angles) / len(angles)), pytest.approx(min(angles)))
    assert effective_rank(embedding) == pytest.approx(exp(-float((share * share.log()).sum())), rel=1e-12)
    assert_same(geometry(embedding, label, ood=ood), whole)


def test_geometry_gathers_what_the_functions_say_and_json_takes_it() -> None:
    embedding, label, ood = three_clusters()
    z = embedding / embedding.norm(dim=1, keepdim=True)
    prototypes = torch.stack([z[label == c].mean(dim=0) for c in range(3)])
    found = geometry(embedding, label, ood=ood, classes=4)
    overall, per_class = compactness(embedding, label, classes=4)
    assert (found.compactness, found.compactness_per_class[:3]) == (
        pytest.approx(overall),
        pytest.approx(per_class[:3]),
    )
    assert (found.dispersion, found.least_angle) == pytest.approx(dispersion(prototypes))
    assert (found.least_angle_bound, found.least_angle_bound_name) == (pytest.approx(120), "simplex")
    assert found.separability == pytest.approx(separability(embedding, ood, prototypes))
    assert found.overlap == pytest.approx(overlap(embedding, ood, prototypes))
    assert found.uniformity == pytest.approx(uniformity(embedding))
    assert found.alignment == pytest.approx(alignment(embedding, label))
    assert found.effective_rank == pytest.approx(effective_rank(embedding))
    assert (found.rows, found.dim, found.collapsed) == (30, 5, False)
    assert found.compactness_per_class[3] is found.enclosing_radius_per_class[3] is None
    assert json.loads(json.dumps(asdict(found)))["enclosing_radius_per_class"][3] is None


def test_the_enclosing_sphere_of_each_class_is_that_of_its_unit_rows() -> None:
    found = geometry(9 * at(0, 180, 30, 90), torch.tensor([0, 0, 1, 1]), prototypes=at(0, 60))
    assert found.enclosing_radius_per_class == (pytest.approx(1), pytest.approx(0.5))  # chord of 60 degrees: 1


def test_given_prototypes_count_even_for_absent_classes_and_means_do_not() -> None:
    rows, label = at(0, 10), torch.tensor([0, 2])
    assert geometry(rows, label).least_angle == pytest.approx(10)
    assert geometry(rows, label, prototypes=at(0, 3, 10)).least_angle == pytest.approx(3)
    assert geometry(rows, label, prototypes=at(0, 3, 4)).collapsed


def test_one_row_has_what_one_row_can_have() -> None:
    found = geometry(at(33), torch.tensor([0]))
    assert found.dispersion is found.least_angle is found.least_angle_bound is found.least_angle_bound_name is None
    assert found.separability is found.overlap is found.uniformity is found.alignment is None
    assert (found.compactness, found.enclosing_radius_per_class, found.collapsed) == (0, (0,), False)
    assert found.effective_rank == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9999))
def test_turning_stretching_and_shuffling_change_nothing(seed: int) -> None:
    embedding, label, ood = three_clusters(seed)
    q, order = torch.linalg.qr(drawn(5, 5, seed))[0], drawn(1, 30, seed)[0].argsort()
    length = drawn(30, 1, seed).exp()  # each row its own
    moved = geometry((length * embedding @ q)[order], label[order], ood=7 * ood.flip(0) @ q)
    assert_same(moved, geometry(embedding, label, ood=ood))


def test_half_precision_goes_in_and_nothing_is_changed_or_tracked() -> None:
    embedding, label, ood = (x.half() if x.is_floating_point() else x.int() for x in three_clusters())
    before = embedding.clone()
    found = geometry(embedding.requires_grad_(), label, ood=ood)
    assert_same(found, geometry(before.double(), label.long(), ood=ood.double()))
    assert torch.equal(embedding.detach(), before)


def test_bad_rows_are_refused_with_what_to_do() -> None:
    label = torch.tensor([0, 1])
    with pytest.raises(ShapeError, match=r"expected rows \(N, d\), N and d at least 1, got \(2, 1, 2\)"):
        geometry(at(0, 1)[:, None], label)
    with pytest.raises(ShapeError, match=r"expected rows \(N, 2\), N and d at least 1, got \(4, 3\)"):
        geometry(at(0, 1), label, ood=torch.ones(4, 3))
    with pytest.raises(ShapeError, match=r"expected rows \(N, 2\).* got \(2, 3\)"):
        geometry(at(0, 1), label, prototypes=torch.ones(2, 3))
    for bad in (0.0, float("nan"), float("inf")):
        with pytest.raises(DataError, match=r"without direction \(zero, NaN, infinite\): 1, first 1. Drop them"):
            effective_rank(torch.tensor([[1.0, 0.0], [bad, 0.0]]))
    with pytest.raises(DataError, match=r"rows of class 1 cancel out and have no mean\. Pass prototypes"):
        geometry(at(5, 0, 180), torch.tensor([0, 1, 1]))


def test_bad_labels_are_refused_with_what_to_do() -> None:
    for label in (torch.tensor([0]), torch.tensor([0.0, 1.0]), torch.tensor([[0, 1]]), torch.tensor([0, -1])):
        for call in (geometry, compactness, alignment):
            with pytest.raises(
                ShapeError, match=r"expected integer labels 0\.\. of shape \(2,\), one per row, got torch"
            ):
                call(at(0, 1), label)
    with pytest.raises(ShapeError, match=r"labels run to 3, expected 0\.\.1\. Drop those rows or add classes"):
        geometry(at(0, 1), torch.tensor([0, 3]), classes=2)
    with pytest.raises(ShapeError, match=r"labels run to 3, expected 0\.\.2"):
        compactness(at(0, 1), torch.tensor([0, 3]), at(0, 1, 2))
    with pytest.raises(ShapeError, match=r"classes=3, but 2 prototypes\. Leave classes out"):
        geometry(at(0, 1), torch.tensor([0, 1]), prototypes=at(0, 1), classes=3)


def test_too_little_data_and_senseless_settings_are_refused() -> None:
    with pytest.raises(DataError, match="dispersion: needs two prototypes or more, got 1"):
        dispersion(at(0))
    with pytest.raises(DataError, match="uniformity: needs two rows or more, got 1"):
        uniformity(at(0))
    with pytest.raises(DataError, match="alignment: no class has two rows"):
        alignment(at(0, 1), torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match=r"t must be above 0 and at most 150 .* got 0. Try 2"):
        uniformity(at(0, 1), t=0)
    with pytest.raises(ConfigError, match=r"bins must be at least 2, got 1. Try 32"):
        overlap(at(0), at(1), at(0), bins=1)
