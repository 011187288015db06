from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.errors import ImageError
from spherood.scoring.items import Item, items, open_image
from spherood.scoring.shards import shards

Saved = Callable[..., Path]
pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")


def of(*inputs: Path, **more: Any) -> list[Item]:
    return [item for shard in shards(inputs, **more) for item in items(shard)]


def bundle_of(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1_700_000_000
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_file_comes_with_its_folder_and_its_time_and_a_missing_one_without(tmp_path: Path, saved: Saved) -> None:
    there = saved(tmp_path / "day" / "a.png")
    os.utime(there, (1_700_000_000, 1_700_000_000))
    found, gone = of(there, tmp_path / "gone.png")
    assert found == Item(str(there), str(there.parent), "2023-11-14T22:13:20+00:00", there)
    assert (gone.time, gone.content) == (None, tmp_path / "gone.png")
    assert open_image(found).size == (8, 8)
    with pytest.raises(ImageError, match=r"gone\.png: no such file\.$"):
        open_image(gone)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_images_of_a_tar_are_its_members_with_an_images_suffix(tmp_path: Path, saved: Saved, mode: str) -> None:
    png = saved(tmp_path / "x.png").read_bytes()
    files = {"1.png": png, "1.cls": b"3", "1.json": b"{}", "d/2.PNG": png, "3.jpg": b"no image"}
    tar = bundle_of(tmp_path / ("s.tar" if mode == "w" else "s.tar.gz"), files, mode)
    found = of(tar)
    assert [item.image for item in found] == [f"{tar}/1.png", f"{tar}/d/2.PNG", f"{tar}/3.jpg"]
    assert {(item.source, item.time) for item in found} == {(str(tar), "2023-11-14T22:13:20+00:00")}
    assert np.asarray(open_image(found[0])).tolist() == np.asarray(open_image(found[1])).tolist()
    with pytest.raises(ImageError, match=r"s\.tar(\.gz)?/3\.jpg: not an image that Pillow can read\.$"):
        open_image(found[2])


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("place", [3584, 3600, 7000, 4 * 3584, 4 * 3584 + 100])  # 3,584: a member with its head
def test_a_tar_that_is_cut_off_gives_what_is_whole_and_says_where_it_ends(
    tmp_path: Path, packed: bool, place: int
) -> None:
    pngs = [np.random.default_rng(row).bytes(3000) for row in range(5)]
    whole = bundle_of(tmp_path / "w.tar", {f"{row}.png": png for row, png in enumerate(pngs)}).read_bytes()
    cut = tmp_path / ("c.tar.gz" if packed else "c.tar")
    content = gzip.compress(whole) if packed else whole
    cut.write_bytes(content[:place])
    *found, last = of(cut)
    count = len(found)
    assert 1 <= count < 5
    assert [item.content for item in found] == pngs[:count]
    assert packed or count == place // 3584
    images = "1 image" if count == 1 else f"{count} images"
    assert last.error == f"{cut}: cut off or damaged after {count - 1}.png ({images}). Copy it again."
    assert last.image == str(cut)


@pytest.mark.parametrize("place", [1, 4])
def test_a_tar_whose_heads_are_damaged_within_does_not_end_there_in_silence(tmp_path: Path, place: int) -> None:
    """1,536: a member of 1,000 bytes with its head. tarfile by itself takes such a head for the end."""
    tar = bundle_of(tmp_path / "d.tar", {f"{row}.png": bytes(1000) for row in range(6)})
    content = bytearray(tar.read_bytes())
    content[place * 1536 : place * 1536 + 100] = b"x" * 100
    tar.write_bytes(content)
    *found, last = of(tar)
    assert [item.image for item in found] == [f"{tar}/{row}.png" for row in range(place)]
    assert last.error is not None
    assert f"damaged after {place - 1}.png (" in last.error


def test_what_macos_and_a_dot_in_front_leave_in_a_tar_is_no_image_and_a_link_is_an_error(tmp_path: Path) -> None:
    tar = bundle_of(tmp_path / "m.tar", {"./._a.png": b"x", "./a.png": b"y", "in/.thumbs/b.png": b"z"})
    with tarfile.open(tar, "a") as more:
        for name, kind in (
            ("copy.png", tarfile.LNKTYPE),
            ("link.png", tarfile.SYMTYPE),
            ("album.png", tarfile.DIRTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "a.png" if kind != tarfile.DIRTYPE else ""
            more.addfile(member)
    image, *links = of(tar)
    assert (image.image, image.content) == (f"{tar}/a.png", b"y")
    assert [item.error for item in links] == [
        f"{tar}/{name}.png: a link to another member. Write the tar with the files themselves: tar --dereference "
        "--hard-dereference"
        for name in ("copy", "link")
    ]


def test_a_member_of_a_strange_name_or_time_is_told_in_utf_8_and_without_a_time(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        member = tarfile.TarInfo(os.fsdecode(b"\xff.png"))
        member.mtime = 10**15
        tar.addfile(member)
    (item,) = of(tmp_path / "s.tar")
    assert (item.image, item.time) == (f"{tmp_path}/s.tar/\\udcff.png", None)


def test_memory_does_not_grow_with_the_members_of_a_tar(tmp_path: Path) -> None:
    tar = bundle_of(tmp_path / "many.tar", {f"{row:05}.png": b"1" for row in range(6000)})
    (shard,) = shards([tar])
    tracemalloc.start()
    try:
        assert sum(1 for _ in items(shard)) == 6000
        assert tracemalloc.get_traced_memory()[1] < 1e6  # 3 MB where tarfile keeps its members
    finally:
        tracemalloc.stop()


def test_a_path_with_a_nul_is_one_row_with_the_error(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("a\0.png\n")
    (item,) = of(tmp_path / "l.txt")
    assert item.time is None
    with pytest.raises(ImageError, match="null byte"):
        open_image(item)


def test_what_is_no_tar_at_all_or_gone_is_one_item_with_the_error(tmp_path: Path) -> None:
    (tmp_path / "n.tar").write_bytes(b"no tar" * 500)
    (shard,) = shards([tmp_path / "n.tar"])
    (item,) = items(shard)
    assert item.error == f"{tmp_path}/n.tar: cut off or damaged after its beginning (0 images). Copy it again."
    (tmp_path / "n.tar").unlink()
    (item,) = items(shard)
    assert item.error == f"{tmp_path}/n.tar: cannot be read: No such file or directory."


def test_cells_of_a_parquet_column_are_paths_bytes_or_hugging_faces_pairs_and_none_is_an_error(
    tmp_path: Path, saved: Saved
) -> None:
    import pyarrow.parquet

    png = saved(tmp_path / "in" / "a.png").read_bytes()
    day = [datetime(2024, 5, 1, 12, tzinfo=UTC), datetime(2024, 5, 2), None]
    for name, cells, names in (
        ("paths", ["in/a.png", None, ""], [str(tmp_path / "in/a.png"), "FILE:1", "FILE:2"]),
        ("bytes", [png, b"", None], ["FILE:0", "FILE:1", "FILE:2"]),
        ("pairs", [{"bytes": png, "path": None}, {"bytes": None, "path": "in/a.png"}, None],
         ["FILE:0", str(tmp_path / "in/a.png"), "FILE:2"]),
    ):  # fmt: skip
        file = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"image": cells, "when": day}), file, row_group_size=2)
        found = of(file, time="when", size=2)
        assert [item.image for item in found] == [one.replace("FILE", str(file)) for one in names]
        assert [item.time for item in found] == ["2024-05-01T12:00:00+00:00", "2024-05-02T00:00:00+00:00", None]
        assert open_image(found[0]).size == (8, 8)
        assert found[2].error == f"{file}:2: holds no image."
        assert {item.source for item in found} == {str(file)}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("2024-05-01T12:00:00+02:00", "2024-05-01T10:00:00+00:00"),
        ("2024-05-01", "2024-05-01T00:00:00+00:00"),
        (date(2024, 5, 1), "2024-05-01T00:00:00+00:00"),
        ("yesterday", None),
        ("0001-01-01T00:00:00+05:00", None),  # the year 0
        (pyarrow.scalar(1_700_000_000_123_456_789, pyarrow.timestamp("ns")), "2023-11-14T22:13:20+00:00"),
        (pyarrow.scalar(1_700_000_000, pyarrow.timestamp("s", "Moon/Base")), "2023-11-14T22:13:20+00:00"),
        (pyarrow.scalar(10**15, pyarrow.timestamp("s")), None),
        (1_700_000_000, None),
    ],
)
def test_times_of_a_column_are_told_in_utc_and_what_is_none_is_left_out(
    tmp_path: Path, value: Any, told: str | None
) -> None:
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"image": ["a.png"], "when": [value]}), tmp_path / "f.parquet")
    (item,) = of(tmp_path / "f.parquet", time="when")
    assert item.time == told


def test_a_parquet_file_that_was_cut_off_after_the_plan_is_one_item_with_the_error(tmp_path: Path) -> None:
    import pyarrow.parquet

    file = tmp_path / "f.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"image": [f"{row}.png" for row in range(9)]}), file)
    (shard,) = shards([file])
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    (item,) = items(shard)
    assert item.error is not None
    assert item.error.startswith(f"{file}: cannot be read from row 0 on: ")
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.png"]}), file)
    (item,) = items(shard)
    assert item.error is not None
    assert item.error.startswith(f"{file}: cannot be read from row 0 on: ")
