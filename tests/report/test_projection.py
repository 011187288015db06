from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from spherood.errors import DataError, MissingExtraError
from spherood.report.globe import Globe, facing, globe, grid, three_directions
from spherood.report.names import HEIGHT, LETTER, MARK, placed, short
from spherood.report.palette import COLOURS, SHAPES, colour, shape
from spherood.report.projection import Method, Vectors, directions, project
from spherood.report.run import Sample
from spherood.report.scatter import on_globe


def unit(rows: Vectors) -> Vectors:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def sample(
    classes: int = 4, dim: int = 6, rows: int = 120, spread: float = 0.3, prototypes: bool = True, seed: int = 0
) -> Sample:
    """Clusters around random directions, as many rows as asked for."""
    draw = np.random.default_rng(seed)
    mu = unit(draw.normal(size=(classes, dim)))
    label = np.arange(rows) % classes
    z = unit(mu[label] + spread * draw.normal(size=(rows, dim)) / dim**0.5)
    return Sample(z, label, tuple(f"class {c}" for c in range(classes)), mu if prototypes else None)


def test_pca_of_a_cross_gives_its_arms_in_the_order_of_their_length() -> None:
    rows = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])
    middle = np.array([7, 8, 9])  # has no variance
    found = project(rows + middle, np.array([[0.0, 1, 0], [3, 0, 7]]) + middle)
    assert_allclose(found.rows, [[3, 0], [-3, 0], [0, 1], [0, -1]], atol=1e-12)
    assert_allclose(found.marks, [[0, 1], [3, 0]], atol=1e-12)  # by the same map, the rest left out
    assert found.shares == pytest.approx((18 / 20, 2 / 20))


def test_turning_all_rows_and_marks_moves_no_point_of_pca_but_for_signs() -> None:
    made = sample()
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    assert made.prototypes is not None
    plain, turned = (project(made.embedding @ q, made.prototypes @ q) for q in (np.eye(6), turn))
    for a, b in ((plain.rows, turned.rows), (plain.marks, turned.marks)):
        assert_allclose(np.abs(a), np.abs(b), atol=1e-9)
    assert plain.shares == pytest.approx(turned.shares)


def test_rows_that_are_all_alike_lie_on_one_point_with_no_share() -> None:
    found = project(np.ones((5, 3)), np.ones((1, 3)))
    assert not found.rows.any()
    assert found.shares == (0.0, 0.0)


def test_directions_are_orthonormal_their_largest_entry_positive_and_their_shares_add_up() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 4))
    found, share = directions(rows, 4)
    assert_allclose(found.T @ found, np.eye(4), atol=1e-12)
    assert (found[np.abs(found).argmax(axis=0), np.arange(4)] > 0).all()
    assert share.sum() == pytest.approx(1)
    assert_allclose(share, np.sort(np.linalg.eigvalsh(rows.T @ rows) / (rows**2).sum())[::-1])
    alone, _ = directions(rows[:1], 3)
    assert np.linalg.matrix_rank(alone) == 1  # beyond the rank there are none


@pytest.mark.parametrize(("method", "module"), [("tsne", "openTSNE"), ("pacmap", "pacmap")])
def test_without_its_library_a_projection_says_what_to_install(
    method: Method, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingExtraError, match=rf"--projection {method}: needs {module}.*pip install 'spherood\[projection\]'"
    ):
        project(sample().embedding, np.eye(6), method)


def test_tsne_keeps_clusters_apart_marks_in_them_and_draws_the_same_twice() -> None:
    pytest.importorskip("openTSNE", reason="the extra projection is not installed")
    made = sample(classes=3, dim=8, rows=60, spread=0.1)
    marks, _ = made.marks
    first, second = (project(made.embedding, marks[::-1], "tsne") for _ in range(2))
    assert_allclose(first.rows, second.rows)
    assert first.shares is None
    assert first.rows.shape == (60, 2)
    own = np.array([((first.rows - mark) ** 2).sum(axis=1).argmin() for mark in first.marks])
    assert made.label[own].tolist() == [2, 1, 0]


def test_too_few_rows_for_neighbours_are_an_error_with_the_number() -> None:
    pytest.importorskip("openTSNE", reason="the extra projection is not installed")
    with pytest.raises(DataError, match=r"^--projection tsne: needs 10 embeddings or more, got 9\. Use pca\.$"):
        project(np.eye(9), np.eye(9), "tsne")


def test_marks_are_the_prototypes_with_their_classes_in_turn_else_the_mean_directions() -> None:
    z, label = np.array([[1.0, 0], [0, 1], [0, -1]]), np.array([0, 2, 2])
    with_some = Sample(z, label, ("a", "b"), np.eye(2)[[0, 1, 1, 0]])
    assert with_some.marks[1].tolist() == [0, 1, 0, 1]  # PALM: row j is class j mod C
    three = Sample(z, np.array([0, 2, 0]), ("a", "b", "c"), np.eye(2))  # two prototypes of three classes: whose?
    assert not three.has_prototypes
    direction, of = three.marks
    assert of.tolist() == [0, 2]  # class 1 has no row
    assert_allclose(direction, [[0.5**0.5, -(0.5**0.5)], [0, 1]])


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.integers(2, 20), st.booleans(), st.integers(0, 1000))
def test_the_globe_is_of_length_one_and_at_least_half_of_it_faces_the_viewer(
    classes: int, dim: int, prototypes: bool, seed: int
) -> None:
    made = sample(classes, dim, rows=40, prototypes=prototypes, seed=seed)
    seen = globe(made)
    assert_allclose(np.linalg.norm(seen.rows, axis=1), 1, atol=1e-9)
    assert_allclose(np.linalg.norm(seen.marks, axis=1), 1, atol=1e-9)
    assert 0 < seen.share <= 1 + 1e-12
    assert (seen.rows[:, 2] >= -1e-9).mean() >= 0.5


def test_three_orthogonal_classes_keep_their_angles_and_the_share_is_what_lies_outside() -> None:
    z = np.eye(5)[[0, 1, 2]]
    z = np.concatenate([z * 0.8 + 0.6 * np.eye(5)[3], z * 0.8 - 0.6 * np.eye(5)[3]])
    seen = globe(Sample(z, np.array([0, 1, 2, 0, 1, 2]), ("a", "b", "c"), None))
    assert seen.share == pytest.approx(0.64)
    assert_allclose(seen.rows @ seen.rows.T, np.tile(np.eye(3), (2, 2)), atol=1e-9)
    assert (seen.rows[:, 2] > 0).all()  # three axes fit into half a sphere


def test_two_classes_take_the_third_direction_from_their_rows_and_a_plane_has_none() -> None:
    made = sample(classes=2, dim=6)
    basis = three_directions(made)
    assert_allclose(basis.T @ basis, np.eye(3), atol=1e-9)
    means = np.stack([made.embedding[made.label == c].mean(axis=0) for c in (0, 1)])
    assert_allclose(means @ basis[:, 2], 0, atol=1e-9)
    flat = three_directions(sample(classes=2, dim=2))
    assert np.linalg.matrix_rank(flat) == 2


def test_facing_is_a_rotation_that_brings_a_cap_to_the_front() -> None:
    cap = unit(np.array([0.3, -1.0, 0.2]) + 0.2 * np.random.default_rng(0).normal(size=(50, 3)))
    turn = facing(cap)
    assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
    assert (cap @ turn.T)[:, 2].min() > 0.5
    assert (facing(np.zeros((1, 3))) @ facing(np.zeros((1, 3))).T).trace() == pytest.approx(3)


def test_most_points_face_the_viewer_not_their_mean() -> None:
    """Three tight spots of 40 below, one of 100 above: the mean points up, most of the points do not."""
    spots = unit(np.array([[1.0, 0, -0.3], [-0.5, 0.87, -0.3], [-0.5, -0.87, -0.3]]))
    points = np.concatenate([np.repeat(spots, 40, axis=0), np.repeat([[0.0, 0, 1]], 100, axis=0)])
    assert points.mean(axis=0)[2] > 0
    front = (points @ facing(points).T)[:, 2] > 0
    assert front.sum() >= 180  # two of the spots and the one above


def test_the_grid_lies_on_the_sphere_each_piece_on_one_side_of_it() -> None:
    pieces = grid()
    for piece in pieces:
        assert_allclose(np.linalg.norm(piece.points, axis=1), 1, atol=1e-12)
        inner = piece.points[1:, 2]  # the first point is the neighbour's last
        assert ((inner >= 0) == piece.front).all()
    assert {piece.front for piece in pieces} == {True, False}
    pole = np.array([0, np.cos(np.radians(20)), np.sin(np.radians(20))])  # it leans towards the viewer, so it shows
    through = [piece.front for piece in pieces if np.abs(piece.points - pole).max(axis=1).min() < 1e-9]
    assert through == [True] * 6


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 400), st.integers(1, 18)), min_size=1, max_size=25))
def test_no_name_covers_another_name_or_anothers_mark(marks: list[tuple[float, float, int]]) -> None:
    pixel, names = np.array([(x, y) for x, y, _ in marks]), ["n" * length for _, _, length in marks]
    found = placed(pixel, names, range(len(names)), 400)
    boxes = {k: (x, y, x + LETTER * len(names[k]), y + HEIGHT) for k, (x, y) in found.items()}
    for a, b in combinations(boxes.values(), 2):
        assert a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
    for k, (left, top, right, bottom) in boxes.items():
        assert 0 <= left <= right <= 400
        assert 0 <= top <= bottom <= 400
        for j, (x, y) in enumerate(pixel):
            assert j == k or x + MARK <= left or x - MARK >= right or y + MARK <= top or y - MARK >= bottom


def test_who_is_served_first_gets_the_place_and_a_long_name_is_cut() -> None:
    found = placed(np.full((6, 2), 200.0), ["a"] * 6, [5, 0, 1, 2, 3, 4], 400)
    assert list(found) == [5, 0, 1, 2]  # right, left, above, below; no place is left for 3 and 4
    assert found[5] == (210, 200 - HEIGHT / 2)
    assert found[1] == (200 - LETTER / 2, 190 - HEIGHT)
    assert placed(np.array([[395.0, 200]]), ["a"], [0], 400)[0][0] == 385 - LETTER  # no room on its right
    assert short("great white shark, white shark") == "great white shark…"
    assert len(short("x" * 40)) == 18


def names_on(sample_: Sample, marks: list[list[float]]) -> dict[str, float]:
    """Each name on the globe, and where it begins; every name stands there once."""
    pytest.importorskip("altair", reason="the extra report is not installed")
    drawn = on_globe(sample_, Globe(sample_.embedding[:, :3], np.array(marks), 1.0)).to_dict()["datasets"]
    named = [(row["name"], row["x"]) for rows in drawn.values() for row in rows if "name" in row]
    assert len(dict(named)) == len(named)
    return dict(named)


def test_a_class_of_several_prototypes_is_named_once_and_the_front_is_named_first() -> None:
    z, label = np.eye(3)[[0, 1]], np.array([0, 1])
    four = Sample(z, label, ("cat", "dog"), np.eye(3)[[0, 1, 1, 0]])
    assert set(names_on(four, [[0.5, 0, 0.8], [-0.5, 0, 0.8], [0, 0.5, 0.8], [0, -0.5, 0.8]])) == {"cat", "dog"}
    found = names_on(Sample(z, label, ("back", "front"), z), [[0, 0, -1], [0, 0, 1]])  # one behind the other
    assert found["front"] > 0 > found["back"]  # the front has the first choice, which is the right side


def test_eighty_classes_differ_in_colour_or_shape() -> None:
    assert len({(colour(c), shape(c)) for c in range(80)}) == len(COLOURS) * len(SHAPES) == 80
    assert {shape(c) for c in range(10)} == {"circle"}
