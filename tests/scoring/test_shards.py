from __future__ import annotations

import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spherood.data.folders import read_folder
from spherood.errors import ConfigError, DataError
from spherood.scoring.shards import Shard, shards

Saved = Callable[..., Path]
pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")


def parquet(path: Path, rows: int, group: int, /, **columns: object) -> Path:
    import pyarrow.parquet

    columns = columns or {"image": [f"{row}.png" for row in range(rows)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


def test_a_folder_is_cut_in_the_order_of_its_names_and_hidden_files_and_other_files_are_no_images(
    tmp_path: Path, saved: Saved
) -> None:
    for name in ("b.png", "a/2.png", "a/1.JPG", "c/d/e.png", ".hidden.png", ".git/x.png"):
        saved(tmp_path / name) if not name.endswith("JPG") else saved(tmp_path / "x.png").rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    cut = list(shards([tmp_path], size=3))
    assert [shard.rows for shard in cut] == [3, 1]
    names = [str(Path(path).relative_to(tmp_path)) for shard in cut for path in shard.paths]
    assert names == ["a/1.JPG", "a/2.png", "b.png", "c/d/e.png"]


def test_a_link_back_to_a_folder_on_the_way_ends_the_walk_and_other_links_are_followed(
    tmp_path: Path, saved: Saved
) -> None:
    saved(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    saved(tmp_path / "out" / "b.png")
    (tmp_path / "in" / "other").symlink_to(tmp_path / "out")
    (shard,) = shards([tmp_path / "in"])
    assert [Path(path).name for path in shard.paths] == ["a.png", "b.png"]


def test_a_list_is_read_against_its_folder_and_labels_behind_paths_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(
        "x/a.png 3\n\n/abs/b.png -1\nwith space.png\nno 5.png 0\nc.png\t7\nd.png {'class_label': 2}\n"
    )
    (shard,) = shards([tmp_path / "list.txt"])
    assert shard.paths == (
        f"{tmp_path}/x/a.png",
        "/abs/b.png",
        f"{tmp_path}/with space.png",
        f"{tmp_path}/no 5.png",
        f"{tmp_path}/c.png",
        f"{tmp_path}/d.png",
    )


def test_a_folder_may_be_called_like_a_list_and_a_file_called_like_a_suffix_is_no_image(
    tmp_path: Path, saved: Saved
) -> None:
    saved(tmp_path / "in.txt" / "a.png")
    (tmp_path / "in.txt" / "png").write_text("no image")
    (shard,) = shards([tmp_path / "in.txt"])
    assert shard.paths == (f"{tmp_path}/in.txt/a.png",)


def test_the_walk_finds_the_images_that_training_finds_in_the_same_order(tmp_path: Path, saved: Saved) -> None:
    for name in ("b.png", "a/2.png", "a-b/1.png", "a/B/3.png", "a.png", "Z/4.png", "a/.x/5.png"):
        saved(tmp_path / name)
    (shard,) = shards([tmp_path])
    assert list(map(Path, shard.paths)) == read_folder(tmp_path).images


def test_a_name_that_is_not_utf_8_is_told_before_the_plan_would_choke_on_it(tmp_path: Path, saved: Saved) -> None:
    saved(tmp_path / "a.png").rename(tmp_path / os.fsdecode(b"\xff.png"))
    for path in (tmp_path, tmp_path / os.fsdecode(b"\xff.png")):
        with pytest.raises(DataError) as told:
            list(shards([path]))
        assert str(told.value) == (
            f"'{tmp_path}/\\udcff.png': this name is not UTF-8, as JSON and Parquet are. Rename it."
        )


def test_a_folder_that_goes_away_during_the_walk_is_told(tmp_path: Path, saved: Saved) -> None:
    saved(tmp_path / "a" / "1.png")
    saved(tmp_path / "b" / "2.png")
    cut = shards([tmp_path], 1)
    assert next(cut).rows == 1
    (tmp_path / "b" / "2.png").unlink()
    (tmp_path / "b").rmdir()
    with pytest.raises(DataError, match=r"b: cannot be read: No such file or directory\. Make it readable, or move "):
        next(cut)


def test_a_shard_of_no_image_is_refused(tmp_path: Path, saved: Saved) -> None:
    with pytest.raises(ConfigError, match=r"^shards: size must be at least 1, got 0\. Try 4096\.$"):
        next(shards([saved(tmp_path / "a.png")], 0))


def test_of_the_usual_columns_the_first_that_holds_paths_or_bytes_is_taken(tmp_path: Path) -> None:
    text = pyarrow.array(["a.png", "b.png"])
    pair = pyarrow.array([{"bytes": b"1", "path": None}] * 2)
    for columns, told in (
        ({"image": [0.5, 1.5], "path": text}, "path"),
        ({"path": text, "image": text.dictionary_encode()}, "image"),
        ({"file": text.cast("large_string")}, "file"),
        ({"filename": pyarrow.array([b"1", b"2"], pyarrow.large_binary())}, "filename"),
        ({"path": text, "image": pair}, "image"),
    ):
        (shard,) = shards([parquet(tmp_path / "p.parquet", 2, 2, **columns)])
        assert shard.column == told


@given(counts=st.lists(st.integers(1, 7), min_size=1, max_size=4), size=st.integers(1, 9))
def test_whatever_the_sizes_every_image_is_in_one_shard_in_order_and_comes_back_from_json(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], size: int
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    lists, names = [], []
    for number, count in enumerate(counts):
        entries = [f"/{number}/{row}.png" for row in range(count)]
        (folder / f"{number}.txt").write_text("\n".join(entries))
        lists.append(folder / f"{number}.txt")
        names += entries
    cut = list(shards(lists, size))
    assert [path for shard in cut for path in shard.paths] == names
    assert all(len(shard.paths) == size for shard in cut[:-1])
    assert [Shard.model_validate_json(shard.model_dump_json()) for shard in cut] == cut


def test_a_tar_is_one_shard_and_files_before_and_after_it_are_not_mixed_with_it(tmp_path: Path, saved: Saved) -> None:
    a, b = saved(tmp_path / "a.png"), saved(tmp_path / "b.png")
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        tar.add(a)
    cut = list(shards([a, tmp_path / "s.tar", b]))
    assert [shard.kind for shard in cut] == ["files", "tar", "files"]
    assert cut[1].size == (tmp_path / "s.tar").stat().st_size
    assert cut[1].rows is None


def test_row_groups_of_a_parquet_file_are_put_together_up_to_the_size(tmp_path: Path) -> None:
    cut = list(shards([parquet(tmp_path / "f.parquet", 25, 4)], size=10))
    assert [(shard.begin, shard.end, shard.first, shard.rows) for shard in cut] == [
        (0, 2, 0, 8),
        (2, 4, 8, 8),
        (4, 7, 16, 9),
    ]
    assert {shard.column for shard in cut} == {"image"}
    (one,) = shards([parquet(tmp_path / "g.parquet", 25, 25)], size=10)
    assert (one.begin, one.end, one.rows) == (0, 1, 25)  # a group is never divided


def test_what_cannot_be_scored_is_told_before_anything_is(tmp_path: Path, saved: Saved) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "movie.mp4").write_bytes(b"0")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    parquet(tmp_path / "p.parquet", 2, 2, photo=["a.png", "b.png"], taken=[1, 2])
    parquet(tmp_path / "none.parquet", 0, 2)
    for path, more, kind, message in (
        ("gone", {}, ConfigError, r"gone: expected a folder, image, list \(\.txt, \.lst\), tar "),
        ("gone.tar", {}, DataError, r"gone\.tar: no such file or folder\. Check the path\.$"),
        ("empty", {}, DataError, r"empty: holds no image \(\.bmp, .*\)\. Is it the right folder\?$"),
        ("empty.txt", {}, DataError, r"empty\.txt: the list is empty\.$"),
        ("movie.mp4", {}, ConfigError, r"movie\.mp4: expected a folder"),
        ("bad.parquet", {}, DataError, r"bad\.parquet: not a Parquet file, or damaged: .* Copy it again\.$"),
        (
            "p.parquet",
            {},
            ConfigError,
            r"has no column image, path, file, filename of paths or bytes\. Columns: photo, taken\. Name .*--column",
        ),
        ("p.parquet", {"column": "foto"}, ConfigError, r"has no column 'foto'\. Did you mean 'photo'\? Columns: photo"),
        (
            "p.parquet",
            {"column": "taken"},
            ConfigError,
            r"column 'taken' holds int64, expected paths or bytes\. Columns",
        ),
        ("none.parquet", {}, DataError, r"none\.parquet: holds no row\.$"),
        ("p.parquet", {"column": "photo", "time": "when"}, ConfigError, r"has no column 'when' of times\."),
        ("a.png", {"rows": True}, ConfigError, r"a\.png: the bundle reads features\. Give files of them"),
    ):
        with pytest.raises(kind, match=message):
            next(shards([saved(tmp_path / "a.png"), tmp_path / path], **more))


def test_a_missing_image_that_was_named_is_no_reason_to_refuse_the_others(tmp_path: Path, saved: Saved) -> None:
    (shard,) = shards([saved(tmp_path / "a.png"), tmp_path / "gone.png"])
    assert shard.rows == 2


def test_files_of_features_are_shards_of_their_own(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.zeros((3, 2), np.float32))
    assert [shard.kind for shard in shards([tmp_path / "f.npy"])] == ["features"]
    (tmp_path / "f.parquet").write_bytes(b"read later")
    assert [shard.kind for shard in shards([tmp_path / "f.parquet"], rows=True)] == ["features"]


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path) -> None:
    with (tmp_path / "many.txt").open("w") as file:
        file.writelines(f"/somewhere/in/a/lake/{row:09}.jpg\n" for row in range(200_000))
    next(shards([tmp_path / "many.txt"], 1000))
    tracemalloc.start()
    try:
        assert sum(shard.rows or 0 for shard in shards([tmp_path / "many.txt"], 1000)) == 200_000
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
