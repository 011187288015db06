"""What the heads of the recipes say: commands to be typed, lengths that are right, figures that were published."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from spherood import naming
from spherood.benchmark.protocol import load_protocol
from spherood.benchmark.published import all_rows
from spherood.training import Recipe, load_recipe

FILES = {path.stem: path for path in sorted((Path(__file__).resolve().parents[1] / "recipes").glob("*.yaml"))}
LARGE = [name for name in FILES if "-small" not in name and name != "supcon-head"]  # of the papers
MILLIONS = {"cifar10": 0.05, "cifar100": 0.05, "imagenet100": 0.128, "imagenet200": 0.2587, "imagenet1k": 1.281167}
SCORES = {  # those of the published figures
    "cider-cifar10": "knn:k=100",
    "cider-cifar100": "knn:k=300",
    "cider-imagenet100": "knn:k=300",
    "supcon-cifar10": "knn:k=100,mahalanobis:unit=true",
    "supcon-cifar100": "knn:k=300,mahalanobis:unit=true",
    "supcon-imagenet100": "knn:k=300",
    "cider-openood": "knn:k=50/100/200/500/1000",
    "reweightood": "mahalanobis:unit=true",
    "cross-entropy": "msp,knn:k=50",
    "palm": "mahalanobis:unit=true",
    "palm-openood": "mahalanobis:unit=true",
}
# Of the released schedule: steps an epoch; the first rate, the highest, and the number of negative ones.
RELEASED_RATES = {
    "cider-openood-cifar10": (98, -0.04718, 0.4878, 95),
    "cider-openood-cifar100": (98, -0.04718, 0.4878, 95),
    "cider-openood-imagenet200": (505, 0.0011, 0.0011, 0),
    "cider-openood-imagenet1k": (2503, 0.0011, 0.0011, 0),
    "supcon-cifar10": (98, -0.04885, 0.4994, 97),
    "supcon-cifar100": (98, -0.04885, 0.4994, 97),
}
METHODS = {"cider": "CIDER", "supcon": "SupCon", "reweightood": "ReweightOOD", "cross": "CrossEntropy", "palm": "PALM"}
METRICS = {"AUROC": ("AUROC", None), "ACC": ("ACC", None)} | {
    "FPR OOD@ID95": ("FPR95", "cider"),  # OOD let through while 95 % of ID is kept
    "FPR ID@OOD95": ("FPR95", "openood-1.5"),  # ID rejected while 95 % of OOD is caught
}


class Figure(NamedTuple):
    method: str
    id_dataset: str
    score: str
    source: str
    ood_dataset: str
    metric: str
    value: float


def head(name: str) -> list[str]:
    """Its lines, without the mark of a comment."""
    lines = FILES[name].read_text(encoding="utf-8").partition("\nname:")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return [line.removeprefix("#").removeprefix(" ") for line in lines]


def text(name: str) -> str:
    return " ".join(line.strip() for line in head(name))


def changed(name: str) -> Recipe:
    """The recipe with every --set that its head names."""
    return load_recipe(FILES[name], re.findall(r"--set (\S*[^\s).,;:])", text(name)))


def quoted(sentences: str) -> list[Figure]:
    """Figures of "Expected: METRIC SET VALUE, SET VALUE; METRIC VALUE. Published: METHOD on ID, SCORE, SOURCE."."""
    found = []
    for figures, method, id_dataset, score, source in re.findall(
        r"Expected: ([A-Z]{3}[^:]*)\. Published: (\S+) on (\S+), ([^,]+), ([^.]+)\.", sentences
    ):
        for part in figures.split("; "):
            metric = next(name for name in METRICS if part.startswith(f"{name} "))
            for item in part.removeprefix(f"{metric} ").split(", "):
                ood_dataset, _, value = item.rpartition(" ")
                found.append(Figure(method, id_dataset, score, source, ood_dataset, metric, float(value)))
    return found


def is_published(figure: Figure, protocol: str) -> bool:
    """Whether authors or the leaderboard state it for this protocol; what a user measured does not count."""
    metric, only = METRICS[figure.metric]
    place = (figure.method, figure.id_dataset, protocol, "ood")
    return only in (None, protocol) and any(
        row.figures.get(figure.ood_dataset, {}).get(metric, (None,))[0] == figure.value
        for row in all_rows()
        if (row.method, row.id_dataset, row.protocol, row.setting) == place
        and row.score.startswith(figure.score.removeprefix("score "))
        and row.source.startswith(figure.source)
        and "user run" not in (row.note or "")
    )


@pytest.mark.parametrize("name", FILES)
def test_a_head_names_the_two_commands_of_its_recipe(name: str) -> None:
    recipe, lines = load_recipe(FILES[name]), head(name)
    assert recipe.name == name
    assert lines[0].endswith(".")
    assert lines[2] == f"  spherood train --recipe recipes/{name}.yaml --data DATA"
    experiment, family = name.removesuffix("-as-released"), re.split("-cifar|-imagenet", name)[0]
    scores = SCORES.get(experiment) or SCORES[family] if name in LARGE else ""
    asked = f" --scores {scores}" if scores else ""
    assert ",".join(recipe.scores) == scores
    if recipe.data.features is not None:
        assert lines[3] == f"  spherood fit DATA/other.npz --encoder {name}"
    else:
        assert lines[3] == f"  spherood evaluate {name} --protocol {recipe.protocol}{asked} --data DATA"
    assert [line.partition(":")[0] for line in lines[5:] if line.startswith(("Duration: ", "Expected: "))][:2] == [
        "Duration",
        "Expected",
    ]


@pytest.mark.parametrize("scores", SCORES.values())
def test_the_scores_of_the_heads_can_be_built(scores: str) -> None:
    for score in scores.split(","):
        naming.build("detectors", *naming.parse_spec(score.partition("/")[0]))  # of a sweep, the first


@pytest.mark.parametrize("name", FILES)
def test_what_a_head_says_to_set_changes_the_recipe_and_the_recipe_it_points_to_is_there(name: str) -> None:
    assert (changed(name) != load_recipe(FILES[name])) == ("--set" in text(name))
    pointed_to = re.findall(r"(?<![=/\w-])[a-z]+(?:-[a-z0-9]+)*-(?:cifar|imagenet)[\w-]*", text(name))
    assert set(pointed_to) <= set(FILES)


@pytest.mark.parametrize("name", RELEASED_RATES)
def test_what_a_head_says_to_set_gives_the_rates_of_the_released_code(name: str) -> None:
    per_epoch, first, peak, negative = RELEASED_RATES[name]
    recipe = changed(name)
    steps = per_epoch * recipe.training.epochs
    rates = [recipe.schedule.at(step, steps, per_epoch) for step in range(steps)]
    assert rates[0] == pytest.approx(first, abs=6e-6)
    assert max(rates) == pytest.approx(peak, abs=6e-5)
    assert sum(rate < 0 for rate in rates) == negative


@pytest.mark.parametrize("name", LARGE)
def test_the_images_that_a_head_counts_are_those_of_its_epochs(name: str) -> None:
    recipe = load_recipe(FILES[name])
    said = re.search(r"([\d.]+) million images through a ResNet-(\d+), (one|two) views? each: for a GPU\.", text(name))
    assert said is not None
    million = MILLIONS[(recipe.protocol or "").partition("/")[2]]
    assert float(said[1]) == pytest.approx(million * recipe.training.epochs, rel=0.03)
    assert f"resnet{said[2]}" == recipe.model.encoder
    assert said[3] == ("one" if recipe.model.classifier else "two")


@pytest.mark.parametrize("name", LARGE)
def test_the_figures_that_a_head_quotes_are_published(name: str) -> None:
    figures = quoted(text(name))
    published = load_protocol(load_recipe(FILES[name]).protocol or "").published
    assert published is not None
    assert text(name).count("Published: ") == len({figure[:4] for figure in figures})
    assert load_recipe(FILES[name]).published == (METHODS[name.split("-")[0]] if figures else None)
    for figure in figures:
        assert (figure.method, figure.id_dataset) == (METHODS[name.split("-")[0]], published.id_dataset)
        assert is_published(figure, published.protocol), figure
    assert figures or "Expected: nothing published is at hand." in text(name)


def test_a_figure_that_nobody_published_is_not_taken_for_one() -> None:
    line = "Expected: AUROC near 90.71; FPR OOD@ID95 SVHN 2.89. Published: CIDER on CIFAR-10, KNN, OpenOOD leaderboard."
    near, svhn = quoted(f"Before. {line} After: all. Expected: no figure.")
    assert near == ("CIDER", "CIFAR-10", "KNN", "OpenOOD leaderboard", "near", "AUROC", 90.71)
    assert is_published(near, "openood-1.5")
    assert not is_published(near, "cider")
    assert not is_published(near._replace(value=90.72), "openood-1.5")
    assert not is_published(near._replace(ood_dataset="far"), "openood-1.5")
    assert not is_published(near._replace(score="MDS"), "openood-1.5")
    assert not is_published(svhn, "openood-1.5")
    svhn = svhn._replace(source="deeplearning-wisc/cider")
    assert is_published(svhn, "cider")
    assert not is_published(svhn._replace(metric="FPR ID@OOD95"), "cider")
    assert not is_published(svhn._replace(value=4.86), "cider")  # a user's run
