"""The pictures of a training run: learning curves, learning rate, geometry, projection, sphere. Each gives panels.

The Vega-Lite they make names colours as the page's variables; `drawing.py` puts fixed ones in for files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import acos, degrees
from typing import Any

from spherood.report.charts import load_altair
from spherood.report.globe import globe
from spherood.report.lines import Bound, Panel, line_chart, thinned
from spherood.report.projection import NAMES, Method, project
from spherood.report.run import Run, missing
from spherood.report.scatter import SIDE, on_globe, on_plane
from spherood.training.validation import FILE as VALIDATION
from spherood.training.validation import SAMPLE

NO_PART = ("step", "epoch", "loss", "lr", "images_per_second")
DRAWN_STEPS = 600  # of the planned learning rate; the warm-up gets as many again

Values = list[tuple[float, float]]


def curves(run: Run) -> list[Panel]:
    """Loss, its parts, images per second, over epochs."""
    parts = dict.fromkeys(key for row in run.metrics for key in row if key not in NO_PART)
    panels = [
        ("loss", "loss", "What training lowers; it may be negative. Its height says little, its course much."),
        *((part, part, "A part of the loss, before its weight.") for part in parts),
        ("images_per_second", "images per second",
         "How fast it went. A validation or a pause between two readings shows as a dip."),
    ]  # fmt: skip
    return [
        Panel(title, says, line_chart({title: points}, "epoch", ""))
        for key, title, says in panels
        if (points := thinned(run.metrics, "epoch", key))
    ]


def learning_rate(run: Run) -> list[Panel]:
    """The schedule over the whole planned run: thin; what was done: thick."""
    alt = load_altair()
    per_epoch, steps, done = run.steps_per_epoch, run.steps, run.metrics[-1]["step"]
    schedule = run.recipe.schedule
    warmup = min(steps, round((schedule.warmup_epochs + 1) * per_epoch))
    chosen = {round(k * (end - 1) / DRAWN_STEPS) for end in (steps, warmup) for k in range(DRAWN_STEPS + 1)}
    values = [
        {"step": step, "epoch": step / per_epoch, "rate": schedule.at(step, steps, per_epoch), "done": step < done}
        for step in sorted(chosen | {min(done, steps) - 1})
    ]
    line = alt.Chart(alt.InlineData(values=values)).encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(grid=False, tickCount=5), scale=alt.Scale(nice=False)),
        y=alt.Y("rate:Q", title="learning rate", axis=alt.Axis(tickCount=4)),
        tooltip=[alt.Tooltip("step:Q", format=","), alt.Tooltip("epoch:Q", format=".2f"),
                 alt.Tooltip("rate:Q", title="learning rate", format=".3~g")],
    )  # fmt: skip
    layers = [
        line.mark_line(aria=False, strokeWidth=1.2, color="var(--line-strong)", strokeDash=[4, 3]),
        line.transform_filter("datum.done").mark_line(aria=False, strokeWidth=2.5, color="var(--ink)"),
        line.mark_point(aria=False, size=200, opacity=0),
    ]
    says = f"Thick: the {done:,} steps done. Thin and dashed: the rest of the {steps:,} planned."
    if done >= steps:
        says = f"All {steps:,} steps are done."
    below = sum(schedule.at(step, steps, per_epoch) < 0 for step in range(warmup))
    if below:
        says += f" In {below:,} steps the rate is below 0, as in the released code: they climb the loss."
        layers.append(
            alt.Chart(alt.InlineData(values=[{"zero": 0}]))
            .mark_rule(aria=False, color="var(--line-strong)")
            .encode(y="zero:Q")
        )
    return [Panel("learning rate", says, alt.layer(*layers).properties(height=170))]


def geometry(run: Run) -> list[Panel]:
    """How the embedding lies on the sphere after each validation. TrainingError where there was none."""
    rows = run.validation
    if not rows:
        raise missing(run, "figure geometry", VALIDATION)
    of_images = [{"epoch": row["epoch"], **(row.get("geometry") or {})} for row in rows]
    of_loss = [{"epoch": row["epoch"], **(row.get("prototypes") or {})} for row in rows]
    last: dict[str, Any] = next((row["geometry"] for row in reversed(rows) if row.get("geometry")), {})

    def one(key: str, title: str, unit: str, says: str) -> Panel | None:
        return _panel(title, unit, says, {title: thinned(of_images, "epoch", key)})

    def both(key: str) -> Mapping[str, Values]:
        return {"class means": thinned(of_images, "epoch", key), "prototypes": thinned(of_loss, "epoch", key)}

    def percent(part: str) -> Mapping[str, Values]:
        measured = [{"epoch": row["epoch"], **{k: 100 * v for k, v in row.get(part, {}).items()}} for row in rows]
        names = dict.fromkeys(name for row in rows for name in row.get(part, {}))
        return {name: thinned(measured, "epoch", name) for name in names}

    bound, name = last.get("least_angle_bound"), last.get("least_angle_bound_name")
    panels = [
        one("compactness", "compactness", "degrees",
            "Mean angle between an image and its class's mean direction. Lower: tighter classes."),
        _panel("dispersion", "degrees", "Mean angle between two class directions. Dashed: the simplex, where all are "
               "equally far apart.", both("dispersion"), _simplex(last)),
        _panel("least angle", "degrees", "Angle between the two nearest classes. Dashed: no arrangement has a greater "
               "one.", both("least_angle"), Bound(bound, f"{name} {bound:.1f}°") if bound is not None else None),
        one("separability", "separability", "degrees", "How much farther validation OOD lies from the nearest class "
            "direction than the images do, on average. Higher: easier to tell apart."),
        one("overlap", "overlap", "share", "Of the angles to the nearest class direction, how much validation OOD and "
            "images have in common. 0: nothing, 1: all."),
        one("uniformity", "uniformity", "nats", "How evenly the images spread over the whole sphere. Lower: more even; "
            "tight classes keep it from falling far."),
        one("alignment", "alignment", "squared distance",
            "Between two images of one class, 0 to 4. Lower: tighter classes."),
        one("effective_rank", "effective rank", "directions",
            "How many directions the images fill. Far fewer than classes less one: some classes share directions."),
        _panel("accuracy", "%", "Known classes told apart, by the nearest class mean and by a vote of neighbours. "
               "Higher is better.", percent("accuracy")),
        _panel("AUROC on validation OOD", "%", "How well k-NN tells OOD from ID: 50 % is guessing, 100 % a clean "
               "separation.", percent("auroc")),
    ]  # fmt: skip
    return [panel for panel in panels if panel is not None]


def projection(run: Run, method: Method = "pca") -> list[Panel]:
    """The embedding on a plane. TrainingError where there is no sample."""
    sample = run.sample
    if sample is None:
        raise missing(run, "figure projection", SAMPLE)
    plane = project(sample.embedding, sample.marks[0], method)
    if plane.shares is None:
        says = "Neighbours stay together; distances between groups, and the size of a group, mean little."
    else:
        says = (
            f"The plane holds {100 * sum(plane.shares):.1f} % of the variance. Classes apart here are apart in space; "
            "classes on top of each other may still be apart in the other directions."
        )
    return [Panel(f"{NAMES[method]}, {len(sample.label):,} images", says, on_plane(sample, plane), SIDE)]


def sphere(run: Run) -> list[Panel]:
    """The embedding on a sphere one can look at. TrainingError where there is no sample."""
    sample = run.sample
    if sample is None:
        raise missing(run, "figure sphere", SAMPLE)
    seen = globe(sample)
    says = (
        f"Three directions of {sample.embedding.shape[1]}, brought to length 1: they hold {100 * seen.share:.0f} % of "
        "the embeddings' squared length, so clusters that meet here may be far apart in space. Pale: behind."
    )
    return [Panel(f"sphere, {len(sample.label):,} images", says, on_globe(sample, seen), SIDE)]


FIGURES: dict[str, Callable[[Run], list[Panel]]] = {
    "curves": curves,
    "learning-rate": learning_rate,
    "geometry": geometry,
    "projection": projection,
    "sphere": sphere,
}


def _panel(title: str, unit: str, says: str, lines: Mapping[str, Values], bound: Bound | None = None) -> Panel | None:
    """None where nothing was measured."""
    measured = {name: points for name, points in lines.items() if points}
    return Panel(title, says, line_chart(measured, "epoch", unit, bound)) if measured else None


def _simplex(last: Mapping[str, Any]) -> Bound | None:
    classes = sum(found is not None for found in last.get("compactness_per_class", ()))
    if classes < 2:
        return None
    angle = degrees(acos(-1 / (classes - 1)))
    return Bound(angle, f"simplex {angle:.1f}°")
