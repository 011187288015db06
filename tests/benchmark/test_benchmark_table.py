from __future__ import annotations

import csv
import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from spherood.benchmark import table
from spherood.benchmark.evaluation import Evaluated
from spherood.benchmark.result import Evaluation, Metrics


@pytest.fixture
def pair(evaluated: Evaluated) -> list[Evaluation]:
    """The toy evaluation, and a second model without msp and with all of its sets."""
    first = evaluated.evaluation
    scores = {text: result for text, result in first.scores.items() if text != "msp"}
    second = replace(first, model="bare", scores=scores, absent={}, unavailable={"msp": "reads logits: none"})
    return [first, replace(second, accuracy={"class mean": 0.5, "k-NN": 0.25})]


def test_a_row_holds_the_means_in_percent_and_the_false_alarms_with_their_interval(pair: list[Evaluation]) -> None:
    first = pair[0]
    cells = dict(zip(table.header(pair), table.rows(pair)[0], strict=True))
    near, far = (first.scores["knn:k=3"].metrics[kind] for kind in ("near", "far"))
    achieved = first.scores["knn:k=3"].achieved
    assert cells == {
        "model": "colours",
        "score": "knn:k=3",
        "AUROC": f"{100 * near.auroc:.1f}* / {100 * far.auroc:.1f}",
        "FPR OOD@ID95": f"{100 * near.fpr_ood_at_id95:.1f}* / {100 * far.fpr_ood_at_id95:.1f}",
        "FPR ID@OOD95": f"{100 * near.fpr_id_at_ood95:.1f}* / {100 * far.fpr_id_at_ood95:.1f}",
        "caught": f"{100 * near.caught:.1f}* / {100 * far.caught:.1f}",
        "false alarms (promised 5)": (
            f"{100 * achieved.value:.1f} [{100 * achieved.low:.1f}, {100 * achieved.high:.1f}]"
        ),
        "ID acc.": f"{100 * max(first.accuracy.values()):.1f}",
    }


def test_a_mean_is_starred_only_where_a_set_of_its_kind_is_absent(pair: list[Evaluation]) -> None:
    rows = table.rows(pair)
    assert "*" in rows[0][2]
    assert not any("*" in cell for row in rows[3:] for cell in row)
    absent_far = replace(pair[0], absent={"svhn": "far"})
    near, far = table.rows([absent_far])[0][2].split(" / ")
    assert far.endswith("*")
    assert not near.endswith("*")


def test_a_score_that_the_model_lacks_has_dashes_its_accuracy_and_a_note(pair: list[Evaluation]) -> None:
    assert table.rows(pair)[-1] == ["bare", "msp", "–", "–", "–", "–", "–", "50.0"]
    notes = table.notes(pair)
    assert "–: msp reads logits: none." in notes
    assert "* absent: ochre (near); the near mean is incomplete." in notes
    assert table.notes(pair + pair) == notes  # each is said once


def test_a_kind_without_a_set_and_a_model_without_accuracy_have_dashes(pair: list[Evaluation]) -> None:
    result = pair[0].scores["knn:k=3"]
    near_only = replace(result, metrics={name: it for name, it in result.metrics.items() if name != "far"})
    row = table.rows([replace(pair[0], scores={"knn:k=3": near_only}, accuracy={})])[0]
    assert row[2].endswith(" / –")
    assert row[-1] == "–"


def test_the_header_states_the_promise_only_where_there_is_one(pair: list[Evaluation]) -> None:
    other = replace(pair[1].scores["knn:k=3"], false_alarm_rate=0.01)
    assert table.header(pair)[-2] == "false alarms (promised 5)"
    assert table.header([pair[0], replace(pair[1], scores={"knn:k=3": other})])[-2] == "false alarms"
    assert table.header([replace(pair[1], scores={"knn:k=3": other})])[-2] == "false alarms (promised 1)"
    assert table.header([replace(pair[1], scores={})])[-2] == "false alarms"


def test_the_csv_holds_every_set_and_mean_to_six_digits(pair: list[Evaluation], tmp_path: Path) -> None:
    assert table.write_tables(tmp_path / "tables", pair) == tmp_path / "tables"
    with (tmp_path / "tables" / "metrics.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["score"], row["set"]) for row in rows] == [
        (one.model, text, name) for one in pair for text, result in one.scores.items() for name in result.metrics
    ]
    assert [row["kind"] for row in rows[:5]] == ["near", "near", "far", "mean", "mean"]
    for row in rows:
        one = pair[row["model"] == "bare"]
        expected = asdict(one.scores[row["score"]].metrics[row["set"]])
        found = {field.name: float(row[field.name]) for field in fields(Metrics)}
        assert found == pytest.approx(expected, abs=5.1e-7)


def test_the_json_holds_everything_but_the_single_scores_and_no_nan(pair: list[Evaluation], tmp_path: Path) -> None:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    table.write_tables(tmp_path, pair)
    text = (tmp_path / "evaluation.json").read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=refuse)
    first = pair[0]
    result = first.scores["msp"]
    assert [one["model"] for one in found] == ["colours", "bare"]
    assert found[0]["absent"] == {"ochre": "near"}
    assert found[1]["unavailable"] == {"msp": "reads logits: none"}
    assert found[0]["kinds"] == first.kinds
    assert found[0]["accuracy"] == first.accuracy
    assert found[0]["scores"]["msp"] == {
        "name": "msp",
        "metrics": {name: asdict(metrics) for name, metrics in result.metrics.items()},
        "threshold": result.threshold,
        "false_alarm_rate": 0.05,
        "confidence": 0.95,
        "achieved": asdict(result.achieved),
        "intervals": {
            name: {metric: list(interval) for metric, interval in found.items()}
            for name, found in result.intervals.items()
        },
        "sweep": None,
    }
    assert len(result.id_score) == 50  # writing has not taken them from the record
