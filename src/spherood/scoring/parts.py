"""One part: the rows of one shard as a file, in Parquet, CSV or JSON lines, by its suffix. What is there is whole.

    column        Parquet                                    CSV               JSON lines   Python
    text          string                                     text              string       str
    time          timestamp[s, UTC]                          ISO 8601          string       str, ISO 8601 in UTC
    number        double                                     shortest decimal  number       float, finite
    flag          bool                                       true, false       boolean      bool
    neighbours    list<struct<name, cosine: double, row>>    JSON text         array        list of dicts

None is null, and in CSV an empty cell. An empty text is written as None, which CSV cannot tell apart, but for `image`
and `source`, which are never None. A file name that is no UTF-8 has its odd bytes written out (\\udcff), as neither
Parquet nor JSON can hold them. What is read back has the same values from each format, to the last digit.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from spherood.errors import ConfigError, DataError, OutputError, nearest, optional
from spherood.files import written_aside

Row = dict[str, Any]

COLUMNS = {
    "image": "text",
    "source": "text",
    "time": "time",
    "is_ood": "flag",
    "score": "number",
    "p_value": "number",
    "threshold": "number",
    "nearest_class": "text",
    "needs_review": "flag",
    "reason": "text",
    "neighbours": "neighbours",
    "error": "text",
    "discovery": "flag",  # only after a second pass
}
NEVER_NONE = ("image", "source", "neighbours")
DAMAGE = (ValueError, KeyError, TypeError, OSError, csv.Error)


def write_part(path: Path, rows: Iterable[Row], columns: Sequence[str] | None = None) -> None:
    """Write rows, whole or not at all. `columns`: those of the first row by default, all but `discovery` without one.

    ConfigError for a suffix that is no format, MissingExtraError without pyarrow, OutputError where there is no room.
    """
    format_, given = _format(path), list(rows)
    names = [name for name in COLUMNS if name in (columns or (given[0] if given else set(COLUMNS) - {"discovery"}))]
    plain = [{name: _plain(name, row[name]) for name in names} for row in given]
    try:
        with written_aside(path) as aside:
            format_.write(aside, names, plain)
    except OutputError:
        raise
    except OSError as error:  # a library that writes may bury the system's word in its own
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OutputError(
            f"{path}: cannot be written: {reason}. Make room or mend that, then give the same command again: what is "
            "there stays."
        ) from error


def read_part(path: Path, columns: Sequence[str] | None = None) -> list[Row]:
    """Rows of a part, with these columns; all by default. `discovery` is left out where no second pass was made.

    DataError for a damaged file or one that is no part.
    """
    format_ = _format(path)
    try:
        return format_.read(path, columns)
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno:  # the system's own: no such file, no permission
            raise
        raise DataError(
            f"{path}: not a part, or damaged: {str(error).rstrip('.')}. Delete it and give the command that made it "
            "again: the rest stays."
        ) from None


def part_files(out: Path) -> list[Path]:
    """The parts of an output folder, in order. DataError where there are none, or some of two formats."""
    found = sorted(path for path in (out / "parts").glob("part-*") if path.suffix in FORMATS)
    suffixes = sorted({path.suffix for path in found})
    if not found:
        raise DataError(f"{out}: holds no parts. Score into it with: spherood score BUNDLE INPUT -o {out}")
    if len(suffixes) > 1:
        raise DataError(
            f"{out}: holds parts of several formats, {' and '.join(suffixes)}. Delete all but one from {out / 'parts'}."
        )
    return found


def _plain(name: str, value: Any) -> Any:
    """A value as every format can hold it."""
    if value is None or (value == "" and name not in NEVER_NONE):
        return None
    return KINDS[COLUMNS[name]].plain(value)


def _text(value: str) -> str:
    return value.encode("utf-8", "backslashreplace").decode("utf-8")


def _neighbours(value: Iterable[Row]) -> list[Row]:
    return [{"name": _text(one["name"]), "cosine": float(one["cosine"]), "row": int(one["row"])} for one in value]


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


class _Kind(NamedTuple):
    plain: Callable[[Any], Any]  # as every format holds it
    cell: Callable[[Any], str]  # as CSV writes it
    of_cell: Callable[[str], Any]


KINDS = {
    "text": _Kind(_text, str, str),
    "time": _Kind(str, str, str),
    "number": _Kind(float, repr, float),
    "flag": _Kind(bool, lambda value: str(value).lower(), {"true": True, "false": False}.__getitem__),
    "neighbours": _Kind(_neighbours, _dumps, json.loads),
}


def _chosen(there: Iterable[str], columns: Sequence[str] | None) -> list[str]:
    """Those of the columns asked for that a file has; ValueError where one but `discovery` is absent."""
    known = set(there)
    wanted = [name for name in columns or COLUMNS if name in known or name != "discovery"]
    absent = next((name for name in wanted if name not in known), None)
    if absent is not None:
        raise ValueError(f"no column '{absent}'")
    return wanted


def _write_csv(path: Path, names: list[str], rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)  # its lines end in \r\n: before Python 3.13 only then is a \r in a cell quoted
        writer.writerow(names)
        for row in rows:
            writer.writerow("" if row[name] is None else KINDS[COLUMNS[name]].cell(row[name]) for name in names)


def _read_csv(path: Path, columns: Sequence[str] | None) -> list[Row]:
    text = path.read_bytes().decode()
    if not text.endswith("\n"):  # the last cell may be cut short
        raise ValueError("its last line has no end")
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    there = next(lines)
    names = _chosen(there, columns)
    cells: Iterator[dict[str, str]] = (dict(zip(there, line, strict=True)) for line in lines)
    return [{name: _of_cell(name, cell[name]) for name in names} for cell in cells]


def _of_cell(name: str, cell: str) -> Any:
    return None if cell == "" and name not in NEVER_NONE else KINDS[COLUMNS[name]].of_cell(cell)


def _write_jsonl(path: Path, names: list[str], rows: list[Row]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(_dumps(row) + "\n" for row in rows)


def _read_jsonl(path: Path, columns: Sequence[str] | None) -> list[Row]:
    with path.open(encoding="utf-8", newline="\n") as file:
        found = [json.loads(line) for line in file]
    return [{name: row[name] for name in _chosen(row, columns)} for row in found]


def _write_parquet(path: Path, names: list[str], rows: list[Row]) -> None:
    arrow = optional("pyarrow", "parquet", "The format parquet")
    parquet = optional("pyarrow.parquet", "parquet", "The format parquet")
    neighbour = arrow.struct([("name", arrow.string()), ("cosine", arrow.float64()), ("row", arrow.int64())])
    types = {
        "text": arrow.string(),
        "time": arrow.timestamp("s", tz="UTC"),
        "number": arrow.float64(),
        "flag": arrow.bool_(),
        "neighbours": arrow.list_(neighbour),
    }
    schema = arrow.schema([(name, types[COLUMNS[name]]) for name in names])
    with_times = ({**row, "time": row["time"] and datetime.fromisoformat(row["time"])} for row in rows)
    parquet.write_table(arrow.Table.from_pylist(list(with_times), schema), path, compression="zstd")


def _read_parquet(path: Path, columns: Sequence[str] | None) -> list[Row]:
    parquet = optional("pyarrow.parquet", "parquet", "The format parquet")
    with parquet.ParquetFile(path) as file:  # read_table would make columns of a folder named a=1
        rows: list[Row] = file.read(_chosen(file.schema_arrow.names, columns)).to_pylist()
    for row in rows:
        if row.get("time") is not None:
            row["time"] = row["time"].isoformat()
    return rows


class _Format(NamedTuple):
    write: Callable[[Path, list[str], list[Row]], None]
    read: Callable[[Path, Sequence[str] | None], list[Row]]


FORMATS = {
    ".parquet": _Format(_write_parquet, _read_parquet),
    ".csv": _Format(_write_csv, _read_csv),
    ".jsonl": _Format(_write_jsonl, _read_jsonl),
}


def _format(path: Path) -> _Format:
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path}: there is no format '{path.suffix}' for rows. {nearest(path.suffix, FORMATS)}")
    return FORMATS[path.suffix]
