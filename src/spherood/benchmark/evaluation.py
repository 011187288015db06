"""One model under one protocol: every score and every metric from one forward pass per image."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spherood import calibration, metrics
from spherood.benchmark.accuracy import id_accuracy
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.result import MEANS, Evaluation, Interval, Kind, Metrics, Rate, ScoreResult, Scores, Sweep
from spherood.benchmark.scores import Detectors, build_scores, choose, fit_all, reads_layers, score_all, too_large
from spherood.benchmark.sets import Images, Sets, check_subject, find_images, pooled, read_sets
from spherood.benchmark.subject import Subject
from spherood.bundle.manifest import shared_confidence
from spherood.detectors import KNN, Detector
from spherood.errors import DataError
from spherood.features import FeatureStore, Stored
from spherood.sphere import ClassMeans, normalize
from spherood.sphere.geometry import geometry

GEOMETRY_ROWS = 5_000  # at most, of ID and of OOD


@dataclass(frozen=True)
class Evaluated:
    """The evaluation, and what it was computed from: the page shows images, the bundle keeps a detector."""

    evaluation: Evaluation
    subject: Subject
    protocol: Protocol
    classes: tuple[str, ...]
    train: Stored
    validation: Stored | None
    test: Stored  # of the full spectrum: ID test, then the sets under covariate shift
    ood: Mapping[str, Stored]
    detectors: Mapping[str, Detector]  # by score as typed; of a sweep, the one that won
    class_mean: Tensor  # (C, F), unit rows


def evaluate(
    subject: Subject,
    protocol: Protocol,
    data: Path,
    store: FeatureStore,
    scores: Sequence[str],
    *,
    full_spectrum: bool = False,
    without: Collection[str] = (),
) -> Evaluated:
    """Fit every score on the ID training set, calibrate it on the validation set, measure it on the test sets.

    A score that reads what the model lacks is listed as unavailable; an OOD set that is not on disk as absent.
    Errors as `find_images` and `check_subject` raise them.
    """
    candidates = build_scores(scores)
    tried = max(map(len, candidates.values()), default=1)
    images = find_images(protocol, data, full_spectrum=full_spectrum, tried=tried, without=without)
    check_subject(subject, images, protocol)
    sets = read_sets(subject, images, protocol, store, layers=reads_layers(candidates))
    return measure(subject, protocol, images, sets, candidates)


def measure(
    subject: Subject, protocol: Protocol, images: Images, sets: Sets, candidates: Mapping[str, Detectors]
) -> Evaluated:
    """Everything after the features: fits, scores, sweeps, metrics."""
    classes = images.train.classes
    means = ClassMeans(len(classes))
    for outputs, label in sets.train.batches():
        means.add(normalize(outputs.feature), torch.from_numpy(label))
    class_mean = means.direction.float()

    classifier = getattr(subject.model, "classifier", None)
    unavailable = {
        text: f"{reason}, which {subject.name} does not have"
        for text, some in candidates.items()
        if (reason := _lacking(next(iter(some.values())), sets.train, classifier))
    }
    available = {text: some for text, some in candidates.items() if text not in unavailable}
    flat = {one: detector for some in available.values() for one, detector in some.items()}
    fit_all(flat, sets.train, classifier)
    chosen, sweeps = _choose(available, flat, sets)
    scored = score_all(chosen, _named(sets))

    kinds = {name: images.kinds[name] for name in images.kinds if name in sets.ood}
    results = {
        text: _result(text, protocol, scored[text], kinds, list(sets.csid), sweeps.get(text), len(available[text]))
        for text in chosen
    }
    test = pooled([sets.test, *sets.csid.values()], "ID test")
    whole = (one for one in flat.values() if isinstance(one, KNN) and one.per_class is None)
    bank = next((one.bank for one in whole if one.storage == "float32"), None)  # row i is image i of `train`
    evaluation = Evaluation(
        model=subject.name,
        protocol=protocol.name,
        kinds=kinds,
        absent={name: images.kinds[name] for name in images.kinds if name in images.absent},
        accuracy=id_accuracy(sets.train, test, class_mean, bank),
        scores=results,
        unavailable=unavailable,
        geometry=_geometry(test, list(sets.ood.values()), len(classes)),
        setting="fsood" if sets.csid else "ood",
        group=subject.group or subject.name,
        seed=subject.seed,
        resize=subject.preprocess.rule,
        notes=(*too_large(chosen, sets.train), *_notes(protocol, images)),
    )
    return Evaluated(
        evaluation, subject, protocol, classes, sets.train, sets.validation, test, sets.ood, chosen, class_mean
    )


def _lacking(detector: Detector, train: Stored, classifier: torch.nn.Linear | None) -> str:
    """What a score needs and the model lacks; empty where it has all."""
    if getattr(train.outputs, detector.reads) is None:
        return f"reads {detector.reads}"
    return "needs a linear classifier" if detector.needs_classifier and classifier is None else ""


def _choose(
    available: Mapping[str, Detectors], flat: Mapping[str, Detector], sets: Sets
) -> tuple[Detectors, dict[str, Sweep]]:
    """One detector per score as typed, and the sweeps that chose where there were several."""
    swept = {text: some for text, some in available.items() if len(some) > 1}
    sweeps = {}
    if swept and sets.validation is not None:
        seen = {"validation": sets.validation, **{f"validation OOD {n}": one for n, one in sets.validation_ood.items()}}
        scored = score_all({one: flat[one] for some in swept.values() for one in some}, seen)
        sweeps = {text: choose(some, scored, list(sets.validation_ood)) for text, some in swept.items()}
    names = {text: sweeps[text].chosen if text in sweeps else next(iter(some)) for text, some in available.items()}
    return {text: flat[one] for text, one in names.items()}, sweeps


def _named(sets: Sets) -> dict[str, Stored]:
    named = {"test": sets.test}
    if sets.validation is not None:
        named["validation"] = sets.validation
    named |= {f"csid {name}": stored for name, stored in sets.csid.items()}
    return named | {f"ood {name}": stored for name, stored in sets.ood.items()}


def _notes(protocol: Protocol, images: Images) -> list[str]:
    notes = []
    if protocol.id.validation is None:
        notes.append(f"{protocol.name} has no ID validation set: no threshold is calibrated, so there is no bundle.")
    if images.csid:
        notes.append(
            f"Full spectrum: ID is the test set and {', '.join(images.csid)}, pooled by image. False alarms are those "
            "of the ID test set alone, whose kind the promise is about."
        )
    return notes


def _geometry(test: Stored, ood: Sequence[Stored], classes: int) -> dict[str, Any] | None:
    """Of the ID test features, OOD pooled, both thinned evenly: pairs of all rows are counted."""
    known = np.flatnonzero(test.images.label >= 0)
    if len(known) == 0:
        return None
    known = known[np.linspace(0, len(known) - 1, min(len(known), GEOMETRY_ROWS)).astype(np.int64)]
    other = torch.cat([stored.outputs.feature for stored in ood]) if ood else None
    if other is not None:
        other = other[torch.linspace(0, len(other) - 1, min(len(other), GEOMETRY_ROWS)).long()]
    label = torch.from_numpy(test.images.label[known])
    try:
        return asdict(geometry(test.outputs.feature[known], label, ood=other, classes=classes))
    except DataError as error:  # a feature that is zero has no direction
        print(f"no geometry: {error}", file=sys.stderr)
        return None


def _result(
    text: str,
    protocol: Protocol,
    scored: Mapping[str, Scores],
    kinds: Mapping[str, Kind],
    csid: Sequence[str],
    sweep: Sweep | None,
    tried: int,
) -> ScoreResult:
    id_score = np.concatenate([scored["test"], *(scored[f"csid {name}"] for name in csid)])
    ood_score = {name: scored[f"ood {name}"] for name in kinds}
    threshold, held_out, achieved = math.inf, np.empty(0), Rate(math.nan, math.nan, math.nan)
    if "validation" in scored:
        held_out = scored["validation"]
        threshold = calibration.threshold(
            held_out, protocol.false_alarm_rate, shared_confidence(protocol.confidence, tried)
        )
        alarms, tests = int((scored["test"] > threshold).sum()), len(scored["test"])
        achieved = Rate(alarms / tests, *metrics.clopper_pearson(alarms, tests))
    measured = {name: metrics_of(id_score, score, threshold) for name, score in ood_score.items()}
    intervals = {name: _intervals(id_score, score, measured[name]) for name, score in ood_score.items()}
    for kind in MEANS:
        members = [name for name in kinds if kinds[name] == kind]
        if members:
            rows = [astuple(measured[name]) for name in members]
            measured[kind] = Metrics(*(float(mean) for mean in np.mean(rows, axis=0)))
            intervals[kind] = {"auroc": metrics.auroc_interval(id_score, [ood_score[name] for name in members])}
    return ScoreResult(
        name=text,
        held_out_score=held_out,
        id_score=id_score,
        ood_score=ood_score,
        metrics=measured,
        threshold=threshold,
        false_alarm_rate=protocol.false_alarm_rate,
        confidence=protocol.confidence,
        achieved=achieved,
        intervals=intervals,
        sweep=sweep,
    )


def metrics_of(id_score: Scores, ood_score: Scores, threshold: float) -> Metrics:
    """Every metric of ID scores (N,) against those of one OOD set (M,); an infinite threshold is none."""
    return Metrics(
        auroc=metrics.auroc(id_score, ood_score),
        aupr_in=metrics.aupr_in(id_score, ood_score),
        aupr_out=metrics.aupr_out(id_score, ood_score),
        fpr_ood_at_id95=metrics.fpr_ood_at_id95(id_score, ood_score),
        fpr_id_at_ood95=metrics.fpr_id_at_ood95(id_score, ood_score),
        caught=float((ood_score > threshold).mean()) if math.isfinite(threshold) else math.nan,
        average_precision=metrics.average_precision(id_score, ood_score),
        fpr_ood_at_id95_cider=metrics.fpr_ood_at_id95(id_score, ood_score, rule="cider"),
        fpr_id_at_ood95_openood=metrics.fpr_id_at_ood95(id_score, ood_score, rule="openood"),
    )


def _intervals(id_score: Scores, ood_score: Scores, measured: Metrics) -> dict[str, Interval]:
    """AUROC by DeLong; rates by Clopper-Pearson, at the threshold that was found: its own chance is not counted."""

    def rate(value: float, trials: int) -> Interval:
        return metrics.clopper_pearson(round(value * trials), trials)

    return {
        "auroc": metrics.auroc_interval(id_score, [ood_score]),
        "fpr_ood_at_id95": rate(measured.fpr_ood_at_id95, len(ood_score)),
        "fpr_id_at_ood95": rate(measured.fpr_id_at_ood95, len(id_score)),
    }
