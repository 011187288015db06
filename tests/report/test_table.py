from __future__ import annotations

import dataclasses

import pytest

from spherood.benchmark.result import Rate
from spherood.report import Content
from spherood.report.results import promise, results, verdict
from spherood.report.table import percent


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0625, "6.3"), (0.9996, "100.0"), (0.0, "0.0"), (1.0, "100.0"), (0.04, "4.0"), (float("nan"), "–")],
)
def test_percent_has_one_decimal_and_rounds_half_up_as_the_script_does(share: float, text: str) -> None:
    assert percent(share) == text


def test_the_chosen_row_stands_first_and_a_missing_score_keeps_its_row(content: Content) -> None:
    groups = results(content.evaluations, content.chosen).summary.table.groups
    assert [(model, [(row.score, row.chosen) for row in rows]) for model, rows in groups] == [
        ("CIDER", [("knn", True), ("msp", False)]),
        ("plain", [("knn", False), ("msp", False)]),
    ]
    missing = groups[0][1][1].cells
    assert {cell.text for cell in missing} == {"–"}
    assert {cell.hint for cell in missing} == {"CIDER has no classifier, and msp reads logits"}


def test_the_best_of_a_column_is_the_highest_auroc_and_the_lowest_fpr(content: Content) -> None:
    table = results(content.evaluations, content.chosen).summary.table
    best = {
        (model, row.score): [j for j, cell in enumerate(row.cells) if cell.best]
        for model, rows in table.groups
        for row in rows
    }
    # columns: AUROC, OOD let through, ID rejected and OOD caught, near and far of each; larger seed, larger figures
    assert best == {
        ("CIDER", "knn"): [0, 1, 6, 7],
        ("CIDER", "msp"): [],
        ("plain", "knn"): [2, 3, 4, 5],
        ("plain", "msp"): [],
    }


def test_figures_that_print_alike_are_both_best_and_a_lone_row_is_not(content: Content) -> None:
    twin = dataclasses.replace(content.evaluations[1], model="twin")
    table = results([content.evaluations[1], twin], content.chosen).summary.table
    assert all(rows[0].cells[0].best for _, rows in table.groups)
    alone = results([twin], ("twin", "knn")).summary.table
    assert not any(cell.best for _, rows in alone.groups for row in rows for cell in row.cells)


def test_absent_sets_are_listed_and_mark_their_mean(content: Content) -> None:
    found = results(content.evaluations, content.chosen)
    assert found.missing == ["textures (far OOD) is absent: it was not read. The far mean is incomplete without it."]
    assert found.summary.table.under[:2] == [("near mean", ""), ("far mean, incomplete", "without textures")]
    per_set = found.per_set[0].table
    assert [name for name, _ in per_set.under] == ["tin", "svhn", "textures"]
    assert [cell.text for cell in per_set.groups[0][1][0].cells] == ["80.1", "80.0", "absent"]


def test_a_set_that_one_model_lacks_is_absent_there_alone(content: Content) -> None:
    other = dataclasses.replace(content.evaluations[0], absent={"textures": "far", "lsun": "near"})
    found = results([other, content.evaluations[1]], content.chosen)
    assert (
        "lsun (near OOD) is absent: it was not read for plain. The near mean is incomplete without it." in found.missing
    )


def test_the_full_table_has_a_row_per_set_and_both_aupr(content: Content) -> None:
    full = results(content.evaluations, content.chosen).full.table
    (name, rows), *_ = full.groups
    assert name == "CIDER · knn"
    assert [row.score for row in rows] == [
        "near mean",
        "far mean, incomplete",
        "svhn (far)",
        "tin (near)",
        "textures (far)",
    ]
    # auroc, both FPRs, caught, AUPR in, AUPR out: fields 0, 3, 4, 5, 1, 2 of Metrics
    assert [cell.text for cell in rows[2].cells] == ["80.0", "83.0", "84.0", "85.0", "81.0", "82.0"]


def test_the_promise_is_said_and_judged_with_its_interval(content: Content) -> None:
    result = content.evaluations[1].scores["knn"]
    assert promise(result) == "at most 5 %, with 95 % confidence"
    assert verdict(result) == "kept"
    assert verdict(dataclasses.replace(result, achieved=Rate(0.06, 0.049, 0.07))) == "within chance"
    assert verdict(dataclasses.replace(result, achieved=Rate(0.08, 0.07, 0.09))) == "exceeded"


def test_accuracy_has_a_row_per_model(content: Content) -> None:
    accuracy = results(content.evaluations, content.chosen).accuracy
    assert accuracy is not None
    ((_, rows),) = accuracy.table.groups
    assert [(row.score, [(cell.text, cell.best) for cell in row.cells]) for row in rows] == [
        ("CIDER", [("91.2", True), ("93.4" if percent(0.9345) == "93.4" else "93.5", True)]),
        ("plain", [("91.2", True), (percent(0.9245), False)]),
    ]
