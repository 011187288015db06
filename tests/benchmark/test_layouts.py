"""The tables of the two READMEs, cell by cell as text, and the tables by metric."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from spherood.benchmark.comparison import Figure, Row, published_row
from spherood.benchmark.layouts import METRICS, Layout, Table, as_published, by_metric, show
from spherood.benchmark.protocol import Protocol, load_protocol
from spherood.benchmark.published import published_rows
from spherood.benchmark.rendering import render
from spherood.errors import ConfigError

CIDER = """
OOD         | FPR95        | AUROC        | AUPR
SUN         | 32.84 ± 1.86 | 92.24 ± 0.38 | 91.72 ± 0.28
Places365   | 45.31 ± 1.74 | 90.10 ± 0.48 | 90.90 ± 0.42
Textures    | 10.03 ± 0.23 | 98.21 ± 0.02 | 98.37 ± 0.02
iNaturalist | 15.42 ± 2.38 | 97.28 ± 0.31 | 97.80 ± 0.22
AVG         | 25.90 ± 1.47 | 94.46 ± 0.29 | 94.70 ± 0.22
"""
REWEIGHTOOD_CIFAR_10 = """
datasets  | FPR@95       | AUROC        | AUPR_IN      | AUPR_OUT
cifar100  | 37.68 ± 0.97 | 89.64 ± 0.08 | 90.33 ± 0.11 | 88.55 ± 0.09
tin       | 23.79 ± 0.86 | 94.09 ± 0.30 | 95.43 ± 0.24 | 92.31 ± 0.44
nearood   | 30.74 ± 0.79 | 91.86 ± 0.16 | 92.88 ± 0.17 | 90.43 ± 0.19
mnist     | 6.33 ± 0.71  | 98.40 ± 0.19 | 94.91 ± 0.52 | 99.73 ± 0.03
svhn      | 0.32 ± 0.03  | 99.87 ± 0.01 | 99.65 ± 0.03 | 99.96 ± 0.00
texture   | 10.48 ± 0.84 | 98.09 ± 0.13 | 98.83 ± 0.08 | 97.12 ± 0.21
places365 | 17.05 ± 1.15 | 95.82 ± 0.31 | 90.46 ± 0.62 | 98.64 ± 0.12
farood    | 8.54 ± 0.35  | 98.05 ± 0.10 | 95.96 ± 0.26 | 98.86 ± 0.05
"""
# Protocol, method, layout, table of the source.
README_TABLES: list[tuple[str, str, Layout, str]] = [
    ("cider/imagenet100", "CIDER", "cider", 'README table "Aug 12"'),
    ("openood/cifar10", "ReweightOOD", "openood", "README table CIFAR-10 (OOD)"),
    ("openood/cifar100", "ReweightOOD", "openood", "README table CIFAR-100 (OOD)"),
    ("openood/imagenet200", "ReweightOOD", "openood", "README table ImageNet-200 (OOD)"),
    ("openood/imagenet200", "ReweightOOD", "openood", "README table ImageNet-200 (FSOOD)"),
    ("openood/imagenet1k", "ReweightOOD", "openood", "README table ImageNet-1k (OOD)"),
    ("openood/imagenet1k", "ReweightOOD", "openood", "README table ImageNet-1k (FSOOD)"),
]


def paper(protocol: Protocol, method: str, setting: str = "ood") -> Row:
    rules = protocol.published
    assert rules is not None
    (row,) = published_rows(rules.protocol, setting, rules.id_dataset, [method])
    return published_row(row, protocol)


def printed(protocol: str, method: str, layout: Layout, setting: str = "ood") -> list[list[str]]:
    """The cells of the table as a reader of the terminal sees them."""
    loaded = load_protocol(protocol)
    text = render([as_published(paper(loaded, method, setting), layout, loaded)], [], "text")
    title, empty, *lines = text.splitlines()
    assert title.startswith(f"{method} (published), ")
    assert empty == ""
    assert set(lines.pop(1)) <= set("|-: ")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")] for line in text.strip().splitlines()]


def test_ciders_table_of_imagenet_100_is_that_of_its_readme() -> None:
    assert printed("cider/imagenet100", "CIDER", "cider") == cells(CIDER)


def test_reweightoods_table_of_cifar_10_is_that_of_its_readme() -> None:
    assert printed("openood/cifar10", "ReweightOOD", "openood") == cells(REWEIGHTOOD_CIFAR_10)


@pytest.mark.parametrize(("protocol", "method", "layout", "where"), README_TABLES)
def test_each_of_the_seven_readme_tables_has_the_text_of_its_source(
    protocol: str, method: str, layout: Layout, where: str
) -> None:
    place = os.environ.get("SPHEROOD_SHARED")
    if not place or not (Path(place) / "published.json").exists():
        pytest.skip("SPHEROOD_SHARED names no folder with published.json, the figures as they were collected")
    collected = json.loads((Path(place) / "published.json").read_text(encoding="utf-8"))["entries"]
    entries = [one for one in collected if (one["method"], one["where"]) == (method, where)]
    metrics = {"FPR95": "FPR95", "AUROC": "AUROC", "AUPR": "AUPR"}
    if layout == "openood":
        metrics = {"FPR95": "FPR@95", "AUROC": "AUROC", "AUPR_IN": "AUPR_IN", "AUPR_OUT": "AUPR_OUT"}
    titles = {"near": "nearood", "far": "farood", "average": "AVG"}
    # The README drops the trailing zeros of single runs (ImageNet-1k: 86.3); every table of ours has two decimals.
    text = {
        (one["ood_dataset"], one["metric"]): " ± ".join(f"{x:.2f}" for x in (one["value"], one["std"]) if x is not None)
        for one in entries
    }
    text |= {(one["ood_dataset"], one["metric"]): f"{one['value']:.2f} ± 0.00" for one in entries if one["std"] == 0}
    sets = list(dict.fromkeys(one["ood_dataset"] for one in entries))
    expected = [["OOD" if layout == "cider" else "datasets", *metrics.values()]]
    expected += [[titles.get(name, name), *(text[name, metric] for metric in metrics)] for name in sets]
    assert len(entries) == len(sets) * len(metrics) >= 15  # each cell of the table once, none left over
    setting = "fsood" if "FSOOD" in where else "ood"
    assert {one["setting"] for one in entries} == {setting}
    assert printed(protocol, method, layout, setting) == expected


def test_a_single_run_of_the_readme_has_two_decimals_and_no_deviation() -> None:
    table = printed("openood/imagenet1k", "ReweightOOD", "openood")
    assert [row[0] for row in table[1:]] == [
        *("ssb_hard", "ninco", "nearood"),
        *("inaturalist", "textures", "openimage_o", "farood"),
    ]
    assert table[1][1] == "86.30"  # 86.3 in the README


@pytest.mark.parametrize(
    ("protocol", "method", "layout"),
    [("openood/cifar10", "ReweightOOD", "cider"), ("cider/imagenet100", "CIDER", "openood")],
)
def test_a_row_by_the_rules_of_the_other_layout_is_refused(protocol: str, method: str, layout: Layout) -> None:
    loaded = load_protocol(protocol)
    row = paper(loaded, method)
    with pytest.raises(ConfigError) as caught:
        as_published(row, layout, loaded)
    assert str(caught.value) == (
        f"{method} (published), {row.score}: no figures of layout {layout} by {protocol}. Try the other layout."
    )


def made(name: str, figures: dict[str, dict[str, float | Figure]], **changes: Any) -> Row:
    """A row of openood/cifar10 with these figures."""
    plain = {
        place: {metric: one if isinstance(one, Figure) else Figure(one) for metric, one in found.items()}
        for place, found in figures.items()
    }
    ood = load_protocol("openood/cifar10").ood
    kinds = {place: ood[place][0] for place in figures if place in ood}
    return Row(name, "msp", plain, {}, kinds, **changes)


def tables(*rows: Row, wanted: tuple[str, ...] = ()) -> list[Table]:
    return by_metric(rows, load_protocol("openood/cifar10"), wanted)


def body(table: Table) -> list[list[str]]:
    """Rows of text, without the score; what is in bold has an exclamation mark."""
    return [[cell.text + "!" * cell.bold for cell in (row[0], *row[2:])] for row in table.rows]


def test_the_best_figure_of_a_column_is_bold_whichever_way_is_better() -> None:
    one = made("one", {"tin": {"auroc": 0.9, "fpr_ood_at_id95": 0.3}, "near": {"auroc": 0.9}}, runs=3)
    two = made("two", {"tin": {"auroc": 0.8, "fpr_ood_at_id95": 0.2}, "near": {"auroc": 0.95}})
    auroc, fpr = tables(one, two)
    assert auroc.title == "AUROC, percent"
    assert auroc.header == ["model", "score", "runs", "tin", "near"]
    assert body(auroc) == [["one", "3", "90.00!", "90.00"], ["two", "", "80.00", "95.00!"]]
    assert fpr.title == "FPR: OOD let through at 95 % ID kept (CIDER's papers), percent"
    assert body(fpr) == [["one", "3", "30.00"], ["two", "", "20.00!"]]


@pytest.mark.parametrize("metric", METRICS)
def test_a_rate_of_false_positives_is_better_low_and_all_else_high(metric: str) -> None:
    (table,) = tables(made("low", {"tin": {metric: 0.1}}), made("high", {"tin": {metric: 0.9}}))
    assert [row[-1].bold for row in table.rows] == [metric.startswith("fpr"), not metric.startswith("fpr")]


def test_what_is_printed_alike_is_bold_alike_and_a_single_figure_is_not() -> None:
    (table,) = tables(made("one", {"tin": {"auroc": 0.90001}}), made("two", {"tin": {"auroc": 0.90003}}))
    assert body(table) == [["one", "", "90.00!"], ["two", "", "90.00!"]]
    (table,) = tables(made("one", {"tin": {"auroc": 0.9}}), made("two", {"svhn": {"auroc": 0.9}}))
    assert body(table) == [["one", "", "90.00", "–"], ["two", "", "–", "90.00"]]


def test_an_incomplete_mean_has_a_star_and_competes_with_none() -> None:
    part = made("part", {"tin": {"auroc": 0.99}, "near": {"auroc": 0.95}}, absent={"cifar100": "near"})
    rows = [part, *(made(name, {"tin": {"auroc": v}, "near": {"auroc": v}}) for name, v in (("a", 0.95), ("b", 0.9)))]
    (table,) = tables(*rows)
    # The first equals the best of the others, and is not bold all the same.
    assert body(table) == [["part", "", "99.00!", "95.00*"], ["a", "", "95.00", "95.00!"], ["b", "", "90.00", "90.00"]]
    (table,) = tables(*rows[:2])
    assert [row[-1].bold for row in table.rows] == [False, False]


def test_a_set_is_absent_from_the_mean_of_its_own_kind_alone() -> None:
    figures: dict[str, dict[str, float | Figure]] = {"near": {"auroc": 0.9}, "far": {"auroc": 0.8}}
    (table,) = tables(made("one", figures, absent={"svhn": "far"}))
    assert body(table) == [["one", "", "90.00", "80.00*"]]


def test_what_nobody_measured_has_no_column_no_table_and_no_star() -> None:
    one = made("one", {"tin": {"auroc": 0.9, "caught": math.nan}, "svhn": {"auroc": math.nan}})
    assert [table.header[3:] for table in tables(one)] == [["tin"]]
    missing = made("two", {"near": {"caught": math.nan, "auroc": 0.7}}, absent={"tin": "near"})
    caught = tables(made("one", {"near": {"caught": 0.5}}), missing)[-1]
    assert body(caught) == [["one", "", "50.00"]]
    beside = made("two", {"near": {"caught": math.nan}, "tin": {"caught": 0.1}}, absent={"cifar100": "near"})
    caught = tables(made("one", {"near": {"caught": 0.5}}), beside)[-1]
    assert body(caught) == [["one", "", "–", "50.00"], ["two", "", "10.00", "–"]]


def test_columns_come_in_the_order_of_the_protocol_whatever_that_of_the_rows() -> None:
    one = made("one", {name: {"auroc": 0.9} for name in ("far", "svhn", "near", "tin", "cifar100")})
    assert tables(one)[0].header[3:] == ["cifar100", "tin", "svhn", "near", "far"]


def test_a_wanted_metric_is_the_only_table() -> None:
    one = made("one", {"tin": dict.fromkeys(METRICS, 0.5)})
    assert len(tables(one)) == len(METRICS)
    assert [table.title for table in tables(one, wanted=("aupr_in", "auroc"))] == [
        "AUROC, percent",
        "AUPR, ID positive, trapezoids (OpenOOD), percent",
    ]


def test_a_run_has_its_readme_table_without_intervals_and_with_dashes_and_a_star_for_what_is_absent() -> None:
    rates = dict.fromkeys(("fpr_id_at_ood95_openood", "auroc", "aupr_in"), Figure(0.5, interval=(0.4, 0.6)))
    one = made("one", {place: dict(rates) for place in ("tin", "near", "svhn", "far")}, absent={"cifar100": "near"})
    table = as_published(one, "openood", load_protocol("openood/cifar10"))
    assert table.title == "one, msp"
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["cifar100", "–", "–", "–", "–"],
        *([title, "50.00", "50.00", "50.00", "–"] for title in ("tin", "nearood*", "svhn", "farood")),
    ]


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Figure(0.8964, 0.0008), "89.64 ± 0.08"),
        (Figure(0.8964, 0.0008, interval=(0.1, 0.2)), "89.64 ± 0.08"),
        (Figure(0.8964, interval=(0.892, 0.90071)), "89.64 [89.20, 90.07]"),
        (Figure(0.863), "86.30"),
        (Figure(math.nan, math.nan), "–"),
    ],
)
def test_a_figure_is_written_in_percent_with_two_decimals(figure: Figure, text: str) -> None:
    assert show(figure) == text
    assert show(figure, intervals=False) == text.partition(" [")[0]
