from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from spherood.errors import ConfigError, DataError, OutputError
from spherood.scoring.parts import COLUMNS, FORMATS, Row, part_files, read_part, write_part

SUFFIXES = sorted(FORMATS)
every_format = pytest.mark.parametrize("suffix", SUFFIXES)
ROW: Row = {
    "image": 'lake/Größe, "x".jpg',
    "source": "lake",
    "time": "2026-11-24T08:15:00+00:00",
    "is_ood": False,
    "score": 0.1,
    "p_value": 1 / 3,
    "threshold": 0.25,
    "nearest_class": "猫",
    "needs_review": True,
    "reason": "one line\r\nand another\n",
    "neighbours": [{"name": "a,b.jpg", "cosine": 0.7, "row": 3}, {"name": "c.jpg", "cosine": -0.5, "row": -1}],
    "error": None,
}
UNREAD: Row = {**dict.fromkeys(ROW), "image": "b.jpg", "source": "", "neighbours": [], "error": "b.jpg: no image"}

text = st.text(st.characters(exclude_categories=["Cs"]))
number = st.floats(allow_nan=False, allow_infinity=False)
moment = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31)).map(
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC).isoformat()
)
neighbour = st.fixed_dictionaries({"name": text, "cosine": number, "row": st.integers(-1, 2**63 - 1)})
by_kind: dict[str, st.SearchStrategy[Any]] = {
    "text": st.none() | text.filter(bool),
    "time": st.none() | moment,
    "number": st.none() | number,
    "flag": st.none() | st.booleans(),
    "neighbours": st.lists(neighbour, max_size=3),
}
by_column = {name: by_kind[kind] for name, kind in COLUMNS.items()} | {"image": text, "source": text}
without = {name: by_column[name] for name in ROW}
row_lists = st.lists(st.fixed_dictionaries(without), max_size=4) | st.lists(
    st.fixed_dictionaries(by_column), max_size=4
)


@every_format
@given(rows=row_lists)
@example(rows=[ROW, UNREAD])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_what_is_read_back_is_what_was_written(tmp_path: Path, suffix: str, rows: list[Row]) -> None:
    path = tmp_path / f"part-00000000{suffix}"
    write_part(path, iter(rows))
    back = read_part(path)
    assert back == rows
    for one, other in zip(back, rows, strict=True):
        assert list(one) == [name for name in COLUMNS if name in other]  # in this order
        assert [type(one[name]) for name in one] == [type(other[name]) for name in one]


@every_format
def test_the_columns_asked_for_come_alone_and_discovery_only_where_it_is(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part{suffix}"
    write_part(path, [ROW, UNREAD])
    assert read_part(path, ["error", "image"]) == [
        {"error": None, "image": ROW["image"]},
        {"error": UNREAD["error"], "image": "b.jpg"},
    ]
    assert read_part(path, ["image", "discovery"]) == [{"image": ROW["image"]}, {"image": "b.jpg"}]
    write_part(path, [{**ROW, "discovery": True}, {**UNREAD, "discovery": None}])
    assert read_part(path, ["discovery"]) == [{"discovery": True}, {"discovery": None}]


def test_a_line_of_each_text_format_worked_out_by_hand(tmp_path: Path) -> None:
    row = {**ROW, "image": "a,b.jpg", "reason": "far", "p_value": 1.0, "discovery": False}
    write_part(tmp_path / "a.csv", [row, UNREAD | {"discovery": None}])
    assert (tmp_path / "a.csv").read_bytes().decode() == (
        "image,source,time,is_ood,score,p_value,threshold,nearest_class,needs_review,reason,neighbours,error,discovery\r\n"
        '"a,b.jpg",lake,2026-11-24T08:15:00+00:00,false,0.1,1.0,0.25,猫,true,far,'
        '"[{""name"": ""a,b.jpg"", ""cosine"": 0.7, ""row"": 3}, {""name"": ""c.jpg"", ""cosine"": -0.5, ""row"": -1}]"'
        ",,false\r\n"
        "b.jpg,,,,,,,,,,[],b.jpg: no image,\r\n"
    )
    write_part(tmp_path / "a.jsonl", [UNREAD | {"image": "猫.jpg"}])
    assert (tmp_path / "a.jsonl").read_bytes().decode() == (
        '{"image": "猫.jpg", "source": "", "time": null, "is_ood": null, "score": null, "p_value": null, '
        '"threshold": null, "nearest_class": null, "needs_review": null, "reason": null, "neighbours": [], '
        '"error": "b.jpg: no image"}\n'
    )


def test_the_columns_of_a_parquet_part_have_the_types_that_tools_expect(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'parquet'")
    path = tmp_path / "part.parquet"
    for rows in ([], [{**UNREAD, "neighbours": []}]):  # nothing to guess a type from
        write_part(path, rows, list(COLUMNS) if not rows else None)
        with parquet.ParquetFile(path) as file:
            assert {
                field.name: str(field.type).replace("element: ", "").replace("item: ", "")
                for field in file.schema_arrow
            } == {
                "image": "string",
                "source": "string",
                "time": "timestamp[ms, tz=UTC]",  # Parquet has no seconds
                "is_ood": "bool",
                "score": "double",
                "p_value": "double",
                "threshold": "double",
                "nearest_class": "string",
                "needs_review": "bool",
                "reason": "string",
                "neighbours": "list<struct<name: string, cosine: double, row: int64>>",
                "error": "string",
            } | ({} if rows else {"discovery": "bool"})
            if rows:
                assert file.metadata.row_group(0).column(0).compression == "ZSTD"


@every_format
def test_an_empty_part_has_its_columns_and_no_row(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part{suffix}"
    for columns in (None, list(COLUMNS)):
        write_part(path, [], columns)
        assert read_part(path) == []
        assert read_part(path, ["image"]) == []
        if suffix != ".jsonl":  # has no head
            assert b"reason" in path.read_bytes()
            assert (b"discovery" in path.read_bytes()) == (columns is not None)


@every_format
def test_a_file_name_that_is_no_text_is_written_out(tmp_path: Path, suffix: str) -> None:
    path, name = tmp_path / f"part{suffix}", os.fsdecode(b"caf\xe9.jpg")
    write_part(path, [{**ROW, "image": name, "neighbours": [{"name": name, "cosine": 1.0, "row": 0}]}])
    (row,) = read_part(path)
    assert (row["image"], row["neighbours"][0]["name"]) == ("caf\\udce9.jpg", "caf\\udce9.jpg")


@every_format
def test_an_empty_text_that_csv_could_not_tell_from_none_is_none_in_every_format(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part{suffix}"
    write_part(path, [{**ROW, "nearest_class": "", "source": ""}])
    assert read_part(path, ["nearest_class", "source"]) == [{"nearest_class": None, "source": ""}]


@every_format
def test_a_folder_named_like_a_setting_adds_no_column(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "rate=0.1" / "parts" / f"part-00000000{suffix}"
    write_part(path, [ROW])
    assert read_part(path) == [ROW]


@every_format
def test_numbers_of_numpy_are_written_as_plain_ones(tmp_path: Path, suffix: str) -> None:
    np = pytest.importorskip("numpy")
    path = tmp_path / f"part{suffix}"
    near = [{"name": np.str_("a"), "cosine": np.float32(0.5), "row": np.int32(3)}]
    write_part(path, [{**ROW, "score": np.float64(0.1), "is_ood": np.True_, "neighbours": near}])
    assert read_part(path, ["score", "is_ood", "neighbours"]) == [
        {"score": 0.1, "is_ood": True, "neighbours": [{"name": "a", "cosine": 0.5, "row": 3}]}
    ]


TO_THE_END = """
import resource, sys
from pathlib import Path
from spherood.scoring.parts import read_part, write_part
old, new = map(Path, sys.argv[1:])
rows = [row | {"reason": f"{number * 7919 % 99991} " * 50} for number, row in enumerate(read_part(old) * 2000)]
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
for path in (old, new):
    try:
        write_part(path, rows)
    except OSError as error:
        print(type(error).__name__, error)
"""


@every_format
def test_where_the_disk_is_full_the_old_part_stays_and_no_half_of_a_new_one(tmp_path: Path, suffix: str) -> None:
    old, new = tmp_path / f"part-00000000{suffix}", tmp_path / f"part-00000001{suffix}"
    write_part(old, [ROW])
    told = subprocess.run(
        [sys.executable, "-B", "-c", TO_THE_END, old, new], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told == [
        f"OutputError {path}: cannot be written: File too large. Make room or mend that, then give the same command "
        "again: what is there stays."
        for path in (old, new)
    ]
    assert read_part(old) == [ROW]
    assert list(tmp_path.iterdir()) == [old]


@every_format
def test_rows_that_fail_while_they_are_made_fail_as_they_are_and_leave_no_part(tmp_path: Path, suffix: str) -> None:
    def rows() -> Any:
        yield ROW
        raise OSError("the tape broke")

    with pytest.raises(OSError, match=r"^the tape broke$") as caught:
        write_part(tmp_path / f"part{suffix}", rows())
    assert not isinstance(caught.value, OutputError)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told_as_everywhere(tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("x")
    with pytest.raises(OutputError, match=r"its folder cannot be made: File exists\. Choose another place\.$"):
        write_part(tmp_path / "parts" / "part-00000000.csv", [ROW])


@every_format
def test_a_damaged_part_says_what_to_do(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"part{suffix}"
    write_part(path, [ROW, UNREAD])
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-9], b"\xff\xfe\n", b"none of ours\n"):
        path.write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            read_part(path)
        assert str(caught.value).startswith(f"{path}: not a part, or damaged: ")
        assert ".." not in str(caught.value).removeprefix(str(path))
        assert str(caught.value).endswith(". Delete it and give the command that made it again: the rest stays.")
    path.unlink()
    with pytest.raises(FileNotFoundError):
        read_part(path)


def test_damage_that_only_one_format_can_have_is_told_too(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")

    def told(path: Path, content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(DataError) as caught:
            read_part(path)
        return str(caught.value).removeprefix(f"{path}: not a part, or damaged: ").partition(".")[0]

    a, b, c = (tmp_path / name for name in ("a.csv", "b.jsonl", "c.parquet"))
    write_part(a, [{**ROW, "error": "one, \nand another"}])
    assert told(a, a.read_bytes().removesuffix(b'and another"\r\n')) == "unexpected end of data"  # within quotes
    write_part(a, [ROW])
    assert told(a, a.read_bytes().removesuffix(b",\r\n") + b"\r\n") == "zip() argument 2 is shorter than argument 1"
    assert told(a, b"") == "its last line has no end"
    assert told(b, b"3\n") == "'int' object is not iterable"
    write_part(c, [ROW] * 1000)
    whole = bytearray(c.read_bytes())
    whole[100:200] = bytes(100)
    assert "decompression failed" in told(c, bytes(whole)) or "Couldn't deserialize" in told(c, bytes(whole))


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_part(tmp_path / "part.jsonl", [{**ROW, "score": float("nan")}])
    assert list(tmp_path.iterdir()) == []


def test_cells_that_no_part_has_are_told(tmp_path: Path) -> None:
    path = tmp_path / "part.csv"
    write_part(path, [ROW])
    with path.open(newline="") as file:
        head, line = csv.reader(file)
    for name, cell in (("is_ood", "yes"), ("score", "high"), ("neighbours", "{")):
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(
                [head, [cell if name == known else old for known, old in zip(head, line, strict=True)]]
            )
        with pytest.raises(DataError, match="not a part, or damaged"):
            read_part(path)
        assert read_part(path, ["image"]) == [{"image": ROW["image"]}]  # what is not asked for is not looked at


@every_format
def test_another_table_is_no_part(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"other{suffix}"
    if suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table({"image": ["a"], "source": ["b"]}), path)
    else:
        path.write_text("image,source\na,b\n" if suffix == ".csv" else json.dumps({"image": "a", "source": "b"}))
    with pytest.raises(DataError, match="not a part, or damaged: no column 'time'"):
        read_part(path)
    assert read_part(path, ["source"]) == [{"source": "b"}]


def test_the_parts_of_a_folder_come_in_order_and_nothing_else_with_them(tmp_path: Path) -> None:
    names = [f"part-{number:08d}.jsonl" for number in (11, 2, 0)]
    for name in names:
        write_part(tmp_path / "parts" / name, [ROW])
    for name in (".part-00000003.jsonl.123.part", "part-00000004.tmp", "notes.jsonl"):
        (tmp_path / "parts" / name).write_text("")
    assert [path.name for path in part_files(tmp_path)] == sorted(names)


def test_a_folder_without_parts_or_with_two_formats_says_what_to_do(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError) as caught:
            part_files(out)
        assert str(caught.value) == f"{out}: holds no parts. Score into it with: spherood score BUNDLE INPUT -o {out}"
    for suffix in (".csv", ".jsonl"):
        write_part(tmp_path / "parts" / f"part-00000000{suffix}", [ROW])
    with pytest.raises(DataError) as caught:
        part_files(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: holds parts of several formats, .csv and .jsonl. Delete all but one from {tmp_path / 'parts'}."
    )


def test_a_suffix_that_is_no_format_is_told_with_the_nearest(tmp_path: Path) -> None:
    for call in (lambda path: write_part(path, [ROW]), read_part):
        with pytest.raises(ConfigError) as caught:
            call(tmp_path / "rows.json")
        assert str(caught.value) == f"{tmp_path}/rows.json: there is no format '.json' for rows. Did you mean '.jsonl'?"
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow_parquet_says_how_to_install_it_and_the_others_work(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'pyarrow':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from pathlib import Path\n"
        "from spherood.scoring.parts import read_part, write_part\n"
        "out = Path(sys.argv[1])\n"
        "for suffix in ('.csv', '.jsonl', '.parquet'):\n"
        "    try: write_part(out / f'a{suffix}', []); print(read_part(out / f'a{suffix}'))\n"
        "    except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "[]\n[]\nThe format parquet: needs pyarrow, which is not installed. "
        "Install it with: pip install 'spherood[parquet]'\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.jsonl"]
