from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.benchmark.comparison import (
    Figure,
    Row,
    against_baseline,
    only,
    published_row,
    read_evaluations,
    rows_of,
    significance,
    standing,
    to_json,
)
from spherood.benchmark.protocol import load_protocol
from spherood.benchmark.published import leaderboard, published_rows
from spherood.benchmark.result import Evaluation, Kind, Metrics, Rate, ScoreResult, Sweep
from spherood.benchmark.table import write_tables
from spherood.errors import CheckpointError, ConfigError

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "metrics.npz")
COLUMNS = ("auroc", "aupr_in", "aupr_out", "fpr_id_at_ood95")
NONE = np.empty(0)
NAN = math.nan


def measured(auroc: float, fpr: float = 0.5) -> Metrics:
    return Metrics(auroc, 0.6, 0.7, fpr, fpr, NAN)


def scored(text: str, metrics: dict[str, Metrics], **changes: Any) -> ScoreResult:
    achieved = Rate(NAN, NAN, NAN)
    result = ScoreResult(text, NONE, NONE, {}, metrics, math.inf, 0.05, 0.95, achieved)
    return replace(result, **changes)


def run(seed: int | str, auroc: float = 0.9, name: str = "supcon", **changes: Any) -> Evaluation:
    """A run of recipe `name`: one near set with this AUROC, one far set whose AUROC is 0.05 above it."""
    near, far = measured(auroc), measured(auroc + 0.05)
    score = scored("knn:k=50", {"moss": near, "sky": far, "near": near, "far": far})
    evaluation = Evaluation(
        model=f"{name}-s{seed}",
        protocol="openood/cifar10",
        kinds={"moss": "near", "sky": "far"},
        absent={},
        accuracy={"k-NN": 0.8},
        scores={"knn:k=50": score},
        unavailable={},
        group=f"{name}#abc123",
        seed=str(seed),
    )
    return replace(evaluation, **changes)


def rated(name: str, near: float, far: float, **changes: Any) -> Row:
    """The row of one run whose false-positive rates these are, by both definitions."""
    metrics = {"moss": measured(0.9, near), "sky": measured(0.9, far)}
    return rows_of([run(0, name=name, scores={"msp": scored("msp", metrics)}, **changes)])[0]


def refused(evaluations: list[Evaluation]) -> str:
    with pytest.raises(ConfigError) as caught:
        rows_of(evaluations)
    return str(caught.value)


def test_seeds_become_one_row_with_mean_and_population_deviation() -> None:
    (row,) = rows_of([run(seed, auroc) for seed, auroc in ((0, 0.80), (1, 0.83), (2, 0.89))])
    assert (row.name, row.score, row.runs, row.source) == ("supcon", "knn:k=50", 3, "")
    figure = row.figures["near"]["auroc"]
    assert figure.mean == pytest.approx(0.84)  # deviations -.04, -.01, .05: squares .0042 in all
    assert figure.std == pytest.approx(math.sqrt(0.0042 / 3))
    assert figure.by_seed == {"0": 0.80, "1": 0.83, "2": 0.89}
    assert figure.interval is None
    assert row.accuracy["k-NN"].mean == pytest.approx(0.8)
    assert row.accuracy["k-NN"].std == pytest.approx(0)


def test_one_run_has_its_own_name_and_an_interval_in_place_of_a_deviation() -> None:
    one = run(4)
    score = replace(one.scores["knn:k=50"], intervals={"moss": {"auroc": (0.87, 0.93)}})
    (row,) = rows_of([replace(one, scores={"knn:k=50": score})])
    assert (row.name, row.runs) == ("supcon-s4", 1)
    assert row.figures["moss"]["auroc"] == Figure(0.9, None, {"4": 0.9}, (0.87, 0.93))
    assert row.figures["moss"]["aupr_in"].interval is None


def test_the_order_of_the_runs_is_that_of_the_rows_and_changes_no_figure() -> None:
    runs = [run(0, 0.8), run(0, 0.7, "cider"), run(1, 0.9), run(1, 0.6, "cider")]
    there, back = rows_of(runs), rows_of(runs[::-1])
    assert [row.name for row in there] == ["supcon", "cider"]
    assert [row.name for row in back] == ["cider", "supcon"]
    assert there[0].figures["near"]["auroc"] == back[1].figures["near"]["auroc"]


def test_two_runs_of_one_recipe_and_seed_are_refused() -> None:
    assert refused([run(3), run(3, model="copy")]) == (
        "spherood compare: supcon-s3, copy are runs of one recipe and one seed. Leave out all but one."
    )


def test_changed_settings_are_another_group_and_only_equal_names_show_the_hash() -> None:
    changed = [run(seed, group="supcon#def456") for seed in (0, 1)]
    others = [run(seed, name="cider") for seed in (0, 1)]
    names = [row.name for row in rows_of([run(0), run(1), *changed, *others])]
    assert names == ["supcon#abc123", "supcon#def456", "cider"]


def test_a_model_without_a_group_stands_for_itself() -> None:
    rows = rows_of([run("", model="left", group=""), run("", model="right", group="")])
    assert [(row.name, row.runs) for row in rows] == [("left", 1), ("right", 1)]


def test_a_sweep_shows_the_setting_that_won_in_each_run() -> None:
    def swept(seed: int, chosen: str) -> Evaluation:
        one = run(seed)
        score = scored("knn:k=5/50", {"near": measured(0.9)}, sweep=Sweep(chosen, {chosen: 0.9}, ("tin",)))
        return replace(one, scores={"knn:k=5/50": score})

    assert rows_of([swept(0, "knn:k=5"), swept(1, "knn:k=5")])[0].score == "knn:k=5/50 (knn:k=5)"
    assert rows_of([swept(0, "knn:k=5"), swept(1, "knn:k=50")])[0].score == "knn:k=5/50 (knn:k=5, knn:k=50)"


def test_a_score_that_one_seed_lacks_is_a_row_of_fewer_runs() -> None:
    both = run(0)
    both = replace(both, scores=both.scores | {"msp": scored("msp", {"near": measured(0.7)})})
    assert [(row.score, row.runs) for row in rows_of([run(1), both])] == [("knn:k=50", 2), ("msp", 1)]


def test_a_set_that_one_seed_lacks_is_absent_from_the_row() -> None:
    near = measured(0.8)
    without = run(1, kinds={"moss": "near"}, absent={"sky": "far"}, scores={"knn:k=50": scored("x", {"moss": near})})
    (row,) = rows_of([run(0), without])
    assert list(row.figures) == ["moss"]
    assert (row.kinds, row.absent) == ({"moss": "near"}, {"sky": "far"})


def test_eight_sets_over_three_seeds_have_the_reference_means_and_deviations() -> None:
    kinds: dict[str, Kind] = {str(row): "near" if row < 2 else "far" if row < 6 else "extra" for row in range(8)}
    runs = []
    for seed, table in enumerate(GOLDEN["agg/metrics"]):
        # No scores lie behind these numbers, so the mean over sets is taken here as evaluation.py takes it.
        means = {"near": np.mean(table[:2], axis=0), "far": np.mean(table[2:6], axis=0)}
        metrics = {
            name: replace(measured(NAN), **dict(zip(COLUMNS, map(float, row), strict=True)))
            for name, row in [*zip(kinds, table, strict=True), *means.items()]
        }
        runs.append(run(seed, kinds=kinds, scores={"msp": scored("msp", metrics)}))
    (row,) = rows_of(runs)

    def close(expected: Any) -> Any:
        return pytest.approx(expected, abs=1e-12, rel=0)

    for column, metric in enumerate(COLUMNS):
        for number in range(8):
            figure = row.figures[str(number)][metric]
            assert figure.mean == close(GOLDEN["agg/mean"][number, column])
            assert figure.std == close(GOLDEN["agg/std_ddof0"][number, column])
        for kind, key in (("near", "agg/near_mean_rows01"), ("far", "agg/far_mean_rows2to5")):
            figure = row.figures[kind][metric]
            assert list(figure.by_seed.values()) == close(GOLDEN[key][:, column])
            assert figure.mean == close(GOLDEN[key][:, column].mean())
            assert figure.std == close(GOLDEN[key][:, column].std())


def test_three_seeds_are_paired_as_worked_out_by_hand() -> None:
    # Differences .01, .02, .03: t = .02 / (.01 / sqrt 3) = sqrt 12; on two degrees of freedom p = 1 - t / sqrt(t^2 + 2)
    assert 1 - math.sqrt(12 / 14) == pytest.approx(0.0742, abs=5e-5)
    cider = [run(seed, auroc, "cider") for seed, auroc in ((0, 0.91), (1, 0.83), (2, 0.76))]
    supcon = [run(seed, auroc) for seed, auroc in ((2, 0.74), (0, 0.90), (1, 0.80))]  # pairs are found by seed
    lines = significance(rows_of([*supcon, *cider]))
    assert lines == [
        f"{kind} AUROC: cider, knn:k=50 is 2.00 points above supcon, knn:k=50; paired t-test over 3 seeds: p = 0.074."
        for kind in ("near", "far")
    ]


def test_fewer_than_two_seeds_in_common_are_not_tested() -> None:
    runs = [run(0, 0.95, "cider"), run(1, 0.93, "cider"), run(1, 0.90), run(2, 0.90), run(3, 0.80, "palm")]
    assert significance(rows_of(runs)) == [
        f"{kind} AUROC: cider, knn:k=50 is above supcon, knn:k=50; palm-s3, knn:k=50: fewer than two seeds in common, "
        "so no test."
        for kind in ("near", "far")
    ]


def test_means_over_other_sets_are_not_tested() -> None:
    near = measured(0.95)
    scores = {"knn:k=50": scored("knn:k=50", {"moss": near, "near": near})}
    runs = [run(seed, 0.90) for seed in (0, 1)]
    runs += [run(s, name="cider", kinds={"moss": "near", "fern": "near"}, scores=scores) for s in (0, 1)]
    assert "over other OOD sets" not in significance(rows_of(runs))[0]  # no figure of fern, so it is in no mean
    both = {"knn:k=50": scored("knn:k=50", {"moss": near, "fern": near, "near": near})}
    runs[2:] = [replace(one, scores=both) for one in runs[2:]]
    assert significance(rows_of(runs)) == [
        "near AUROC: cider, knn:k=50 is 5.00 points above supcon, knn:k=50; over other OOD sets, so no test."
    ]


def test_one_row_and_rows_of_papers_are_tested_against_nothing() -> None:
    protocol = load_protocol("openood/cifar10")
    papers = [published_row(one, protocol) for one in published_rows("openood-1.5", "ood", "CIFAR-10")]
    assert len(papers) == 2
    assert significance([*rows_of([run(0), run(1)]), *papers]) == []


def test_the_change_from_a_baseline_is_told_in_points_and_relative_by_both_definitions() -> None:
    base, new = rated("supcon", 0.5, 0.3424), rated("cider", 0.4, 0.2792)  # means .4212 and .3396
    assert against_baseline([base, new], [base]) == [
        f"cider-s0, msp against supcon-s0, msp: mean {metric} 42.12 -> 33.96: -8.16 points, -19.37 %."
        for metric in ("fpr_ood_at_id95", "fpr_id_at_ood95")
    ]
    assert "33.96 -> 42.12: +8.16 points, +24.03 %." in against_baseline([base], [new])[0]


def test_sets_weigh_the_same_in_the_mean_whatever_their_kind_and_extra_ones_are_not_in_it() -> None:
    kinds: dict[str, Kind] = {"moss": "near", "sky": "far", "sea": "far", "noise": "extra"}
    rates = {"moss": 0.1, "sky": 0.2, "sea": 0.6, "noise": 1.0}
    metrics = {name: measured(0.9, rate) for name, rate in rates.items()} | {"far": measured(0.9, 0.4)}
    (base,) = rows_of([run(0, kinds=kinds, scores={"msp": scored("msp", metrics)})])
    new = replace(base, name="cider")
    assert "30.00 -> 30.00: +0.00 points, +0.00 %." in against_baseline([new], [base])[0]


def test_nothing_is_relative_to_a_mean_of_zero() -> None:
    lines = against_baseline([rated("cider", 0.1, 0.2)], [rated("supcon", 0.0, 0.0)])
    assert lines[0].endswith("mean fpr_ood_at_id95 0.00 -> 15.00: +15.00 points, no relative change from 0.")


def test_the_baseline_is_the_row_of_the_same_score_where_it_has_one() -> None:
    knn = replace(rated("supcon", 0.9, 0.9), score="knn:k=50")
    same = rated("supcon", 0.2, 0.2)
    assert "against supcon-s0, msp: mean" in against_baseline([rated("cider", 0.1, 0.1)], [knn, same])[0]
    assert "against supcon-s0, knn:k=50: mean" in against_baseline([rated("cider", 0.1, 0.1)], [knn])[0]


def test_a_baseline_on_other_sets_gives_no_change_and_a_paper_is_not_asked() -> None:
    protocol = load_protocol("openood/cifar10")
    paper = published_row(published_rows("openood-1.5", "ood", "CIFAR-10")[0], protocol)
    base = rated("supcon", 0.5, 0.3)
    other = replace(rated("cider", 0.4, 0.2), kinds={"moss": "near"})
    assert against_baseline([other, paper], [base]) == [
        "cider-s0, msp against supcon-s0, msp: other OOD sets, so no change."
    ]


def test_a_row_has_the_place_that_its_means_would_take_on_the_leaderboard() -> None:
    ranked = sorted((row.figures["near"]["AUROC"][0] for row in leaderboard("ood", "CIFAR-10")), reverse=True)
    between = (ranked[2] + ranked[3]) / 200
    assert ranked[2] > ranked[3]
    (row,) = rows_of([run(0, between)])
    far = {"far": {"auroc": Figure(0.0)}}
    row = replace(row, figures={**row.figures, **far}, absent={"texture": "far"})
    protocol = load_protocol("openood/cifar10")
    board = "beside the 26 rows of the OpenOOD leaderboard of 2025-07-19."
    assert standing([row], protocol, "ood") == [
        f"supcon-s0, knn:k=50: near AUROC {100 * between:.2f} would be number 4 {board}",
        f"supcon-s0, knn:k=50: far AUROC 0.00 (incomplete mean) would be number 27 {board}",
    ]
    assert standing([replace(row, source="a paper")], protocol, "ood") == []


def test_a_protocol_without_a_leaderboard_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^demo/digits: no leaderboard is held for it\. Leave --leaderboard out\.$"):
        standing(rows_of([run(0)]), load_protocol("demo/digits"), "ood")


def test_a_published_row_has_each_metric_under_the_rule_of_its_protocol() -> None:
    openood, cider = load_protocol("openood/cifar10"), load_protocol("cider/imagenet100")
    (paper,) = published_rows("openood-1.5", "ood", "CIFAR-10", ["ReweightOOD"])
    row = published_row(paper, openood)
    assert (row.name, row.runs) == ("ReweightOOD (published)", 3)
    assert row.source.endswith("README @b710e9e, README table CIFAR-10 (OOD)")
    assert set(row.figures["cifar100"]) == {"fpr_id_at_ood95_openood", "auroc", "aupr_in", "aupr_out"}
    assert row.figures["cifar100"]["fpr_id_at_ood95_openood"].mean == pytest.approx(0.3768)
    assert row.figures["cifar100"]["fpr_id_at_ood95_openood"].std == pytest.approx(0.0097)
    assert row.kinds["tin"] == "near"
    assert "near" not in row.kinds
    ciders = published_row(published_rows("cider", "ood", "ImageNet-100")[0], cider)
    assert set(ciders.figures["far"]) == {"fpr_ood_at_id95_cider", "auroc", "average_precision"}  # its average
    with pytest.raises(ConfigError, match=r"^demo/digits: names no published numbers\. Leave --published out\.$"):
        published_row(paper, load_protocol("demo/digits"))


def test_a_published_accuracy_is_that_of_the_classifier() -> None:
    (paper,) = published_rows("openood-1.5", "ood", "CIFAR-10", ["T2FNorm"])
    accuracy = published_row(paper, load_protocol("openood/cifar10")).accuracy
    assert list(accuracy) == ["classifier"]
    assert (accuracy["classifier"].mean, accuracy["classifier"].std) == pytest.approx((0.9469, 0.0007))


def full() -> Evaluation:
    """An evaluation with something in every field, and with numbers that JSON lacks."""
    intervals = {"moss": {"auroc": (0.8, 0.95)}}
    sweep = Sweep("knn:k=5", {"knn:k=5": 0.9, "knn:k=50": 0.8}, ("tin", "ochre"))
    held = scored("knn:k=5/50", {"moss": measured(0.9)}, intervals=intervals, sweep=sweep)
    sure = scored("msp", {"moss": replace(measured(0.7), caught=0.5)}, threshold=1.5, achieved=Rate(0.05, 0.02, 0.09))
    return run(
        1,
        absent={"sea": "far"},
        scores={"knn:k=5/50": held, "msp": sure},
        unavailable={"mds": "reads logits"},
        geometry={"dispersion": 81.5},
        setting="fsood",
        resize="short side to 32",
        notes=("one", "two"),
    )


def test_an_evaluation_comes_back_from_json_with_its_nan_and_infinity() -> None:
    one = full()
    text = json.dumps(one.to_json(), allow_nan=False)
    back = Evaluation.from_json(json.loads(text) | {"of_a_later_version": 1})
    assert repr(back) == repr(one)  # tuples and NaN included; the two are not equal, for NaN never is
    assert math.isnan(back.scores["knn:k=5/50"].metrics["moss"].caught)
    assert back.scores["knn:k=5/50"].threshold == math.inf


def test_every_evaluation_of_a_run_is_read_whatever_its_protocol(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables" / "cider-cifar10", [run(0, protocol="cider/cifar10")])
    write_tables(tmp_path / "tables" / "openood-cifar10", [full(), run(0)])
    found = read_evaluations(tmp_path)
    assert [one.protocol for one in found] == ["cider/cifar10", "openood/cifar10", "openood/cifar10"]
    assert repr(found[1]) == repr(full())


def test_a_run_without_an_evaluation_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_evaluations(tmp_path)
    assert str(caught.value) == (
        f"spherood compare: {tmp_path} holds no evaluation. Make one with: spherood evaluate {tmp_path} --protocol P"
    )


@pytest.mark.parametrize(
    "text", ["[{", '{"model": "x"}', "[3]", "[{}]", '[{"scores": {}}]', '[{"scores": {"msp": {"name": "msp"}}}]']
)
def test_a_damaged_evaluation_is_told_with_its_file(text: str, tmp_path: Path) -> None:
    file = write_tables(tmp_path / "tables" / "own", [run(0)]) / "evaluation.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        read_evaluations(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{file}: not an evaluation (")
    assert message.endswith("). Evaluate the run again.")


def test_evaluations_are_chosen_by_protocol_and_setting() -> None:
    here, there, wide = run(0), run(0, protocol="cider/cifar10"), run(0, setting="fsood")
    everything = [here, there, wide]
    assert only(everything, "openood/cifar10", "ood") == [here]
    assert only(everything, "openood/cifar10", "fsood") == [wide]
    assert only([here, wide], None, "ood") == [here]


@pytest.mark.parametrize(
    ("protocol", "setting", "message"),
    [
        (None, "ood", "evaluations of 2 protocols. Choose one with --protocol: openood/cifar10, cider/cifar10."),
        (None, "fsood", "the runs hold evaluations of the full spectrum of 0 protocols. Evaluate them first."),
        ("cider/cifar100", "ood", "no evaluation by cider/cifar100. Did you mean 'cider/cifar10'?"),
        ("openood/cifar10", "fsood", "spherood compare: no evaluation of the full spectrum by openood/cifar10."),
    ],
)
def test_a_choice_of_several_or_of_none_is_told(protocol: str | None, setting: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        only([run(0), run(0, protocol="cider/cifar10")], protocol, setting)
    assert message in str(caught.value)


def test_rows_as_json_hold_fractions_and_null_for_what_was_not_measured() -> None:
    (record,) = to_json(rows_of([run(0, 0.8), run(1, 0.9)]))
    json.dumps(record, allow_nan=False)
    assert record["figures"]["near"]["auroc"] == {
        "mean": pytest.approx(0.85),
        "std": pytest.approx(0.05),
        "by_seed": {"0": 0.8, "1": 0.9},
        "interval": None,
    }
    assert record["figures"]["near"]["caught"] == {
        "mean": None,
        "std": None,
        "by_seed": {"0": None, "1": None},
        "interval": None,
    }
    assert (record["name"], record["runs"], record["source"]) == ("supcon", 2, "")


def test_a_users_run_is_not_called_published() -> None:
    protocol = load_protocol("cider/cifar10")
    rows = [published_row(one, protocol) for one in published_rows("cider", "ood", "CIFAR-10", ["CIDER"])]
    by_name = {name: [row.source for row in rows if row.name == name] for name in {row.name for row in rows}}
    assert set(by_name) == {"CIDER (published)", "CIDER (a user's run)"}
    assert all("issue #10" in source for source in by_name["CIDER (published)"])  # the author quotes the paper
    assert all("issue #6" in source for source in by_name["CIDER (a user's run)"])
