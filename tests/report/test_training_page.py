from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from spherood.errors import CheckpointError, ConfigError, MissingExtraError, TrainingError
from spherood.progress import duration
from spherood.report.drawing import for_file, for_page, light, write_figure
from spherood.report.figures import FIGURES, curves, geometry, learning_rate, projection, sphere
from spherood.report.globe import globe
from spherood.report.lines import MOST, Bound, line_chart, thinned
from spherood.report.run import Run, read_run
from spherood.report.training import collapse, facts, headline, lead, render, write_training_page
from spherood.schema import write_yaml
from spherood.sphere.geometry import dispersion
from spherood.sphere.geometry import geometry as measure
from spherood.training.recipe import Recipe

for library in ("altair", "jinja2", "vl_convert"):
    pytest.importorskip(library, reason="the extra report is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>window.hacked = 1</script>"
Make = Callable[..., Path]


def clusters(classes: int, spread: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Rows (20 C, 8), labels, and the axes that they lie around."""
    draw, mu = np.random.default_rng(0), np.eye(8)[:classes]
    label = np.arange(20 * classes) % classes
    z = mu[label] + spread * draw.normal(size=(len(label), 8))
    return z / np.linalg.norm(z, axis=1, keepdims=True), label, mu


@pytest.fixture
def run_with(tmp_path: Path) -> Make:
    """A run's folder as training leaves it: 4 of 6 epochs of 50 steps, and a validation after each."""

    def make(*, every: int = 1, names: tuple[str, ...] = ("cat", "dog", "owl"), **recipe: Any) -> Path:
        content: dict[str, Any] = {
            "name": "toy",
            "data": {"sample": "digits", "part": "train"},
            "model": {"encoder": "resnet8", "head": "mlp", "dim": 8},
            "loss": [{"use": "cider", "with": {"temperature": 0.2}}],
            "schedule": {"lr": 0.4, "warmup_epochs": 1},
            "training": {"epochs": 6, "batch": 10},
            "validation": {"every": every},
        }
        folder = tmp_path / "runs" / "toy"
        folder.mkdir(parents=True)
        (folder / "recipe.yaml").write_text(write_yaml(Recipe.model_validate(content | recipe)))
        machine = {"device": "cpu", "cores": 2, "threads": 1, "processes": 1, "torch": "2.13.0", "platform": "Linux"}
        (folder / "environment.json").write_text(json.dumps(machine))
        rows = [
            {"step": step, "epoch": step / 50, "loss": 100 / step, "compactness": 1 / step, "lr": 0.1,
             "images_per_second": 125.0}
            for step in range(25, 201, 25)
        ]  # fmt: skip
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if every:
            z, label, mu = clusters(len(names), 0.1)
            found = asdict(measure(torch.from_numpy(z), torch.from_numpy(label)))
            mean_angle, least = dispersion(torch.from_numpy(mu))
            validated = [
                {"step": 50 * epoch, "epoch": epoch, "of": "held-out images",
                 "accuracy": {"class mean": 0.5 + epoch / 10, "k-NN": 0.55 + epoch / 10}, "geometry": found,
                 "prototypes": {"dispersion": mean_angle, "least_angle": least}, "auroc": {"noise": 0.9, "far": 0.8}}
                for epoch in (1, 2, 3, 4)
            ]  # fmt: skip
            (folder / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in validated))
            np.savez(folder / "embedding.npz", embedding=z.astype(np.float32), label=label, classes=np.array(names),
                     prototypes=mu.astype(np.float32))  # fmt: skip
        return folder

    return make


def change_last(folder: Path, **values: Any) -> Run:
    """The run with its last validation changed."""
    path = folder / "validation.jsonl"
    *before, last = path.read_text().splitlines()
    path.write_text("\n".join([*before, json.dumps(json.loads(last) | values)]) + "\n")
    return read_run(folder)


def data_of(chart: Any) -> list[list[dict[str, Any]]]:
    return list(chart.to_dict()["datasets"].values())


def test_a_run_is_read_with_its_length_and_time(run_with: Make) -> None:
    run = read_run(run_with())
    assert (run.steps_per_epoch, run.steps) == (50, 300)
    assert run.seconds == pytest.approx(200 * 10 / 125)
    assert run.sample is not None
    assert run.sample.classes == ("cat", "dog", "owl")
    assert run.sample.embedding.dtype == np.float64
    assert lead(run) == "4 of 6 epochs in about 16 s on cpu."
    assert [duration(s) for s in (0.4, 99, 101, 3540, 3600, 36_059)] == [
        "0 s", "99 s", "2 min", "59 min", "1 h 0 min", "10 h 1 min",
    ]  # fmt: skip


def test_a_name_that_no_run_has_is_told_the_nearest_and_a_folder_of_runs_what_it_holds(
    run_with: Make, tmp_path: Path
) -> None:
    folder = run_with()
    with pytest.raises(CheckpointError, match=rf"^spherood report: no run at {folder}s\. Did you mean 'toy'\?$"):
        read_run(folder.with_name("toys"))
    with pytest.raises(CheckpointError, match=rf"no run at {tmp_path}/runs\. It holds others: {folder}\.$"):
        read_run(folder.parent)
    with pytest.raises(CheckpointError, match=r"Train one with: spherood train --recipe R --run NAME$"):
        read_run(tmp_path / "elsewhere" / "toy")


def test_a_run_without_a_row_and_a_damaged_sample_are_said(run_with: Make) -> None:
    folder = run_with()
    whole = (folder / "embedding.npz").read_bytes()
    for damaged in (whole[:-100], b"PK", b""):
        (folder / "embedding.npz").write_bytes(damaged)
        with pytest.raises(TrainingError, match=r"embedding\.npz: is damaged .*Remove it; the next validation"):
            read_run(folder)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(
        TrainingError, match=r"has no metrics yet: metrics\.jsonl has no row\. The first comes after 25"
    ):
        read_run(folder)


def test_curves_are_the_loss_its_parts_and_the_speed(run_with: Make) -> None:
    panels = curves(read_run(run_with()))
    assert [panel.title for panel in panels] == ["loss", "compactness", "images per second"]
    (points,) = data_of(panels[0].chart)
    assert points[0] == {"x": 0.5, "y": 4.0, "line": "loss"}
    assert len(points) == 8


def test_many_rows_become_means_of_neighbours_and_gaps_are_left_out() -> None:
    rows = [{"x": i, "y": 2 * i} for i in range(2 * MOST)]
    thin = thinned(rows, "x", "y")
    assert len(thin) == MOST
    assert thin[0] == (0.5, 1.0)
    assert thinned(rows[:MOST], "x", "y") == [(i, 2 * i) for i in range(MOST)]
    gaps: list[dict[str, Any]] = [{"x": 1}, {"x": 2, "y": None}, {"x": 3, "y": math.nan}, {"x": 4, "y": 1}]
    assert thinned(gaps, "x", "y") == [(4, 1)]
    assert thinned([], "x", "y") == []


def test_one_height_alone_has_room_around_it_and_a_bound_counts_as_a_height() -> None:
    def domain(bound: Bound | None) -> Any:
        return line_chart({"a": [(1, 5.0), (2, 5.0)]}, "x", "y", bound).to_dict()["layer"][0]["encoding"]["y"]["scale"]

    assert domain(None)["domain"] == [4.5, 5.5]
    assert "domain" not in domain(Bound(9, "nine"))


def test_the_planned_rate_is_the_schedules_and_what_was_done_is_marked(run_with: Make) -> None:
    run = read_run(run_with())
    (panel,) = learning_rate(run)
    (values,) = data_of(panel.chart)
    assert [value["step"] for value in values] == list(range(300))
    for value in values:
        assert value["rate"] == run.recipe.schedule.at(value["step"], 300, 50)
        assert value["done"] == (value["step"] < 200)
    assert panel.says == "Thick: the 200 steps done. Thin and dashed: the rest of the 300 planned."


def test_a_long_run_draws_few_steps_but_its_warm_up_and_last_step(run_with: Make) -> None:
    folder = run_with(training={"epochs": 4, "batch": 10}, schedule={"lr": 0.4, "warmup_epochs": 1})

    def drawn(step: int) -> tuple[list[dict[str, Any]], str]:
        last = {"step": step, "epoch": step / 10_000, "loss": 1, "lr": 0.1, "images_per_second": 1}
        (folder / "metrics.jsonl").write_text(json.dumps(last) + "\n")
        (panel,) = learning_rate(read_run(folder))
        return data_of(panel.chart)[0], panel.says

    values, says = drawn(40_000)
    steps = [value["step"] for value in values]
    assert (steps[0], steps[-1]) == (0, 39_999)
    assert len(steps) < 1300
    assert max(b - a for a, b in pairwise(steps)) < 70
    assert says == "All 40,000 steps are done."
    assert max(value["step"] for value in drawn(33_337)[0] if value["done"]) == 33_336


def test_a_negative_rate_is_counted_and_named(run_with: Make) -> None:
    run = read_run(run_with(schedule={"lr": 0.4, "warmup_epochs": 2, "rule": "cider-as-released"}))
    (panel,) = learning_rate(run)
    below = sum(run.recipe.schedule.at(step, 300, 50) < 0 for step in range(300))
    assert below == 50
    assert "In 50 steps the rate is below 0, as in the released code: they climb the loss." in panel.says


def test_geometry_has_a_panel_each_with_its_bound_and_says_how_to_read_it(run_with: Make) -> None:
    panels = {panel.title: panel for panel in geometry(read_run(run_with()))}
    assert list(panels) == [
        "compactness", "dispersion", "least angle", "uniformity", "alignment", "effective rank", "accuracy",
        "AUROC on validation OOD",
    ]  # fmt: skip
    assert all(panel.says.endswith(".") for panel in panels.values())
    points, bound = data_of(panels["dispersion"].chart)
    assert {point["line"] for point in points} == {"class means", "prototypes"}
    assert bound == [{"y": pytest.approx(120), "name": "simplex 120.0°"}]  # three classes: arccos(-1/2)
    assert data_of(panels["least angle"].chart)[1] == bound
    (accuracy,) = data_of(panels["accuracy"].chart)
    assert accuracy[-1] == {"x": 4, "y": pytest.approx(95), "line": "k-NN"}
    (auroc,) = data_of(panels["AUROC on validation OOD"].chart)
    assert {(point["line"], point["y"]) for point in auroc} == {("noise", 90), ("far", 80)}


def test_rows_without_geometry_prototypes_or_ood_leave_their_panels_out(run_with: Make) -> None:
    folder = run_with()
    row = {"step": 50, "epoch": 1, "accuracy": {"k-NN": 0.5}}
    (folder / "validation.jsonl").write_text(json.dumps(row) + "\n")
    assert [panel.title for panel in geometry(read_run(folder))] == ["accuracy"]
    assert [name for _, name, _ in headline(read_run(folder))] == ["loss", "accuracy, k-NN"]


def test_an_ood_set_may_be_called_as_a_way_of_reading_is(run_with: Make) -> None:
    run = change_last(run_with(), auroc={"k-NN": 0.25})
    (accuracy,) = data_of(geometry(run)[-2].chart)
    assert min(point["y"] for point in accuracy) > 50


def test_the_projection_names_its_shares_and_the_sphere_its_own(run_with: Make) -> None:
    run = read_run(run_with())
    (plane,) = projection(run)
    share = float(re.findall(r"holds ([\d.]+) %", plane.says)[0])
    axes = [layer["encoding"][axis]["axis"]["title"] for layer in plane.chart.to_dict()["layer"][:1] for axis in "xy"]
    assert share == pytest.approx(sum(float(re.findall(r": ([\d.]+) %", axis)[0]) for axis in axes), abs=0.11)
    (ball,) = sphere(run)
    assert re.search(r"Three directions of 8, brought to length 1: they hold \d\d % of", ball.says)
    names = [row["name"] for data in data_of(ball.chart) for row in data if "name" in row]
    assert sorted(names) == ["cat", "dog", "owl"]


def test_points_behind_the_sphere_are_drawn_first_and_fainter(run_with: Make) -> None:
    run = read_run(run_with())
    (ball,), sample = sphere(run), run.sample
    assert sample is not None
    layers = [layer["mark"] for layer in ball.chart.to_dict()["layer"]]
    disc, *points = [mark["opacity"] for mark in layers if mark["type"] == "point"]
    assert disc == 1
    assert points == [0.22, 0.3, 0.75, 1.0]  # images and marks behind, images and marks in front
    seen = globe(sample)
    held = [layer["data"]["name"] for layer in ball.chart.to_dict()["layer"] if layer["mark"]["type"] == "point"]
    sizes = [len(ball.chart.to_dict()["datasets"][name]) for name in held[1:]]
    assert sizes == [(seen.rows[:, 2] < 0).sum(), (seen.marks[:, 2] < 0).sum(), (seen.rows[:, 2] >= 0).sum(), 3]


def test_collapsed_prototypes_or_means_are_said_in_words_and_others_not(run_with: Make) -> None:
    folder = run_with()
    assert collapse(read_run(folder)) == ""
    run = change_last(folder, prototypes={"dispersion": 1.25, "least_angle": 0.5})
    assert collapse(run).startswith(
        "After epoch 4 the prototypes lie within 1.2° of each other on average. No score can tell such classes apart: "
    )
    assert "<b>Collapsed.</b> After epoch 4 the prototypes" in render(run)
    means = run.validation[-1]["geometry"] | {"collapsed": True}
    run = change_last(folder, prototypes={"dispersion": 90.0, "least_angle": 90.0}, geometry=means)
    assert collapse(run).startswith("After epoch 4 the class means lie within 5° of each other.")


def test_the_page_says_recipe_time_and_hardware_and_where_it_stands(run_with: Make) -> None:
    run = read_run(run_with())
    told = dict(facts(run))
    assert told["loss"] == "cider (temperature=0.2)"
    assert told["training images"] == "sample digits, part train"
    assert told["model"] == "resnet8, width 64, mlp head to 8"
    assert told["length"] == "6 epochs of 50 steps, batches of 10"
    assert told["hardware"] == "cpu, 2 cores, 1 thread, 1 process"
    figures = {name: figure for figure, name, _ in headline(run)}
    assert figures["loss"] == "0.5"
    assert figures["accuracy, k-NN"] == "95.0 %"
    assert figures["AUROC on validation OOD"] == "85.0 %"
    assert float(figures["between the two nearest classes"][:-1]) == pytest.approx(90, abs=5)


def test_several_losses_are_one_line_with_weight_settings_and_epochs(run_with: Make) -> None:
    terms = [{"use": "supcon"}, {"use": "cider", "times": 0.5, "with": {"momentum": 0.9}, "begin": 2, "end": 4}]
    assert dict(facts(read_run(run_with(loss=terms))))["loss"] == "supcon + 0.5 × cider (momentum=0.9) in epochs 2..3"


def test_the_page_is_one_file_that_names_no_address_and_holds_every_chart(run_with: Make, tmp_path: Path) -> None:
    run = read_run(run_with())
    write_training_page(tmp_path / "a.html", run)
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    body = text[: text.index('<script type="application/json"')]
    assert not re.search(r"https?://|src=|@import", body)
    specs = json.loads(re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)[0])["specs"]
    places = re.findall(r'id="chart-(\d+)"', body)
    assert [int(place) for place in places] == list(range(len(specs))) == list(range(14))
    assert "http" not in json.dumps(specs)
    assert "default-src 'none'" in body


def test_a_run_without_validation_has_a_page_that_says_so(run_with: Make) -> None:
    text = render(read_run(run_with(every=0)))
    assert "Nothing was measured while it trained: validation.every is 0." in text
    assert "No sample of embeddings was kept" in text


@pytest.mark.parametrize(("figure", "file"), [("geometry", "validation.jsonl"), ("sphere", "embedding.npz"),
                                              ("projection", "embedding.npz")])  # fmt: skip
def test_a_figure_whose_file_is_missing_says_what_makes_it(run_with: Make, figure: str, file: str) -> None:
    folder = run_with(every=0)
    with pytest.raises(
        TrainingError,
        match=rf"the figure {figure} needs {folder}/{file}, which is not there: this run has validation\.every=0\. "
        rf"Train another with: spherood train --recipe {folder}/recipe.yaml --run NAME --set validation\.every=1$",
    ):
        FIGURES[figure](read_run(folder))
    content = (folder / "recipe.yaml").read_text().replace("every: 0", "every: 5")
    (folder / "recipe.yaml").write_text(content)
    with pytest.raises(TrainingError, match=r"by validation\.every=5 the first one is written after epoch 5\.$"):
        FIGURES[figure](read_run(folder))


def test_names_chosen_badly_stay_text(run_with: Make) -> None:
    text = render(change_last(run_with(names=(HOSTILE, "dog", "owl")), auroc={HOSTILE: 0.5}))
    assert HOSTILE not in text
    assert "<script>window" not in text


@pytest.mark.parametrize(("ending", "begins"), [("svg", b"<svg"), ("png", b"\x89PNG"), ("PDF", b"%PDF")])
def test_a_figure_is_written_by_its_ending(run_with: Make, tmp_path: Path, ending: str, begins: bytes) -> None:
    path = tmp_path / f"figure.{ending}"
    write_figure(path, sphere(read_run(run_with())))
    assert path.read_bytes().startswith(begins)


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"figure\.bmp: a figure ends in \.svg, \.png or \.pdf\.$"):
        write_figure(tmp_path / "figure.bmp", [])


def test_a_file_has_fixed_colours_and_titles_where_it_holds_several_charts(run_with: Make) -> None:
    run = read_run(run_with())
    text = json.dumps(for_file(curves(run)))
    assert "var(" not in text
    assert light()["ink"] in text
    assert {"loss", "compactness"} <= {chart["title"] for chart in for_file(curves(run))["concat"]}
    assert "title" not in for_file(learning_rate(run))
    assert set(for_file(geometry(run))["resolve"]["scale"].values()) == {"independent"}  # each has lines of its own
    page = for_page(curves(run)[0])
    assert page["width"] == "container"
    assert "var(--ink)" in json.dumps(page)


def test_without_altair_the_page_says_what_to_install(run_with: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    run = read_run(run_with())
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtraError, match=r"report: needs altair.*pip install 'spherood\[report\]'"):
        render(run)


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
def test_a_browser_draws_every_chart_loads_nothing_and_runs_no_name(run_with: Make, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    write_training_page(tmp_path / "a.html", change_last(run_with(names=(HOSTILE, "dog", "owl")), auroc={HOSTILE: 0.5}))
    trouble: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 800})
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request", lambda asked: trouble.extend([] if asked.url.startswith(("file:", "data:")) else [asked.url])
        )
        page.goto((tmp_path / "a.html").as_uri())
        page.wait_for_selector("html[data-drawn]", timeout=20_000)
        assert page.locator(".chart svg").count() == 14
        assert page.evaluate("window.hacked") is None
        assert page.evaluate("document.documentElement.scrollWidth") == 360  # a phone scrolls down only
        browser.close()
    assert trouble == []
