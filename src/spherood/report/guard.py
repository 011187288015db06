"""The page of a guard: what it promises, what it caught, where it errs. An evaluation's page with other content.

Where no ID test images were given, the ID side is the held-out images: those set the threshold, so the false alarms
among them test nothing, and the page says so.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from spherood import calibration, metrics
from spherood.benchmark.evaluation import metrics_of
from spherood.benchmark.result import Evaluation, Rate, ScoreResult, Scores
from spherood.bundle.card import promised
from spherood.bundle.make import Made
from spherood.bundle.rows import Rows
from spherood.detectors import MSP, Detector
from spherood.errors import ConfigError
from spherood.report.content import Content, Example
from spherood.report.examples import SHOWN
from spherood.sphere import nearest, normalize


def why_no_page(made: Made) -> str:
    """The reason why there is nothing to draw; empty where there is something."""
    if not made.ood:
        return "no OOD source was given to draw beside the known: --ood NAME=PATH"
    if made.bundle.promise.by_class:
        return "thresholds go by class, and the page draws one"
    return ""


def describe_guard(made: Made, name: str, next_steps: Sequence[str]) -> Content:
    """Content of the page; ConfigError where `why_no_page` has a reason."""
    if reason := why_no_page(made):
        raise ConfigError(f"{name}: no page: {reason}.")
    bundle, fitted, chosen = made.bundle, made.fitted, made.fitted.choice.chosen
    ids = made.test or fitted.parts.calibrate
    results = {chosen: _result(chosen, made, ids, fitted.held_out_score, bundle.threshold(), fitted.detector)}
    if fitted.msp is not None and chosen != "msp":
        at = calibration.threshold(fitted.msp, bundle.promise.false_alarm_rate, bundle.promise.each)
        results["msp"] = _result("msp", made, ids, fitted.msp, at, MSP())
    evaluation = Evaluation(
        model=name,
        protocol="its own images",
        kinds=dict.fromkeys(made.ood, "extra"),
        absent={},
        accuracy={},
        scores=results,
        unavailable={},
        notes=bundle.results.notes,
    )
    tested = made.test is not None
    return Content(
        title=f"Guard {name}",
        lead=" ".join(promised(bundle.promise)),
        facts=[
            *((key, str(value)) for key, value in bundle.provenance.items()),
            ("classes", ", ".join(bundle.classes[:20]) or "not labelled"),
            ("OOD sources", ", ".join(f"{source} ({len(rows):,})" for source, rows in made.ood.items())),
            ("images", bundle.preprocess.rule if bundle.preprocess else "none: it reads features"),
            ("licence of the data", bundle.licences.data),
            ("licence of the weights", bundle.licences.weights),
            *(("note", note) for note in bundle.results.notes),
        ],
        evaluations=[evaluation],
        chosen=(name, chosen),
        ood_like_id=_examples(made, [(s, source, row) for source, scores in results[chosen].ood_score.items()
                                     for row, s in enumerate(scores)]),
        id_like_ood=_examples(made, [(-s, None, row) for row, s in enumerate(results[chosen].id_score)]),
        history={},
        next_steps=next_steps,
        expected=None if tested else calibration.expected_rate(
            bundle.promise.held_out,
            calibration.exceedances_or_refuse(
                bundle.promise.held_out, bundle.promise.false_alarm_rate, bundle.promise.each
            ),
        ),
        id_images="ID test images" if tested else "the held-out images that set the threshold (no test)",
    )  # fmt: skip


def _result(name: str, made: Made, ids: Rows, held_out: Scores, threshold: float, detector: Detector) -> ScoreResult:
    id_score, ood_score = ids.scored(detector), {key: rows.scored(detector) for key, rows in made.ood.items()}
    achieved = Rate(math.nan, math.nan, math.nan)
    if made.test is not None:
        alarms = int((id_score > threshold).sum())
        achieved = Rate(alarms / len(ids), *metrics.clopper_pearson(alarms, len(ids)))
    promise = made.bundle.promise
    measured = {key: metrics_of(id_score, score, threshold) for key, score in ood_score.items()}
    return ScoreResult(
        name=name,
        held_out_score=held_out,
        id_score=id_score,
        ood_score=ood_score,
        metrics=measured,
        threshold=threshold,
        false_alarm_rate=promise.false_alarm_rate,
        confidence=promise.confidence,
        achieved=achieved,
    )


def _examples(made: Made, ranked: list[tuple[float, str | None, int]]) -> list[Example]:
    """The first 12 by (key, OOD source or None for ID, row), beside the nearest fitted image; none without images."""
    fit, ids = made.fitted.parts.fit, made.test or made.fitted.parts.calibrate
    chosen = [(made.ood[source] if source else ids, source, row) for _, source, row in sorted(ranked, key=_key)[:SHOWN]]
    examples = []
    for rows, source, row in chosen:
        if rows.images is None or fit.images is None:
            return []
        one = rows.outputs.rows(row, row + 1)
        score = float(made.fitted.detector.score(one)[0])
        _, near = nearest(normalize(one.feature), normalize(fit.outputs.feature), 1)
        neighbour = int(near[0, 0])
        examples.append(
            Example(
                pixels=np.asarray(rows.images.read(row)),
                caption=(f"{source}: " if source else "") + rows.names[row],
                score=score,
                p_value=float(calibration.p_values(made.fitted.held_out_score, [score])[0]),
                nearest_pixels=np.asarray(fit.images.read(neighbour)),
                nearest_caption=fit.names[neighbour],
            )
        )
    return examples


def _key(one: tuple[float, str | None, int]) -> float:
    return one[0]
