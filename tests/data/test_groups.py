from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spherood.data.groups import number_groups, read_groups
from spherood.data.image_set import ImageSet
from spherood.errors import ConfigError, DataError

NAMES = ["cat/1.png", "cat/2.png", "dog/1.png", "dog/2, late.png"]
PIXELS = np.zeros((4, 2, 2, 3), dtype=np.uint8)
SET = ImageSet("pets", PIXELS, np.array([0, 0, 1, 1]), NAMES, ("cat", "dog"))


def write(tmp_path: Path, text: str, encoding: str = "utf-8") -> Path:
    path = tmp_path / "patients.csv"
    path.write_text(text, encoding=encoding)
    return path


def test_groups_are_numbered_as_they_appear_in_the_set_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        'age,image,patient\n3,"dog/2, late.png",anna\n4,dog/1.png,zoe\n'
        "5,cat/2.png,anna\n\n5,cat/1.png,zoe\n1,bird.png,eve\n",
    )
    found = read_groups(path, "patient", SET)
    assert found.tolist() == [0, 1, 0, 1]
    assert found.dtype == np.int64
    assert read_groups(path, "age", SET).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("title", ["image", "file", "path", "name"])
def test_the_column_of_names_may_have_any_of_four_titles(tmp_path: Path, title: str) -> None:
    rows = "\n".join(f'"{name}",{number // 2}' for number, name in enumerate(NAMES))
    assert read_groups(write(tmp_path, f"{title},site\n{rows}"), "site", SET).tolist() == [0, 0, 1, 1]


def test_of_two_such_columns_image_comes_first(tmp_path: Path) -> None:
    rows = "\n".join(f'x,"{name}",{number}' for number, name in enumerate(NAMES))
    assert read_groups(write(tmp_path, f"name,image,site\n{rows}"), "site", SET).tolist() == [0, 1, 2, 3]


def test_what_spreadsheets_add_does_no_harm(tmp_path: Path) -> None:
    rows = "\r\n".join(f'"{name}", "a, b"{" " * number}' for number, name in enumerate(NAMES))
    found = read_groups(write(tmp_path, f"image , site \r\n{rows}\r\n", "utf-8-sig"), "site", SET)
    assert found.tolist() == [0, 0, 0, 0]


def test_an_image_without_a_row_is_counted_and_named(tmp_path: Path) -> None:
    path = write(tmp_path, "image,site\ncat/1.png,a\n./dog/1.png,a\n")
    with pytest.raises(DataError) as told:
        read_groups(path, "site", SET)
    assert str(told.value) == (
        f"{path}: 3 of 4 images of pets have no row, first cat/2.png. "
        "Add them; an image is named relative to the folder of its set, with '/'."
    )


def test_a_column_that_is_not_there_is_told_with_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "image,patient,site\n")
    with pytest.raises(ConfigError) as told:
        read_groups(path, "patients", SET)
    assert str(told.value) == f"{path}: there is no column 'patients'. Did you mean 'patient'?"


def test_a_file_that_names_no_images_is_told(tmp_path: Path) -> None:
    path = write(tmp_path, "picture,patient\n")
    with pytest.raises(DataError) as told:
        read_groups(path, "patient", SET)
    assert str(told.value) == (
        f"{path}: no column names the images, found picture, patient. Call it image or file or path or name."
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("cat/1.png,a\ncat/1.png,b", ", line 3: cat/1.png is in group 'b', and in 'a' above. Keep one of the rows."),
        ("cat/1.png, ", ", line 2: 'site' of cat/1.png is empty. Fill it in."),
        ("cat/1.png", ", line 2: expected 2 cells, got 1. A cell with a comma needs quotes."),
        ("cat/1.png,a,b", ", line 2: expected 2 cells, got 3. A cell with a comma needs quotes."),
    ],
)
def test_a_row_that_makes_no_sense_is_told_by_its_line(tmp_path: Path, rows: str, message: str) -> None:
    path = write(tmp_path, f"image,site\n{rows}\n")
    with pytest.raises(DataError) as told:
        read_groups(path, "site", SET)
    assert str(told.value) == f"{path}{message}"


def test_a_row_that_ends_before_the_name_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r", line 2: expected 2 cells, got 1\."):
        read_groups(write(tmp_path, "site,image\na\n"), "site", SET)


def test_rows_of_other_images_are_not_looked_at_and_the_same_row_twice_is_one(tmp_path: Path) -> None:
    rows = "\n".join(f'"{name}",a' for name in (*NAMES, *NAMES))
    assert read_groups(write(tmp_path, f"image,site\n{rows}\nx.png,\nx.png,b\n"), "site", SET).tolist() == [0] * 4


def test_a_file_of_another_kind_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv: no such file\. Check the path\."):
        read_groups(tmp_path / "none.csv", "site", SET)
    with pytest.raises(DataError, match=r"patients\.csv: expected a first line of column names, the file is empty\."):
        read_groups(write(tmp_path, ""), "site", SET)
    with pytest.raises(DataError, match=r"patients\.csv: not a CSV file: .* Save the table as CSV in UTF-8\."):
        read_groups(write(tmp_path, "image,größe\n", "latin-1"), "site", SET)
    with pytest.raises(DataError, match="not a CSV file"):
        read_groups(tmp_path, "site", SET)
    with pytest.raises(DataError, match="not a CSV file"):
        read_groups(write(tmp_path, "image,site\n" + "a" * 200_000), "site", SET)


def test_numbers_follow_the_first_appearance_of_any_value() -> None:
    assert number_groups(["b", "a", "b", 3, "a"]).tolist() == [0, 1, 0, 2, 1]
    assert number_groups([]).dtype == np.int64
