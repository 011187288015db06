from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from spherood.training import Recipe, batches
from spherood.training.batches import Rows, make_views, orders

Make = Callable[..., Recipe]
SHARES = [np.array(rows) for rows in ([3, 0, 5], [40, 7], [1], [9, 8, 2, 4])]


@pytest.fixture
def pixels(digits: Path) -> Tensor:
    return torch.from_numpy(np.load(digits / "x.npy"))[:, None].repeat(1, 3, 1, 1)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("number", [0, 1, 2, 4])
@pytest.mark.parametrize("views", [1, 2])
def test_views_made_ahead_are_those_made_at_once(recipe: Make, pixels: Tensor, number: int, views: int) -> None:
    made = list(batches.batches(recipe(), pixels, SHARES[:number], 3, views))
    assert [len(x) for x in made] == [views * len(rows) for rows in SHARES[:number]]
    for x, rows in zip(made, SHARES[:number], strict=True):
        assert torch.equal(x, make_views(recipe(), pixels, rows, 3, views))


def test_views_come_view_after_view_and_depend_on_epoch_view_and_image_not_on_the_batch(
    recipe: Make, pixels: Tensor
) -> None:
    rows = np.array([5, 0, 9])
    x = make_views(recipe(), pixels, rows, 1, 2)
    assert x.shape == (6, 3, 8, 8)
    assert x.is_contiguous(memory_format=torch.channels_last)
    for place, row in enumerate(rows):
        own = make_views(recipe(), pixels, np.array([row]), 1, 2)
        torch.testing.assert_close(x[[place, 3 + place]], own, rtol=0, atol=1e-5)
        assert not torch.equal(own[0], own[1])
    assert not torch.equal(x, make_views(recipe(), pixels, rows, 2, 2))
    assert not torch.equal(x, make_views(recipe(seed=1), pixels, rows, 1, 2))


def test_without_a_change_a_view_is_the_normalised_image(recipe: Make, pixels: Tensor) -> None:
    x = make_views(recipe(views={}), pixels, np.array([4, 2]), 0, 1)
    torch.testing.assert_close(x, (pixels[[4, 2]] / 255 - 0.5) / 0.25)


def test_one_batch_is_made_ahead_and_no_more(recipe: Make, pixels: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, second = [], threading.Event()

    def make(recipe: Recipe, pixels: Tensor, rows: Rows, epoch: int, views: int) -> Tensor:
        begun.append(rows.tolist())
        if len(begun) == 2:
            second.set()
        return make_views(recipe, pixels, rows, epoch, views)

    monkeypatch.setattr(batches, "make_views", make)
    made = batches.batches(recipe(), pixels, SHARES, 0, 2)
    next(made)
    assert second.wait(60)  # while the first one is worked on
    assert begun == [rows.tolist() for rows in SHARES[:2]]
    made.close()  # type: ignore[attr-defined]
    assert begun == [rows.tolist() for rows in SHARES[:2]]


@pytest.mark.parametrize("number", range(len(SHARES)))
@pytest.mark.usefixtures("two_threads")
def test_an_error_of_the_maker_reaches_the_caller_after_the_batches_before_it(
    recipe: Make, pixels: Tensor, number: int
) -> None:
    broken = [*SHARES[:number], np.array([41]), *SHARES[number + 1 :]]  # there are 41 images, from 0
    made = batches.batches(recipe(), pixels, broken, 0, 2)
    for rows in SHARES[:number]:
        assert len(next(made)) == 2 * len(rows)
    with pytest.raises(IndexError):
        list(made)
    assert torch.get_num_threads() == 2
    assert not makers()


def makers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("views")]


@pytest.mark.usefixtures("two_threads")
def test_the_maker_takes_one_core_leaves_the_others_theirs_and_ends(
    recipe: Make, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    its: list[int] = []

    def make(recipe: Recipe, pixels: Tensor, rows: Rows, epoch: int, views: int) -> Tensor:
        its.append(torch.get_num_threads())
        return make_views(recipe, pixels, rows, epoch, views)

    monkeypatch.setattr(batches, "make_views", make)
    for _ in batches.batches(recipe(), pixels, SHARES, 0, 2):
        assert torch.get_num_threads() == 2
        assert len(makers()) == 1
        with ThreadPoolExecutor(1) as another:
            assert another.submit(torch.get_num_threads).result() == 2
    assert its == [1] * len(SHARES)
    assert torch.get_num_threads() == 2
    assert not makers()
    made = batches.batches(recipe(), pixels, SHARES, 0, 2)
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert torch.get_num_threads() == 2
    assert not makers()


@given(images=st.integers(1, 60), batch=st.integers(1, 20), epoch=st.integers(0, 3))
def test_an_epoch_shows_every_image_once_in_an_order_of_its_own(images: int, batch: int, epoch: int) -> None:
    content = {"name": "a", "data": {"sample": "digits"}, "loss": [{"use": "cider"}], "training": {"batch": batch}}
    found = orders(Recipe.model_validate(content), images, epoch)
    assert [len(rows) for rows in found] == [batch] * (images // batch) + [images % batch] * (images % batch > 0)
    np.testing.assert_array_equal(np.concatenate(found), np.random.default_rng([0, epoch]).permutation(images))
