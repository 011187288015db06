"""Tables as text (Markdown), CSV, LaTeX and HTML."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Sequence
from typing import Literal

from spherood.benchmark.layouts import Cell, Table

Format = Literal["text", "csv", "latex", "html"]
LATEX = {"\\": r"\textbackslash{}", "–": "--", "±": r"$\pm$"} | {one: "\\" + one for one in "&%$#_{}"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def render(tables: Sequence[Table], notes: Sequence[str], to: Format) -> str:
    """Every table with its title, then the notes."""
    one, between = WAYS[to]
    text = between.join(one(table) for table in tables)
    if to == "csv":  # figures alone: a note would be no row
        return text
    if to == "html":
        said = "".join(f"<p>{html.escape(note)}</p>\n" for note in notes)
        return f"<!doctype html>\n<meta charset=utf-8>\n<title>spherood compare</title>\n{STYLE}\n{text}{said}"
    mark = "% " if to == "latex" else ""
    return text + ("\n" if notes else "") + "".join(f"{mark}{note}\n" for note in notes)


STYLE = "<style>body{font:15px system-ui;margin:2em}table{border-collapse:collapse;margin-bottom:2em}\
td,th{padding:.2em .7em;border-bottom:1px solid #8888}td+td{font-variant-numeric:tabular-nums}caption{text-align:left;\
font-weight:600;padding:.5em 0}</style>"


def _text(table: Table) -> str:
    def written(cell: Cell) -> str:
        text = cell.text.replace("|", r"\|")
        return f"**{text}**" if cell.bold else text

    rows = [table.header, *([written(cell) for cell in row] for row in table.rows)]
    width = [max(len(row[column]) for row in rows) for column in range(len(table.header))]
    rule = ["-" * width[0], *("-" * w if j < table.words else "-" * (w - 1) + ":" for j, w in enumerate(width[1:], 1))]
    lines = [
        "| "
        + " | ".join(
            t.ljust(w) if j < table.words else t.rjust(w) for j, (t, w) in enumerate(zip(row, width, strict=True))
        )
        + " |"
        for row in [rows[0], rule, *rows[1:]]
    ]
    return f"{table.title}\n\n" + "\n".join(lines) + "\n"


def _csv(table: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["table", *table.header])
    writer.writerows([table.title, *(cell.text for cell in row)] for row in table.rows)
    return text.getvalue()


def _latex(table: Table) -> str:
    def escaped(text: str) -> str:
        return "".join(LATEX.get(letter, letter) for letter in text)

    def written(cell: Cell) -> str:
        return rf"\textbf{{{escaped(cell.text)}}}" if cell.bold else escaped(cell.text)

    columns = "l" * table.words + "r" * (len(table.header) - table.words)
    lines = [
        rf"% {table.title}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\hline",
        " & ".join(map(escaped, table.header)) + r" \\",
        r"\hline",
        *(" & ".join(map(written, row)) + r" \\" for row in table.rows),
        r"\hline",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _html(table: Table) -> str:
    def written(cell: Cell) -> str:
        text = html.escape(cell.text)
        return f"<td><b>{text}</b></td>" if cell.bold else f"<td>{text}</td>"

    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.header)
    body = "".join(f"<tr>{''.join(map(written, row))}</tr>\n" for row in table.rows)
    return f"<table><caption>{html.escape(table.title)}</caption>\n<tr>{head}</tr>\n{body}</table>\n"


WAYS: dict[Format, tuple[Callable[[Table], str], str]] = {
    "text": (_text, "\n"),
    "csv": (_csv, ""),
    "latex": (_latex, "\n"),
    "html": (_html, ""),
}
