from __future__ import annotations

import numpy as np
import pytest

from spherood.data.draws import uniform

MASK = 2**64 - 1
IMAGES = np.arange(2000)


def splitmix(x: int) -> int:
    """Steele et al., OOPSLA 2014, Figure 16, on Python's integers."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def slow(seed: int, epoch: int, image: int, view: int, number: int) -> float:
    key = 0
    for part in (seed, epoch, view, image, number):
        key = splitmix((key + part) & MASK)
    return (key >> 11) / 2**53


def test_the_mixing_is_the_published_one() -> None:
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the first output of SplitMix64 for seed 0


def test_numbers_are_those_of_a_slow_loop() -> None:
    image = np.array([0, 5, 49_999, 2**40])
    found = uniform(2**31, 499, image, 1, 7)
    assert found.tolist() == [[slow(2**31, 499, int(i), 1, n) for n in range(7)] for i in image]


def test_an_images_numbers_do_not_depend_on_the_batch() -> None:
    order = np.random.default_rng(0).permutation(IMAGES)
    whole = uniform(1, 2, IMAGES, 0, 50)
    assert np.array_equal(uniform(1, 2, order, 0, 50), whole[order])
    assert np.array_equal(uniform(1, 2, IMAGES[7:8], 0, 3), whole[7:8, :3])


@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["seed", "epoch", "view"])
def test_another_seed_epoch_or_view_gives_unrelated_numbers(other: tuple[int, int, int]) -> None:
    seed, epoch, view = other
    first, second = uniform(0, 0, IMAGES, 0, 50), uniform(seed, epoch, IMAGES, view, 50)
    assert not (first == second).any()
    assert not np.isin(first, second).any()  # nor are they the same ones moved to other images
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)


def test_images_and_numbers_are_unrelated_to_their_neighbours() -> None:
    u = uniform(0, 0, IMAGES, 0, 50)
    assert len(np.unique(u)) == u.size
    for first, second in ((u[1:], u[:-1]), (u[:, 1:], u[:, :-1])):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 5 / np.sqrt(first.size)


@pytest.mark.parametrize("number", [0, 5, 49])
def test_numbers_are_uniform_over_images(number: int) -> None:
    u = uniform(3, 0, np.arange(20_000), 1, 50)[:, number]
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 5 * np.sqrt(1 / 12 / len(u))
    count = np.bincount((u * 100).astype(int), minlength=100)
    chi_square = ((count - 200) ** 2 / 200).sum()  # 99 degrees of freedom: mean 99, deviation 14
    assert 99 - 4 * 14 < chi_square < 99 + 5 * 14
