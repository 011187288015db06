from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spherood.data.folders import read_folder
from spherood.errors import DataError

Picture = Callable[..., Path]


def test_folders_are_classes_sorted_by_name_and_files_come_sorted_by_path(tmp_path: Path, picture: Picture) -> None:
    for name in ("dog/2.png", "Zebra/1.png", "cat/b.png", "cat/a.JPG", "cat/young/c.png"):
        picture(name)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    found = read_folder(tmp_path)
    assert found.classes == ("Zebra", "cat", "dog")
    assert found.names == ["Zebra/1.png", "cat/a.JPG", "cat/b.png", "cat/young/c.png", "dog/2.png"]
    assert found.label.tolist() == [0, 1, 1, 1, 2]
    assert [image.relative_to(tmp_path).as_posix() for image in found.images] == found.names
    assert found.name == tmp_path.name
    assert read_folder(tmp_path, "pets").name == "pets"


def test_images_without_folders_have_no_label(tmp_path: Path, picture: Picture) -> None:
    picture("b.png")
    picture("a.png")
    found = read_folder(tmp_path)
    assert (found.names, found.label.tolist(), found.classes) == (["a.png", "b.png"], [-1, -1], ())


def test_hidden_files_and_folders_are_no_images(tmp_path: Path, picture: Picture) -> None:
    for name in ("cat/1.png", ".trash/2.png", "cat/.checkpoints/3.png", "._4.png"):
        picture(name)
    (tmp_path / "cat" / "._1.png").write_bytes(b"what macOS leaves beside a copy")
    found = read_folder(tmp_path)
    assert (found.names, found.classes) == (["cat/1.png"], ("cat",))


def test_a_class_may_be_a_link_to_a_folder_elsewhere(tmp_path: Path, picture: Picture) -> None:
    picture("elsewhere/1.png")
    picture("set/dog/2.png")
    (tmp_path / "set" / "cat").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    found = read_folder(tmp_path / "set")
    assert (found.names, found.label.tolist()) == (["cat/1.png", "dog/2.png"], [0, 1])


def test_a_folder_that_is_absent_or_holds_no_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"photos: no such folder of images\. Check the path, or where --data points"):
        read_folder(tmp_path / "photos")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "cat.png").mkdir()  # a folder is no image, whatever its name
    with pytest.raises(DataError, match=r"empty: holds no image \(.*\.png.*\)\. Is it the right folder"):
        read_folder(tmp_path / "empty")
