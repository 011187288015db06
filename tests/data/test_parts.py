from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spherood.data.parts import split_parts
from spherood.errors import ConfigError, DataError, ShapeError

SHARES = ((1.0,), (0.7, 0.3), (0.6, 0.2, 0.2), (1 / 3, 1 / 3, 1 / 3), (0.1, 0.2, 0.3, 0.4))
shares_ = st.sampled_from(SHARES)
seeds = st.integers(0, 2**32 - 1)
sizes = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def rows_of(size: list[int], seed: int) -> NDArray[np.int64]:
    """Labels or groups 0.. in random order, `size[i]` times i."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(size)), size))


def covers(parts: list[NDArray[np.int64]], n: int) -> bool:
    return np.sort(np.concatenate(parts)).tolist() == list(range(n))


@given(size=sizes, shares=shares_, seed=seeds)
@settings(derandomize=True, deadline=None, max_examples=300)
def test_classes_and_totals_are_their_shares_rounded_down_or_up(
    size: list[int], shares: tuple[float, ...], seed: int
) -> None:
    size = [*size, 10]  # so that no part is empty
    label = rows_of(size, seed)
    parts = split_parts(label, len(label), shares, seed=seed)
    assert covers(parts, len(label))
    for part, share in zip(parts, shares, strict=True):
        assert abs(len(part) - share * len(label)) < 1
        for number, n in enumerate(size):
            assert abs((label[part] == number).sum() - share * n) < 1 - 1e-9  # so a whole share is met exactly
        assert (np.diff(part) > 0).all()
        assert part.dtype == np.int64


@given(size=st.lists(st.integers(1, 12), min_size=4, max_size=12), shares=shares_, seed=seeds)
@settings(derandomize=True, deadline=None)
def test_no_group_is_in_two_parts_and_every_part_has_one(size: list[int], shares: tuple[float, ...], seed: int) -> None:
    group = rows_of(size, seed)
    parts = split_parts(None, len(group), shares, group=group, seed=seed)
    assert covers(parts, len(group))
    found = [set(group[part].tolist()) for part in parts]
    assert all(found)
    assert sum(map(len, found)) == len(size)


@given(size=st.lists(st.integers(1, 30), min_size=4, max_size=9), shares=shares_, seed=seeds)
@example(size=[18, 8, 10, 22, 18, 16], shares=(0.5, 0.5), seed=1)  # the way to 46 and 46 goes beyond them
@settings(derandomize=True, deadline=None)
def test_no_group_can_move_nor_two_change_places_for_sizes_nearer_to_the_shares(
    size: list[int], shares: tuple[float, ...], seed: int
) -> None:
    group = rows_of(size, seed)
    parts = split_parts(None, len(group), shares, group=group, seed=seed)
    home = np.array([next(p for p, part in enumerate(parts) if number in group[part]) for number in range(len(size))])

    def miss(home: NDArray[np.int64]) -> float:
        rows = np.bincount(home, weights=size, minlength=len(shares))
        return float(((rows - np.array(shares) * len(group)) ** 2).sum())

    for one, other in product(range(len(size)), repeat=2):
        exchanged = home.copy()
        exchanged[[one, other]] = home[[other, one]]
        assert miss(exchanged) > miss(home) - 1e-5
    for one, target in product(range(len(size)), range(len(shares))):
        moved = home.copy()
        moved[one] = target
        if len(set(moved.tolist())) == len(shares):
            assert miss(moved) > miss(home) - 1e-5


def test_groups_of_uneven_size_are_brought_to_exact_shares_where_an_exchange_allows() -> None:
    group = np.repeat(np.arange(4), [5, 4, 3, 8])  # no sum is 10; 5 + 4 against 3 + 8 is nearest
    for seed in range(20):
        parts = split_parts(None, 20, (0.5, 0.5), group=group, seed=seed)
        assert sorted(map(len, parts)) == [9, 11]
    even = np.repeat(np.arange(40), 5)
    assert [len(part) for part in split_parts(None, 200, (0.6, 0.2, 0.2), group=even)] == [120, 40, 40]


def test_few_groups_fill_every_part_whatever_their_shares() -> None:
    group = np.repeat([7, 8, 9], 100)
    for seed in range(10):
        parts = split_parts(None, 300, (0.8, 0.1, 0.1), group=group, seed=seed)
        assert [len(part) for part in parts] == [100, 100, 100]


def test_ten_of_each_class_give_six_two_two_whatever_the_names() -> None:
    label = np.array(["wolf", "fox"] * 10)
    parts = split_parts(label, 20, (0.6, 0.2, 0.2))
    assert [[(label[part] == name).sum() for name in ("fox", "wolf")] for part in parts] == [[6, 6], [2, 2], [2, 2]]


def test_a_whole_share_of_a_class_is_met_in_spite_of_floats() -> None:
    label = np.repeat(
        np.arange(10), [100, 3] * 5
    )  # in floats, .29 * 100 is a little less than 29, .07 * 100 more than 7
    for seed in range(50):
        parts = split_parts(label, 515, (0.29, 0.07, 0.64), seed=seed)
        assert [np.bincount(label[part])[:9:2].tolist() for part in parts] == [[29] * 5, [7] * 5, [64] * 5]


def test_without_labels_the_rows_are_one_class_and_the_odd_one_goes_to_either_part() -> None:
    first = []
    for seed in range(200):
        parts = split_parts(None, 11, (0.5, 0.5), seed=seed)
        assert covers(parts, 11)
        first.append(len(parts[0]))
    assert set(first) == {5, 6}
    assert abs(first.count(5) - 100) < 4.5 * np.sqrt(200 / 4)


def test_with_groups_the_label_is_not_looked_at() -> None:
    group = np.repeat(np.arange(10), 3)
    with_label = split_parts(np.arange(30) % 2, 30, (0.6, 0.4), group=group)
    for one, other in zip(with_label, split_parts(None, 30, (0.6, 0.4), group=group), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("grouped", [False, True])
def test_the_seed_alone_decides_and_another_one_draws_anew(grouped: bool) -> None:
    def draw(seed: int) -> list[list[int]]:
        number = np.arange(200) // 5
        parts = split_parts(number, 200, (0.6, 0.2, 0.2), group=number if grouped else None, seed=seed)
        return [part.tolist() for part in parts]

    assert draw(1) == draw(1)
    assert len({str(draw(seed)) for seed in range(20)}) == 20


@pytest.mark.parametrize("grouped", [False, True])
def test_every_row_comes_into_every_part_as_often_as_its_share_says(grouped: bool) -> None:
    number = np.arange(40) // 2  # 20 classes or groups of two rows
    count = np.zeros((2, 40))
    for seed in range(400):
        parts = split_parts(number, 40, (0.7, 0.3), group=number if grouped else None, seed=seed)
        for part, rows in enumerate(parts):
            count[part, rows] += 1
    deviation = np.sqrt(400 * 0.7 * 0.3)
    assert abs(count[0] - 280).max() < 4.5 * deviation
    assert (count.sum(axis=0) == 400).all()


def test_fewer_groups_than_parts_are_told() -> None:
    with pytest.raises(DataError) as told:
        split_parts(None, 6, (0.6, 0.2, 0.2), group=np.array([0, 0, 1, 1, 1, 1]))
    assert str(told.value) == (
        "split_parts: 2 groups cannot fill 3 parts, as no group is divided. "
        "Collect from more groups, or ask for fewer parts."
    )


def test_a_part_without_a_row_is_told() -> None:
    with pytest.raises(DataError) as told:
        split_parts(None, 2, (0.5, 0.5 - 1e-8, 1e-8))
    assert str(told.value) == (
        "split_parts: no row is left for part 3 of 3, a share of 1e-08 of 2. Collect more, or ask for a larger share."
    )
    with pytest.raises(DataError, match=r"no row is left for part 1 of 2, a share of 0\.5 of 0\."):
        split_parts(np.array([], dtype=np.int64), 0, (0.5, 0.5))


@pytest.mark.parametrize("shares", [(), (0.5, 0.4), (1.2, -0.2), (1.0, 0.0)])
def test_shares_that_are_no_division_are_told(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError) as told:
        split_parts(None, 10, shares)
    assert str(told.value) == f"split_parts: shares must be > 0 and sum to 1, got {shares}. Try (0.6, 0.2, 0.2)."


def test_labels_and_groups_of_another_length_are_told() -> None:
    with pytest.raises(ShapeError, match=r"split_parts: expected label \(9,\), got \(10,\)\. Pass one for every row\."):
        split_parts(np.arange(10), 9, (1.0,))
    with pytest.raises(ShapeError, match=r"expected group \(9,\), got \(9, 1\)\."):
        split_parts(None, 9, (1.0,), group=np.zeros((9, 1)))
