from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from spherood.benchmark.published import (
    Figure,
    PublishedRow,
    all_rows,
    leaderboard,
    leaderboard_date,
    position,
    published_rows,
)
from spherood.errors import ConfigError

CIFAR_10 = ["cifar100", "tin", "near", "mnist", "svhn", "texture", "places365", "far"]
CIFAR_100 = ["cifar10", *CIFAR_10[1:]]
IMAGENET = ["ssb_hard", "ninco", "near", "inaturalist", "textures", "openimage_o", "far"]
OPENOOD = ["FPR95", "AUROC", "AUPR_IN", "AUPR_OUT"]
CIDER_FAR = ["SVHN", "Places365", "LSUN", "iSUN", "Textures", "average"]


def made_up(near: float | None = None, far: float | None = None, source: str = "a talk") -> PublishedRow:
    figures: dict[str, dict[str, Figure]] = {"": {"ACC": (99.0, None)}}
    figures |= {kind: {"AUROC": (value, None)} for kind, value in (("near", near), ("far", far)) if value is not None}
    return PublishedRow(
        method="Mine",
        score="KNN",
        arch=None,
        runs=None,
        note=None,
        source=source,
        where="slide 3",
        protocol="openood-1.5",
        setting="ood",
        id_dataset="CIFAR-10",
        figures=figures,
    )


def only(rows: list[PublishedRow]) -> PublishedRow:
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize(
    ("place", "method", "ood", "figures"),
    [
        (
            ("openood-1.5", "ood", "CIFAR-10"),
            "ReweightOOD",
            "cifar100",
            {"AUROC": (89.64, 0.08), "FPR95": (37.68, 0.97)},
        ),
        (("openood-1.5", "ood", "CIFAR-10"), "T2FNorm", "far", {"AUROC": (96.98, 0.23), "ACC": (94.69, 0.07)}),
        (("openood-1.5", "fsood", "ImageNet-1k"), "ReweightOOD", "near", {"AUROC": (53.16, None)}),
        (("cider", "ood", "ImageNet-100"), "CIDER", "average", {"FPR95": (25.90, 1.47), "AUPR": (94.70, 0.22)}),
        (("openood-1.0", "ood", "CIFAR-10"), "LogitNorm", "SVHN", {"FPR95": (5.30, None)}),
    ],
)
def test_figures_are_those_of_the_source(
    place: tuple[str, str, str], method: str, ood: str, figures: dict[str, Figure]
) -> None:
    row = only(published_rows(*place, methods=[method]))
    assert row.method == method
    assert {metric: row.figures[ood][metric] for metric in figures} == figures


def test_a_row_says_where_it_was_read_and_how_it_was_run() -> None:
    row = only(published_rows("cider", "ood", "ImageNet-100"))
    assert row.source.startswith("deeplearning-wisc/cider README")
    assert row.where == 'README table "Aug 12"'
    assert (row.runs, row.arch) == (3, "ResNet-34 (ImageNet-pretrained, layer4 fine-tuned)")
    assert (row.protocol, row.setting, row.id_dataset) == ("cider", "ood", "ImageNet-100")


@pytest.mark.parametrize(
    ("setting", "id_dataset", "sets"),
    [
        ("ood", "CIFAR-10", CIFAR_10),
        ("ood", "CIFAR-100", CIFAR_100),
        ("ood", "ImageNet-200", IMAGENET),
        ("fsood", "ImageNet-200", IMAGENET),
        ("ood", "ImageNet-1k", IMAGENET),
        ("fsood", "ImageNet-1k", IMAGENET),
    ],
)
def test_the_two_readme_tables_of_an_openood_set_have_all_its_ood_sets_in_order(
    setting: str, id_dataset: str, sets: list[str]
) -> None:
    reweight, t2fnorm = published_rows("openood-1.5", setting, id_dataset)
    assert (reweight.method, t2fnorm.method) == ("ReweightOOD", "T2FNorm")
    assert list(reweight.figures) == list(t2fnorm.figures) == sets
    assert [list(metrics) for metrics in reweight.figures.values()] == [OPENOOD] * len(sets)
    assert [list(metrics) for metrics in t2fnorm.figures.values()] == [[*OPENOOD, "ACC"]] * len(sets)


@pytest.mark.parametrize(("setting", "count"), [("ood", 11), ("ood-unsupervised", 5)])
def test_the_tables_of_palms_readme_have_five_sets_and_their_average(setting: str, count: int) -> None:
    rows = [row for row in published_rows("cider", setting, "CIFAR-100") if row.source.startswith("jeff024/PALM")]
    assert len(rows) == count
    for row in rows:
        assert list(row.figures) == CIDER_FAR
        assert {tuple(metrics) for metrics in row.figures.values()} == {("FPR95", "AUROC")}


def test_ciders_readme_table_has_four_sets_and_their_average() -> None:
    row = only(published_rows("cider", "ood", "ImageNet-100"))
    assert list(row.figures) == ["SUN", "Places365", "Textures", "iNaturalist", "average"]
    for metric in ("FPR95", "AUROC", "AUPR"):
        *sets, average = (figures[metric][0] for figures in row.figures.values())
        assert average == pytest.approx(sum(sets) / 4, abs=0.01)


def test_methods_are_found_in_any_case_and_come_in_the_order_of_the_file() -> None:
    rows = published_rows("cider", "ood", "CIFAR-100", methods=["palm", "SUPCON"])
    assert [(row.method, row.score) for row in rows] == [
        ("SupCon", "Mahalanobis (SSD+)"),
        ("SupCon", "KNN"),
        ("PALM", "Mahalanobis"),
    ]


def test_a_run_of_a_user_is_marked_as_one() -> None:
    rows = published_rows("cider", "ood", "CIFAR-10", methods=["CIDER"])
    assert ["user run" in (row.note or "") for row in rows] == ["a user's run" in row.source for row in rows]
    assert len({row.source for row in rows}) == 2


def test_nothing_published_is_an_empty_list() -> None:
    assert published_rows("demo", "ood", "digits") == []
    assert leaderboard("ood", "digits") == []


@pytest.mark.parametrize(
    ("place", "methods", "message"),
    [
        (
            ("openood-1.5", "ood", "CIFAR-10"),
            ["ReweightOOD", "T2FNrm"],
            "'T2FNrm' has no published row for openood-1.5 / ood / CIFAR-10. Did you mean 'T2FNorm'?",
        ),
        (
            ("openood-1.5", "ood", "CIFAR-10"),
            ["CIDER"],
            "'CIDER' has no published row for openood-1.5 / ood / CIFAR-10. Known: ReweightOOD, T2FNorm.",
        ),
        (
            ("cider", "ood", "ImageNet-1000"),
            ["CIDER"],
            "Nothing is published for cider / ood / ImageNet-1000. Did you mean 'cider / ood / ImageNet-100'?",
        ),
    ],
)
def test_a_method_without_a_row_is_told_with_the_nearest(
    place: tuple[str, str, str], methods: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        published_rows(*place, methods=methods)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("setting", "id_dataset", "count"),
    [
        ("ood", "CIFAR-10", 26),
        ("ood", "CIFAR-100", 26),
        ("ood", "ImageNet-200", 23),
        ("fsood", "ImageNet-200", 23),
        ("ood", "ImageNet-1k", 24),
        ("fsood", "ImageNet-1k", 22),
    ],
)
def test_the_leaderboard_has_its_rows_its_date_and_near_and_far_in_each(
    setting: str, id_dataset: str, count: int
) -> None:
    rows = leaderboard(setting, id_dataset)
    assert len(rows) == count
    assert {(row.setting, row.id_dataset) for row in rows} == {(setting, id_dataset)}
    assert leaderboard_date(rows) == "2025-07-19"
    assert {tuple(row.figures) for row in rows} == {("near", "far"), ("near", "far", "")}
    assert position(0, rows, "near") == position(0, rows, "far") == (count + 1, count)


def test_a_date_is_not_made_up() -> None:
    with pytest.raises(ConfigError, match=r"no date in 1 rows\. Give it the rows of leaderboard\(\)"):
        leaderboard_date([made_up()])
    with pytest.raises(ConfigError, match="no date in 0 rows"):
        leaderboard_date([])
    assert leaderboard_date([made_up(), made_up(source="a talk (2024-02-29)")]) == "2024-02-29"


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (95.0, "near", (1, 3)),
        (90.0, "near", (1, 3)),  # a tie with the best
        (85.0, "near", (2, 3)),
        (80.0, "near", (2, 3)),  # a tie with the two others
        (79.9, "near", (4, 3)),
        (70.0, "far", (2, 2)),
    ],
)
def test_ranks_worked_out_by_hand(value: float, kind: str, expected: tuple[int, int]) -> None:
    rows = [made_up(80.0, 60.0), made_up(90.0), made_up(), made_up(80.0, 75.0)]
    assert position(value, rows, "near" if kind == "near" else "far") == expected


def test_among_no_rows_the_rank_is_one_of_none() -> None:
    assert position(50.0, [made_up(far=60.0)], "near") == (1, 0)


def test_a_row_of_the_leaderboard_has_the_rank_that_sorting_gives_it() -> None:
    rows = leaderboard("ood", "CIFAR-10")
    ranked = sorted((row.figures["near"]["AUROC"][0] for row in rows), reverse=True)
    cider = only([row for row in rows if row.method == "CIDER"]).figures["near"]["AUROC"][0]
    assert position(cider, rows, "near") == (ranked.index(cider) + 1, 26)
    assert position(ranked[0], rows, "near") == (1, 26)


def test_the_file_is_read_once_and_stays_small() -> None:
    assert all_rows() is all_rows()
    place = Path(str(files("spherood.benchmark") / "published.json"))
    assert place.stat().st_size < 150_000


def test_published_figures_need_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from spherood.benchmark.published import all_rows; all_rows()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_package_holds_every_entry_as_collected_and_no_other() -> None:
    place = os.environ.get("SPHEROOD_SHARED")
    if not place or not (Path(place) / "published.json").exists():
        pytest.skip("SPHEROOD_SHARED names no folder with published.json, the figures as they were collected")
    collected = json.loads((Path(place) / "published.json").read_text(encoding="utf-8"))
    ours: Counter[tuple[object, ...]] = Counter()
    for row in all_rows():
        for ood, metrics in row.figures.items():
            for metric, (value, std) in metrics.items():
                entry = vars(row) | {"ood_dataset": ood or None, "metric": metric, "value": value, "std": std}
                ours[tuple(entry[column] for column in collected["columns"])] += 1
    theirs: Counter[tuple[object, ...]] = Counter()
    for entry in collected["entries"]:  # a remark of those who collected them says nothing about the source
        source = re.sub(r" \(same text in \w+ \d+\)|; same text in \w+ \d+", "", entry["source"])
        theirs[tuple((entry | {"source": source})[column] for column in collected["columns"])] += 1
    assert all(entry.keys() == set(collected["columns"]) for entry in collected["entries"])
    assert ours == theirs
    assert ours.total() == 1068
