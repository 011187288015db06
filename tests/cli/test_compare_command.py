from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.benchmark.result import Evaluation, Metrics, Rate, ScoreResult
from spherood.benchmark.table import slug, write_tables

Command = Callable[..., Any]
Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """``write("cider", seed, auroc)``: the evaluation of runs/cider-sSEED, all of whose sets have this AUROC."""
    monkeypatch.chdir(tmp_path)

    def written(recipe: str, seed: int, auroc: float, fpr: float = 0.25, **changes: Any) -> None:
        metrics = Metrics(auroc, 0.8, 0.7, fpr, fpr, math.nan, 0.6, fpr, fpr)
        none = np.empty(0)
        score = ScoreResult(
            name="knn:k=50",
            held_out_score=none,
            id_score=none,
            ood_score={},
            metrics=dict.fromkeys(("cifar100", "svhn", "near", "far"), metrics),
            threshold=math.inf,
            false_alarm_rate=0.05,
            confidence=0.95,
            achieved=Rate(math.nan, math.nan, math.nan),
            intervals={"near": {"auroc": (auroc - 0.01, auroc + 0.01)}},
        )
        evaluation = Evaluation(
            model=f"{recipe}-s{seed}",
            protocol="openood/cifar10",
            kinds={"cifar100": "near", "svhn": "far"},
            absent={},
            accuracy={"k-NN": 0.9},
            scores={"knn:k=50": score},
            unavailable={},
            group=f"{recipe}#abc123",
            seed=str(seed),
        )
        evaluation = replace(evaluation, **changes)
        write_tables(Path("runs") / f"{recipe}-s{seed}" / "tables" / slug(evaluation), [evaluation])

    return written


@pytest.fixture
def runs(write: Write) -> list[str]:
    """Two seeds of cider and of supcon."""
    for recipe, seed, auroc, fpr in (
        ("cider", 0, 0.90, 0.10),
        ("cider", 1, 0.94, 0.20),
        ("supcon", 0, 0.85, 0.30),
        ("supcon", 1, 0.91, 0.30),
    ):
        write(recipe, seed, auroc, fpr)
    return ["cider-s0", "cider-s1", "supcon-s0", "supcon-s1"]


def lines(text: str, first: str) -> list[list[str]]:
    """Cells of the Markdown rows whose first cell is this."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return [row for row in rows if row[0] == first]


def test_seeds_are_one_row_and_the_better_of_two_is_bold_and_tested(spherood: Command, runs: list[str]) -> None:
    told = spherood("compare", *runs)
    assert (told.code, told.err) == (0, "")
    assert told.out.startswith("AUROC, percent\n\n| model ")
    best, other = "**92.00 ± 2.00**", "88.00 ± 3.00"
    assert lines(told.out, "cider")[0] == ["cider", "knn:k=50", "2", best, best, best, best]
    assert lines(told.out, "supcon")[0] == ["supcon", "knn:k=50", "2", other, other, other, other]
    # Differences .05 and .03: t = .04 / (.01414 / sqrt 2) = 4, and p = 1 - (2 / pi) arctan 4 = .156.
    assert (
        "near AUROC: cider, knn:k=50 is 4.00 points above supcon, knn:k=50; paired t-test over 2 seeds: p = 0.16.\n"
    ) in told.out
    assert "calibrated threshold" not in told.out  # nothing was calibrated


def test_one_run_has_its_interval_and_a_metric_can_be_asked_for(spherood: Command, runs: list[str]) -> None:
    told = spherood("compare", runs[0], "--metric", "auroc")
    assert told.code == 0, told.err
    assert lines(told.out, "cider-s0") == [
        ["cider-s0", "knn:k=50", "1", "90.00", "90.00", "90.00 [89.00, 91.00]", "90.00"]
    ]


def test_runs_are_named_below_runs_or_by_path(spherood: Command, runs: list[str]) -> None:
    named, by_path = spherood("compare", runs[0]), spherood("compare", f"runs/{runs[0]}")
    assert (named.code, named.out) == (by_path.code, by_path.out)


def test_csv_has_a_line_per_row_and_metric(spherood: Command, runs: list[str]) -> None:
    told = spherood("compare", *runs, "--metric", "auroc", "--metric", "aupr_in", "--format", "csv")
    assert told.code == 0, told.err
    rows = list(csv.reader(io.StringIO(told.out)))
    assert rows[0] == ["table", "model", "score", "runs", "cifar100", "svhn", "near", "far"]
    assert [row[1] for row in rows] == ["model", "cider", "supcon"] * 2
    assert rows[1][4] == "92.00 ± 2.00"


def test_latex_and_html_hold_the_same_figures(spherood: Command, runs: list[str]) -> None:
    latex = spherood("compare", *runs, "--format", "latex")
    assert latex.code == 0, latex.err
    best = r"\textbf{92.00 $\pm$ 2.00}"
    assert " & ".join(["cider", "knn:k=50", "2", *[best] * 4]) + r" \\" in latex.out
    html = spherood("compare", *runs, "--format", "html")
    assert html.code == 0, html.err
    assert html.out.startswith("<!doctype html>")
    assert "<td>cider</td><td>knn:k=50</td><td>2</td>" + "<td><b>92.00 ± 2.00</b></td>" * 4 in html.out


def test_json_holds_fractions_by_seed_and_no_nan(spherood: Command, runs: list[str]) -> None:
    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    told = spherood("compare", *runs, "--format", "json")
    assert told.code == 0, told.err
    found = json.loads(told.out, parse_constant=refuse)
    assert (found["protocol"], found["setting"]) == ("openood/cifar10", "ood")
    assert [row["name"] for row in found["rows"]] == ["cider", "supcon"]
    near = found["rows"][0]["figures"]["near"]["auroc"]
    assert near["by_seed"] == {"0": 0.90, "1": 0.94}
    assert near["mean"] == pytest.approx(0.92)
    assert near["std"] == pytest.approx(0.02)
    assert found["notes"][0].startswith("near AUROC: cider, ")


@pytest.mark.parametrize("format_", ["text", "csv", "latex", "html", "json"])
def test_a_file_gets_what_stdout_would(format_: str, spherood: Command, runs: list[str]) -> None:
    words = ["compare", *runs, "--format", format_]
    told = spherood(*words, "-o", "made/table")
    assert (told.code, told.out, told.err) == (0, "written to made/table\n", "")
    assert Path("made/table").read_text(encoding="utf-8") == spherood(*words).out


def test_a_readme_table_needs_no_run(spherood: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--protocol", "openood/cifar10", "--published", "--method", "reweightood", "--layout", "openood"]
    told = spherood("compare", *words)
    assert (told.code, told.err) == (0, "")
    assert lines(told.out, "datasets") == [["datasets", "FPR@95", "AUROC", "AUPR_IN", "AUPR_OUT"]]
    assert lines(told.out, "cifar100") == [["cifar100", "37.68 ± 0.97", "89.64 ± 0.08", "90.33 ± 0.11", "88.55 ± 0.09"]]
    assert told.out.endswith(
        "\nReweightOOD (published): sudarshanregmi/ReweightOOD README @b710e9e, README table CIFAR-10 (OOD).\n"
    )
    assert "T2FNorm" not in told.out


@pytest.mark.parametrize("protocol", ["cider/cifar10", "cider/cifar100", "cider/imagenet100"])
def test_every_published_row_of_ciders_protocols_has_its_table(protocol: str, spherood: Command) -> None:
    """Rows on sets that the protocol does not name have none, and neither stop the others nor are named as a source."""
    told = spherood("compare", "--protocol", protocol, "--published", "--layout", "cider")
    assert told.code == 0, told.err
    assert lines(told.out, "OOD")
    assert "issue #4" not in told.out


def test_published_rows_stand_beside_the_runs_with_their_source(spherood: Command, runs: list[str]) -> None:
    told = spherood(
        "compare", *runs, "--published", "--metric", "fpr_id_at_ood95_openood", "--metric", "fpr_ood_at_id95"
    )
    assert told.code == 0, told.err
    assert [row[3] for row in lines(told.out, "cider")] == ["**15.00 ± 5.00**"] * 2
    # The paper's rate is one by OpenOOD's rule: it stands in that table alone.
    assert [row[3] for row in lines(told.out, "ReweightOOD (published)")] == ["37.68 ± 0.97"]
    assert "T2FNorm (published): sudarshanregmi/T2FNorm README @c78851e, README table CIFAR-10 (OOD).\n" in told.out


def test_runs_have_the_readmes_layout_too(spherood: Command, runs: list[str]) -> None:
    told = spherood("compare", *runs[:2], "--layout", "openood")
    assert told.code == 0, told.err
    assert told.out.startswith("cider, knn:k=50\n\n| datasets ")
    row = ["15.00 ± 5.00", "92.00 ± 2.00", "80.00 ± 0.00", "70.00 ± 0.00"]
    for name in ("cifar100", "nearood", "svhn", "farood"):
        assert lines(told.out, name) == [[name, *row]]


def test_the_change_from_a_baseline_that_need_not_be_named_twice(spherood: Command, runs: list[str]) -> None:
    told = spherood("compare", *runs[:2], "--baseline", "supcon-s0")
    assert told.code == 0, told.err
    change = "30.00 -> 15.00: -15.00 points, -50.00 %."
    for metric in ("fpr_ood_at_id95", "fpr_id_at_ood95"):
        assert f"cider, knn:k=50 against supcon-s0, knn:k=50: mean {metric} {change}\n" in told.out
    assert lines(told.out, "supcon-s0")


def test_the_place_on_the_leaderboard(spherood: Command, runs: list[str], write: Write) -> None:
    write("best", 0, 0.9999)
    told = spherood("compare", "best-s0", *runs, "--leaderboard")
    assert told.code == 0, told.err
    board = "beside the 26 rows of the OpenOOD leaderboard of 2025-07-19."
    assert f"best-s0, knn:k=50: near AUROC 99.99 would be number 1 {board}\n" in told.out
    assert "supcon, knn:k=50: far AUROC 88.00 would be number " in told.out


def test_the_full_spectrum_is_compared_apart(spherood: Command, write: Write) -> None:
    write("cider", 0, 0.90)
    write("cider", 0, 0.55, setting="fsood")
    narrow, wide = spherood("compare", "cider-s0"), spherood("compare", "cider-s0", "--full-spectrum")
    assert (narrow.code, wide.code) == (0, 0)
    assert lines(narrow.out, "cider-s0")[0][3] == "90.00"
    assert lines(wide.out, "cider-s0")[0][3] == "55.00"


def test_an_absent_set_stars_the_mean_of_its_kind_and_is_named(spherood: Command, write: Write) -> None:
    write("cider", 0, 0.90, absent={"tin": "near", "noise": "extra"})
    told = spherood("compare", "cider-s0", "--metric", "auroc")
    assert told.code == 0, told.err
    assert lines(told.out, "cider-s0")[0][5:] == ["90.00 [89.00, 91.00]*", "90.00"]
    assert told.out.endswith("\n*: incomplete mean: tin (near) is absent.\nabsent: noise (extra).\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "spherood compare: name runs, or ask for --published figures of a --protocol."),
        (["--published"], "spherood compare: name runs, or ask for --published figures of a --protocol."),
        (["cider-s0", "--metric", "aurok"], "there is no metric 'aurok'. Did you mean 'auroc'?"),
        (["cider-s0", "--metric", "caught"], "spherood compare: caught was not measured. Leave --metric out."),
        (
            ["cider-s0", "--layout", "openood", "--metric", "auroc"],
            "spherood compare: --layout has its own columns. Leave out --metric and --format json.",
        ),
        (
            ["cider-s0", "--method", "T2FNorm"],
            "spherood compare: --method chooses among published rows. Add --published.",
        ),
        (
            ["cider-s0", "--published", "--method", "T2FNrm"],
            "'T2FNrm' has no published row for openood-1.5 / ood / CIFAR-10. Did you mean 'T2FNorm'?",
        ),
        (
            ["--protocol", "openood/cifar1", "--published"],
            "There is no protocol 'openood/cifar1'. Did you mean 'openood/cifar10'? "
            "Your own: a path that ends in .yaml.",
        ),
        (
            ["--protocol", "demo/digits", "--published"],
            "demo/digits: names no published numbers. Leave --published out.",
        ),
        (
            ["cider-s0", "--full-spectrum"],
            "spherood compare: the runs hold evaluations of the full spectrum of 0 protocols. Evaluate them first.",
        ),
        (
            ["cider-s0", "--protocol", "cider/cifar10"],
            "spherood compare: no evaluation by cider/cifar10. Did you mean 'openood/cifar10'?",
        ),
        (
            ["cider-s0", "--published", "--layout", "cider", "--method", "ReweightOOD"],
            "ReweightOOD (published), Mahalanobis (tied within-class covariance, normalised penultimate feature): "
            "no figures of layout cider by openood/cifar10. Try the other layout.",
        ),
    ],
)
def test_a_misuse_is_told_in_one_line(words: list[str], message: str, spherood: Command, runs: list[str]) -> None:
    told = spherood("compare", *words)
    assert (told.code, told.out, told.err) == (2, "", message + "\n")


def test_runs_by_several_protocols_have_to_be_chosen_from(spherood: Command, runs: list[str], write: Write) -> None:
    write("cider", 0, 0.90, protocol="cider/cifar10")
    told = spherood("compare", *runs)
    assert (told.code, told.out) == (2, "")
    assert "of 2 protocols. Choose one with --protocol: cider/cifar10, openood/cifar10.\n" in told.err
    assert spherood("compare", *runs, "--protocol", "openood/cifar10").code == 0


def test_two_runs_of_one_seed_are_refused(spherood: Command, runs: list[str]) -> None:
    told = spherood("compare", "cider-s0", "runs/cider-s0")
    assert (told.code, told.out) == (2, "")
    assert told.err == (
        "spherood compare: cider-s0, cider-s0 are runs of one recipe and one seed. Leave out all but one.\n"
    )


def test_a_run_without_an_evaluation_fails_and_says_how_to_make_one(spherood: Command, runs: list[str]) -> None:
    told = spherood("compare", runs[0], "nothing")
    assert (told.code, told.out) == (1, "")
    assert told.err == (
        "spherood compare: runs/nothing holds no evaluation. "
        "Make one with: spherood evaluate runs/nothing --protocol P\n"
    )


def test_a_damaged_evaluation_fails_with_its_file(spherood: Command, runs: list[str]) -> None:
    file = Path("runs/cider-s1/tables/openood-cifar10/evaluation.json")
    file.write_text(file.read_text(encoding="utf-8")[:-9], encoding="utf-8")
    told = spherood("compare", *runs)
    assert (told.code, told.out) == (1, "")
    assert told.err.startswith(f"{file}: not an evaluation (")
