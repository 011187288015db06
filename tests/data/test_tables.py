"""A table of paths is an image set: CSV or Parquet, with labels or without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from spherood.data import Source
from spherood.data.tables import read_table
from spherood.errors import DataError

Write = Callable[..., Path]


@pytest.fixture
def pictures(picture: Write) -> list[str]:
    return [picture(f"pets/{name}.png", seed=seed).name for seed, name in enumerate(("a", "b", "c"))]


def test_a_csv_of_names_and_classes(pictures: list[str], tmp_path: Path) -> None:
    (tmp_path / "pets.csv").write_text("id,file,class\n7,a.png,dog\n8,b.png,cat\n9,c.png,dog\n", encoding="utf-8-sig")
    found = Source(table="pets.csv", root="pets").load(tmp_path)
    assert (found.classes, found.label.tolist(), list(found.names)) == (("cat", "dog"), [1, 0, 1], pictures)
    assert found.read(0).size == (6, 4)


def test_numbers_are_labels_and_minus_one_is_ood(pictures: list[str], tmp_path: Path) -> None:
    (tmp_path / "pets.csv").write_text("image,label\na.png,2\nb.png,-1\nc.png,0\n")
    found = read_table(tmp_path / "pets.csv", tmp_path / "pets")
    assert (found.label.tolist(), found.classes) == ([2, -1, 0], ("0", "1", "2"))


def test_parquet_without_labels(pictures: list[str], tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": pictures, "width": [1, 2, 3]}), tmp_path / "pets.parquet")
    found = Source(table="pets.parquet", root="pets", draw=2).load(tmp_path)
    assert (len(found), found.label.tolist(), found.classes) == (2, [-1, -1], ())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,label\na.png,1\n", "has no column of paths (image, path, file, filename)."),
        ("image,label\n", "the table is empty."),
        ("image,label\na.png,1\n,1\n", "row 1: 'image' is empty."),
        ("image,label\na.png,\n", "row 0: has no label."),
        ("image,label\na.png,-2\n", "row 0: the label is -2, expected 0, 1, … or -1."),
        ("image,label\na.png,1,2\n", "line 2: expected 2 cells, got 3."),
        ("image\na.png\ngone.png\n", "1 of 2 images are missing under"),
        ("", "has no column of paths"),
    ],
)
def test_a_table_that_is_wrong_says_where(pictures: list[str], text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "pets.csv").write_text(text)
    with pytest.raises(DataError) as told:
        read_table(tmp_path / "pets.csv", tmp_path / "pets")
    assert message in str(told.value)


def test_what_is_no_table_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such table"):
        read_table(tmp_path / "gone.csv", tmp_path)
    (tmp_path / "x.csv").write_bytes(b"image\n\xff\xfe\n")
    with pytest.raises(DataError, match="not a CSV file"):
        read_table(tmp_path / "x.csv", tmp_path)
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="not a Parquet file"):
        read_table(tmp_path / "x.parquet", tmp_path)
