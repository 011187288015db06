"""The page's content from evaluations: what a reader of one run, or of several side by side, wants to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from spherood.benchmark.evaluation import Evaluated
from spherood.report.content import Content
from spherood.report.examples import id_like_ood, ood_like_id


def describe(
    evaluated: Sequence[Evaluated],
    chosen: tuple[str, str],
    logs: Mapping[str, Sequence[Mapping[str, Any]]],
    next_steps: Sequence[str],
) -> Content:
    """`chosen`: (model, score) in the bundle. `logs`: model -> rows of its metrics.jsonl."""
    model, score = chosen
    shipped = next(one for one in evaluated if one.evaluation.model == model)
    result, protocol = shipped.evaluation.scores[score], shipped.protocol
    sets = ", ".join(f"{name} ({len(stored.images):,})" for name, stored in shipped.ood.items())
    parts = [one for one in (shipped.train, shipped.validation, shipped.test, *shipped.ood.values()) if one]
    unreadable = sum(len(stored.unreadable) for stored in parts)
    return Content(
        title=" · ".join(one.evaluation.model for one in evaluated),
        lead=protocol.about,
        facts=[
            ("protocol", f"{protocol.name}, version {protocol.version}"),
            ("classes", ", ".join(shipped.classes[:20]) + (" …" if len(shipped.classes) > 20 else "")),
            ("ID training images", f"{len(shipped.train.images):,}"),
            ("ID images that calibrate", f"{len(result.held_out_score):,}"),
            ("ID test images", f"{len(shipped.test.images):,}"),
            ("OOD images", sets),
            ("resize", shipped.evaluation.resize),
            ("unreadable images, skipped", f"{unreadable:,}"),
            ("in the bundle", f"{model}, {result.spec}"),
            *(("note", note) for note in shipped.evaluation.notes),
            *_geometry(evaluated),
        ],
        evaluations=[one.evaluation for one in evaluated],
        chosen=chosen,
        ood_like_id=ood_like_id(shipped, score),
        id_like_ood=id_like_ood(shipped, score),
        history={
            name: [{key: float(row[key]) for key in ("epoch", "loss")} for row in rows] for name, rows in logs.items()
        },
        next_steps=next_steps,
    )


def _geometry(evaluated: Sequence[Evaluated]) -> list[tuple[str, str]]:
    """How each model's ID test features lie on the sphere, in words."""
    facts = []
    for one in evaluated:
        found = one.evaluation.geometry
        if found is None or found["least_angle"] is None:
            continue
        apart = f"class directions at least {found['least_angle']:.0f}° apart"
        bound = f"{found['least_angle_bound']:.0f}° at best ({found['least_angle_bound_name']} bound)"
        told = "" if found["separability"] is None else f"; OOD {found['separability']:.1f}° farther from them than ID"
        within = f"images {found['compactness']:.1f}° from their class's direction on average"
        facts.append((f"geometry, {one.evaluation.model}", f"{within}; {apart}, {bound}{told}"))
    return facts
