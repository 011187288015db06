"""The page of a training run: how the loss fell, how the embedding came to lie on the sphere, where it stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import mean
from typing import Any

from spherood.files import write_text
from spherood.progress import duration
from spherood.report import figures
from spherood.report.drawing import for_page
from spherood.report.lines import Panel
from spherood.report.page import fill
from spherood.report.projection import Method
from spherood.report.run import Run
from spherood.report.table import percent
from spherood.schema import write_yaml
from spherood.training.recipe import LossTerm

PAGE = "training.html"  # in the run's folder
NEAR = 5.0  # degrees: prototypes nearer than this on average are one, as training warns


def write_training_page(path: Path, run: Run, method: Method = "pca") -> None:
    """Write the page, whole or not at all. MissingExtraError without the extra report, or the projection's library."""
    write_text(path, render(run, method))


def render(run: Run, method: Method = "pca") -> str:
    """The whole page as text."""
    sections: dict[str, list[Panel]] = {
        "learning": [*figures.curves(run), *figures.learning_rate(run)],
        "geometry": figures.geometry(run) if run.validation else [],
        "embedding": [*figures.sphere(run), *figures.projection(run, method)] if run.sample is not None else [],
    }
    panels = [panel for some in sections.values() for panel in some]
    number = {id(panel): i for i, panel in enumerate(panels)}
    return fill(
        "training.html.j2",
        "training.js",
        title=run.recipe.name if run.folder.name == run.recipe.name else f"{run.folder.name} ({run.recipe.name})",
        lead=lead(run),
        warning=collapse(run),
        headline=headline(run),
        facts=facts(run),
        recipe=write_yaml(run.recipe),
        sections={name: [(number[id(panel)], panel) for panel in some] for name, some in sections.items()},
        every=run.recipe.validation.every,
        asked=run.validation[-1].get("of", "images") if run.validation else "",
        prototypes=run.sample is not None and run.sample.has_prototypes,
        data={"specs": [for_page(panel) for panel in panels]},
    )


def lead(run: Run) -> str:
    """How far it came, in which time, on what."""
    done, planned = run.metrics[-1]["epoch"], run.recipe.training.epochs
    machine = "".join(f" on {word}" for word in _hardware(run.environment)[:1])
    return f"{round(done, 1):g} of {planned} epochs in about {duration(run.seconds)}{machine}."


def collapse(run: Run) -> str:
    """A warning where the last validation found prototypes or class means within NEAR degrees of each other."""
    if not run.validation:
        return ""
    last = run.validation[-1]
    angle = (last.get("prototypes") or {}).get("dispersion")
    means = last.get("geometry") or {}
    if angle is not None and angle <= NEAR:
        found = f"the prototypes lie within {angle:.1f}° of each other on average"
    elif means.get("collapsed"):
        found = f"the class means lie within {NEAR:g}° of each other"
    else:
        return ""
    return (
        f"After epoch {last['epoch']:g} {found}. No score can tell such classes apart: train longer, at a lower "
        "rate, with smaller batches (training.batch=128), or begin with a few epochs of fixed_prototypes."
    )


def headline(run: Run) -> list[tuple[str, str, str]]:
    """(figure, its name, what it means) of the last rows."""
    found = [(f"{run.metrics[-1]['loss']:.4g}", "loss", "mean over the last steps that were logged")]
    if not run.validation:
        return found
    last = run.validation[-1]
    of = f"on {last.get('of', 'images')}, after epoch {last['epoch']:g}"
    ways: Mapping[str, float] = last.get("accuracy") or {}
    for way in list(ways)[-1:]:
        found.append((f"{percent(ways[way])} %", f"accuracy, {way}", of))
    if sets := last.get("auroc"):
        found.append(
            (
                f"{percent(mean(sets.values()))} %",
                "AUROC on validation OOD",
                f"mean of {', '.join(sets) if len(sets) < 4 else f'{len(sets)} sets'}",
            )
        )
    means: Mapping[str, Any] = last.get("geometry") or {}
    if means.get("least_angle") is not None:
        best = f"{means['least_angle_bound']:.1f}° at best ({means['least_angle_bound_name']} bound)"
        found.append((f"{means['least_angle']:.1f}°", "between the two nearest classes", best))
    return found


def facts(run: Run) -> list[tuple[str, str]]:
    """Recipe, time and hardware in short lines."""
    recipe, environment = run.recipe, run.environment
    schedule, training = recipe.schedule, recipe.training
    data = recipe.data.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    model = recipe.model
    head = f"{model.head} head to {model.dim}" if model.head else "no head"
    rows = [
        ("loss", " + ".join(map(_term, recipe.loss))),
        ("training images", ", ".join(f"{key} {_plain(value)}" for key, value in data.items())),
        ("model", f"{model.encoder}, width {model.width}, {head}{', classifier' if model.classifier else ''}"),
        ("length", f"{training.epochs} epochs of {run.steps_per_epoch:,} steps, batches of {training.batch}"),
        ("learning rate", f"{schedule.lr:g}, {schedule.rule}, warm-up of {schedule.warmup_epochs:g} epochs"),
        ("seed", str(recipe.seed)),
        ("precision", training.precision),
        ("hardware", ", ".join(_hardware(environment))),
        ("software", ", ".join(f"{key} {environment[key]}" for key in ("spherood", "torch", "numpy", "python")
                               if key in environment)),
        ("platform", str(environment.get("platform", ""))),
        ("folder", str(run.folder)),
    ]  # fmt: skip
    return [(name, value) for name, value in rows if value]


def _hardware(environment: Mapping[str, Any]) -> list[str]:
    """The device first: "cpu", "2 cores", "1 thread"."""
    counts = {"core": "cores", "thread": "threads", "process": "processes"}
    found = [str(environment["device"])] if "device" in environment else []
    for one, many in counts.items():
        if environment.get(many) is not None:
            found.append(f"{environment[many]} {one if environment[many] == 1 else many}")
    return found


def _term(term: LossTerm) -> str:
    settings = ", ".join(f"{key}={value}" for key, value in term.with_.items())
    when = (
        ""
        if term.begin == 0 and term.end is None
        else f" in epochs {term.begin}..{'' if term.end is None else term.end - 1}"
    )
    return f"{'' if term.times == 1 else f'{term.times:g} × '}{term.use}{f' ({settings})' if settings else ''}{when}"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
