from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spherood.data.lists import read_list
from spherood.errors import DataError

Picture = Callable[..., Path]


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "val_pets.txt"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_list_is_read_in_its_order_and_classes_are_named_by_folders(tmp_path: Path, picture: Picture) -> None:
    for name in ("dog/1.png", "big cat/2.png", "unknown/3.png"):
        picture(f"images/{name}")
    list_ = write(tmp_path, "dog/1.png 2", "", "big cat/2.png 0", "unknown/3.png -1", "dog/1.png 2  ")
    found = read_list(list_, tmp_path / "images")
    assert found.names == ["dog/1.png", "big cat/2.png", "unknown/3.png", "dog/1.png"]
    assert found.label.tolist() == [2, 0, -1, 2]
    assert found.classes == ("big cat", "1", "dog")  # nobody is in class 1, so nothing names it
    assert found.images[1] == tmp_path / "images" / "big cat" / "2.png"
    assert found.name == "val_pets"


def test_of_several_folders_the_first_names_the_class(tmp_path: Path, picture: Picture) -> None:
    for name in ("cat/1.png", "dog/2.png", "kitten/3.png"):
        picture(name)
    assert read_list(write(tmp_path, "cat/1.png 0", "dog/2.png 1", "kitten/3.png 0"), tmp_path).classes == (
        "cat",
        "dog",
    )


def test_classes_that_folders_do_not_tell_apart_keep_their_numbers(tmp_path: Path, picture: Picture) -> None:
    picture("train/a.png")
    picture("train/b.png")
    assert read_list(write(tmp_path, "train/a.png 0", "train/b.png 1"), tmp_path).classes == ("0", "1")


def test_a_list_of_unknown_images_has_no_classes(tmp_path: Path, picture: Picture) -> None:
    picture("a/1.png")
    assert read_list(write(tmp_path, "a/1.png -1"), tmp_path).classes == ()


@pytest.mark.parametrize("line", ["a/1.png", "a/1.png cat", "7", "a/1.png 1.5", "a/1.png -2", "a/1.png ²"])
def test_a_malformed_line_is_told_by_its_number_and_text(tmp_path: Path, picture: Picture, line: str) -> None:
    picture("a/1.png")
    with pytest.raises(DataError) as told:
        read_list(write(tmp_path, "a/1.png 0", "", line), tmp_path)
    assert str(told.value).endswith(f"val_pets.txt, line 3: expected 'relative/path.png LABEL', got '{line}'.")


def test_a_missing_image_is_named_and_counted(tmp_path: Path, picture: Picture) -> None:
    picture("a/1.png")
    list_ = write(tmp_path, "a/1.png 0", "a/2.png 0", "a/3.png 0")
    with pytest.raises(DataError, match=r"val_pets\.txt: 2 of 3 images are missing under .*, first .*a/2\.png\."):
        read_list(list_, tmp_path)


def test_what_is_no_list_at_all_is_named(tmp_path: Path, picture: Picture) -> None:
    with pytest.raises(DataError, match=r"none\.txt: no such image list\. Check the path, or where --data points"):
        read_list(tmp_path / "none.txt", tmp_path)
    with pytest.raises(DataError, match=r"val_pets\.txt: the list is empty"):
        read_list(write(tmp_path, "", " "), tmp_path)
    with pytest.raises(DataError, match=r"a\.png: not an image list"):
        read_list(picture("a.png"), tmp_path)
    with pytest.raises(DataError, match="not an image list"):
        read_list(tmp_path, tmp_path)


def test_a_dictionary_may_stand_where_the_label_does(tmp_path: Path, picture: Picture) -> None:
    for name in ("a b/1.png", "c/2.png", "d/3.png"):
        picture(name)
    list_ = write(
        tmp_path,
        'a b/1.png {"class_label": 1, "group_label": 7}',
        "c/2.png {'group_label': 7, 'class_label': -1}",
        "d/3.png 0",
    )
    found = read_list(list_, tmp_path)
    assert found.names == ["a b/1.png", "c/2.png", "d/3.png"]
    assert found.label.tolist() == [1, -1, 0]
    assert found.classes == ("d", "a b")


@pytest.mark.parametrize(
    "record",
    ["{}", '{"group_label": 1}', '{"class_label": "cat"}', '{"class_label": 1.5}', '{"class_label"', "{1, 2}", "{f()}"],
)
def test_a_dictionary_without_a_class_label_is_told_by_its_line(tmp_path: Path, picture: Picture, record: str) -> None:
    picture("a/1.png")
    with pytest.raises(DataError) as told:
        read_list(write(tmp_path, "a/1.png 0", f"a/1.png {record}"), tmp_path)
    assert "val_pets.txt, line 2: expected 'relative/path.png LABEL', got 'a/1.png {" in str(told.value)


def test_missing_images_are_told_with_the_root_and_what_to_do(tmp_path: Path) -> None:
    list_ = write(tmp_path, *(f"a/{number}.png 0" for number in range(1200)))
    with pytest.raises(DataError) as told:
        read_list(list_, tmp_path / "images")
    assert str(told.value) == (
        f"{list_}: 1,200 of 1,200 images are missing under {tmp_path / 'images'}, first "
        f"{tmp_path / 'images' / 'a' / '0.png'}. Complete the set."
    )
