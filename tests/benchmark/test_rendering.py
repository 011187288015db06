from __future__ import annotations

import csv
import io
from html.parser import HTMLParser

import pytest

from spherood.benchmark.layouts import Cell, Table
from spherood.benchmark.rendering import Format, render

TABLE = Table(
    "AUROC, percent",
    ["model", "score", "tin", "far"],
    [
        [Cell('a,"b"'), Cell("msp"), Cell("9.10 ± 0.20"), Cell("80.00*")],
        [Cell("cider"), Cell("knn:k=50"), Cell("90.00", bold=True), Cell("–")],
    ],
    words=2,
)
SECOND = Table("FPR, percent", ["model", "tin"], [[Cell("cider"), Cell("5.00")]])


def named(name: str) -> Table:
    return Table("AUROC", ["model", "100 % of_it"], [[Cell(name), Cell("1.00", bold=True)]])


def test_text_is_a_markdown_table_whose_words_stand_left_and_figures_right() -> None:
    assert render([TABLE, SECOND], ["one", "two"], "text") == (
        "AUROC, percent\n"
        "\n"
        "| model | score    |         tin |    far |\n"
        "| ----- | -------- | ----------: | -----: |\n"
        '| a,"b" | msp      | 9.10 ± 0.20 | 80.00* |\n'
        "| cider | knn:k=50 |   **90.00** |      – |\n"
        "\n"
        "FPR, percent\n"
        "\n"
        "| model |  tin |\n"
        "| ----- | ---: |\n"
        "| cider | 5.00 |\n"
        "\n"
        "one\n"
        "two\n"
    )


def test_a_bar_in_a_name_makes_no_column() -> None:
    assert r"| a\|b        |" in render([named("a|b       ")], [], "text")


def test_csv_parses_back_to_every_cell_and_holds_no_note() -> None:
    rows = list(csv.reader(io.StringIO(render([TABLE, SECOND], ["a note"], "csv"))))
    assert rows == [
        ["table", *TABLE.header],
        *(["AUROC, percent", *(cell.text for cell in row)] for row in TABLE.rows),
        ["table", *SECOND.header],
        ["FPR, percent", "cider", "5.00"],
    ]


def test_latex_is_a_tabular_with_the_best_in_bold_and_the_notes_as_comments() -> None:
    assert render([TABLE], ["a note"], "latex").splitlines() == [
        "% AUROC, percent",
        r"\begin{tabular}{llrr}",
        r"\hline",
        r"model & score & tin & far \\",
        r"\hline",
        r'a,"b" & msp & 9.10 $\pm$ 0.20 & 80.00* \\',
        r"cider & knn:k=50 & \textbf{90.00} & -- \\",
        r"\hline",
        r"\end{tabular}",
        "",
        "% a note",
    ]


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a&b", r"a\&b"),
        ("95 %", r"95 \%"),
        ("own_run", r"own\_run"),
        ("cider#3f2a", r"cider\#3f2a"),
        ("{$}", r"\{\$\}"),
        ("a\\b", r"a\textbackslash{}b"),
        ("~x^2", r"\textasciitilde{}x\textasciicircum{}2"),
    ],
)
def test_latex_escapes_what_it_would_read_as_a_command(name: str, escaped: str) -> None:
    lines = render([named(name)], [], "latex").splitlines()
    assert lines[3] == r"model & 100 \% of\_it \\"
    assert lines[5] == rf"{escaped} & \textbf{{1.00}} \\"


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_escapes_names_and_notes_and_has_the_best_in_bold() -> None:
    text = render([named("<script>alert(1)</script>")], ["<img src=x>"], "html")
    assert text.startswith("<!doctype html>\n<meta charset=utf-8>\n")
    assert "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td><td><b>1.00</b></td>" in text
    reader = Reader()
    reader.feed(text)
    assert not {"script", "img"} & set(reader.tags)
    assert "<script>alert(1)</script>" in reader.text
    assert "<img src=x>" in reader.text


@pytest.mark.parametrize("to", ["text", "csv", "latex", "html"])
def test_a_table_without_notes_ends_with_one_line_break(to: Format) -> None:
    text = render([TABLE], [], to)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
