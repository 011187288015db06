from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.data import Source
from spherood.errors import ConfigError, DataError
from spherood.schema import parse

Picture = Callable[..., Path]


def source(**keys: Any) -> Source:
    return parse(Source, keys, "recipe.yaml")


@pytest.fixture
def pets(tmp_path: Path, picture: Picture) -> Path:
    for class_ in ("cat", "dog", "owl"):
        for number in range(5):
            picture(f"pets/{class_}/{number}.png", seed=number)
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "some.txt").write_text("dog/1.png 0\ncat/2.png 1\n")
    np.save(tmp_path / "x.npy", np.zeros((4, 2, 2, 3), dtype=np.uint8))
    np.save(tmp_path / "y.npy", np.array([0, 1, 1, 0]))
    return tmp_path


def test_every_place_is_read_against_the_data_root(pets: Path) -> None:
    assert len(source(folder="pets").load(pets)) == 15
    assert source(list="lists/some.txt", root="pets").load(pets).names == ["dog/1.png", "cat/2.png"]
    assert source(arrays="x.npy", labels="y.npy").load(pets).label.tolist() == [0, 1, 1, 0]
    assert source(arrays="x.npy").load(pets).label.tolist() == [-1] * 4
    assert len(source(sample="noise").load(pets)) == 300
    assert source(folder="pets").load(pets, "ours").name == "ours"


def test_it_says_where_it_looks(pets: Path) -> None:
    assert source(list="lists/some.txt", root="pets").where(pets) == pets / "lists" / "some.txt"
    assert source(sample="digits").where(pets) is None


def test_classes_are_chosen_before_the_part_and_the_part_before_the_count(pets: Path) -> None:
    found = source(folder="pets", classes=["owl", "cat"], part="train", count=6).load(pets)
    assert found.classes == ("owl", "cat")
    assert sorted(found.label.tolist()) == [0, 0, 0, 1, 1, 1]


def test_another_count_is_told_with_the_place(pets: Path) -> None:
    with pytest.raises(DataError, match=r"pets: holds 15 images, expected 50,000\."):
        source(folder="pets", count=50_000).load(pets)
    with pytest.raises(DataError, match=r"^digits: holds 1,797 images, expected 1,796\."):
        source(sample="digits", count=1796).load(pets)


@pytest.mark.parametrize("places", [{}, {"folder": "a", "sample": "digits"}, {"list": "a", "arrays": "b"}])
def test_two_places_or_none_are_refused(places: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.yaml: .*give exactly one of folder, list, arrays"):
        source(**places)


def test_a_mistyped_key_offers_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"there is no key 'foldre' here\. Did you mean 'folder'\?"):
        source(foldre="pets")


def test_a_list_is_present_when_one_of_its_images_is(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a/1.png 0\na/2.png 0\n")
    source = Source.model_validate({"list": "list.txt"})
    assert not source.present(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "2.png").write_bytes(b"x")
    assert source.present(tmp_path)
    assert not Source(folder="b").present(tmp_path)
    assert Source(folder="a").present(tmp_path)
    assert Source(sample="noise").present(tmp_path)
