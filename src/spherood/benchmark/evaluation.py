"""One model under one protocol: every score and every metric from one forward pass per image."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spherood import calibration, metrics, naming
from spherood.benchmark.accuracy import id_accuracy
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.result import Evaluation, Kind, Metrics, Rate, ScoreResult, Scores
from spherood.data import ImageSet, Preprocess
from spherood.detectors import Detector
from spherood.errors import DataError
from spherood.features import FeatureStore, Stored
from spherood.models import Model
from spherood.progress import progress
from spherood.sphere import ClassMeans, normalize
from spherood.sphere.geometry import geometry

GEOMETRY_ROWS = 5_000  # at most, of ID and of OOD
TILE = 2048  # rows scored between two updates of the progress bar


@dataclass(frozen=True)
class Subject:
    """The model that is evaluated: its name in the table, the names of its classes, and how its input is made."""

    name: str
    model: Model
    preprocess: Preprocess
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Evaluated:
    """The evaluation, and what it was computed from: the page shows images, the bundle keeps a detector."""

    evaluation: Evaluation
    subject: Subject
    protocol: Protocol
    train: Stored
    validation: Stored
    test: Stored
    ood: Mapping[str, Stored]
    detectors: Mapping[str, Detector]
    class_mean: Tensor  # (C, F), unit rows


def build_scores(scores: Sequence[str]) -> dict[str, Detector]:
    """Unfitted detectors by the text that names them (`knn:k=100`); ConfigError for an unknown name or setting."""
    return {text: naming.build("detectors", *naming.parse_spec(text)) for text in scores}


def evaluate(subject: Subject, protocol: Protocol, data: Path, store: FeatureStore, scores: Sequence[str]) -> Evaluated:
    """Fit every score on the ID training set, calibrate it on the validation set, measure it on the test sets.

    A score that reads what the model lacks is listed as unavailable; an OOD set that is not on disk as absent.
    DataError where an ID set is absent or has other classes than the model.
    """
    detectors = build_scores(scores)
    train, validation, test = (
        source.load(data, name)
        for name, source in (
            ("ID train", protocol.id.train),
            ("ID validation", protocol.id.validation),
            ("ID test", protocol.id.test),
        )
    )
    train.check_classes("evaluation")
    if train.classes != subject.classes:
        raise DataError(
            f"{protocol.name}: the model knows {len(subject.classes)} classes ({_few(subject.classes)}), the ID set of "
            f"this protocol has {len(train.classes)} ({_few(train.classes)}). Choose another protocol."
        )
    _check_labels(test, train.classes, protocol.name)
    calibration.exceedances_or_refuse(len(validation), protocol.false_alarm_rate, protocol.confidence)
    ood = {name: source.load(data, name) for name, (_, source) in protocol.ood.items() if source.present(data)}
    kinds = {name: kind for name, (kind, _) in protocol.ood.items()}

    def read(images: ImageSet) -> Stored:
        stored = store.read(subject.model, subject.preprocess, images)
        for name, why in list(stored.unreadable.items())[:5]:
            print(f"skipped: {name}: {why}", file=sys.stderr)
        if stored.unreadable:
            print(f"{images.name}: skipped {len(stored.unreadable)} unreadable images.", file=sys.stderr)
        return stored

    train_, validation_, test_ = read(train), read(validation), read(test)
    ood_ = {name: read(images) for name, images in ood.items()}
    train_.images.check_classes("evaluation")  # again: all images of a class may have been unreadable
    means = ClassMeans(len(train.classes))
    means.add(normalize(train_.outputs.feature), _labels(train_))
    class_mean = means.direction.float()

    results: dict[str, ScoreResult] = {}
    unavailable: dict[str, str] = {}
    for text, detector in detectors.items():
        if getattr(train_.outputs, detector.reads) is None:
            unavailable[text] = f"reads {detector.reads}, which {subject.name} does not have"
            continue
        detector.fit(train_.outputs, _labels(train_), subject.model.classifier)
        sets = {"validation": validation_, "test": test_, **{f"ood {name}": stored for name, stored in ood_.items()}}
        scored = _score_all(text, detector, sets)
        results[text] = _result(text, protocol, scored, {name: kinds[name] for name in ood_})
    evaluation = Evaluation(
        model=subject.name,
        protocol=protocol.name,
        kinds={name: kinds[name] for name in ood_},
        absent={name: kind for name, kind in kinds.items() if name not in ood_},
        accuracy=id_accuracy(train_, test_, class_mean),
        scores=results,
        unavailable=unavailable,
        geometry=_geometry(test_, list(ood_.values()), len(train.classes)),
    )
    available = {text: detector for text, detector in detectors.items() if text in results}
    return Evaluated(evaluation, subject, protocol, train_, validation_, test_, ood_, available, class_mean)


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


def _score_all(text: str, detector: Detector, sets: Mapping[str, Stored]) -> dict[str, Scores]:
    scored = {}
    with progress(f"score {text}", sum(len(stored.images) for stored in sets.values())) as advance:
        for name, stored in sets.items():
            parts = []
            for start in range(0, len(stored.images), TILE):
                parts.append(detector.score(stored.outputs.rows(start, start + TILE)).double().numpy())
                advance(len(parts[-1]))
            scored[name] = np.concatenate(parts)
    return scored


def _result(text: str, protocol: Protocol, scored: Mapping[str, Scores], kinds: Mapping[str, Kind]) -> ScoreResult:
    held_out, id_score = scored["validation"], scored["test"]
    ood_score = {name: scored[f"ood {name}"] for name in kinds}
    threshold = calibration.threshold(held_out, protocol.false_alarm_rate, protocol.confidence)
    alarms = int((id_score > threshold).sum())
    measured = {name: _metrics(id_score, score, threshold) for name, score in ood_score.items()}
    for kind in ("near", "far"):
        members = [astuple(measured[name]) for name in kinds if kinds[name] == kind]
        if members:
            measured[kind] = Metrics(*(float(mean) for mean in np.mean(members, axis=0)))
    return ScoreResult(
        name=text,
        held_out_score=held_out,
        id_score=id_score,
        ood_score=ood_score,
        metrics=measured,
        threshold=threshold,
        false_alarm_rate=protocol.false_alarm_rate,
        confidence=protocol.confidence,
        achieved=Rate(alarms / len(id_score), *metrics.clopper_pearson(alarms, len(id_score))),
    )


def _metrics(id_score: Scores, ood_score: Scores, threshold: float) -> Metrics:
    return Metrics(
        auroc=metrics.auroc(id_score, ood_score),
        aupr_in=metrics.aupr_in(id_score, ood_score),
        aupr_out=metrics.aupr_out(id_score, ood_score),
        fpr_ood_at_id95=metrics.fpr_ood_at_id95(id_score, ood_score),
        fpr_id_at_ood95=metrics.fpr_id_at_ood95(id_score, ood_score),
        caught=float((ood_score > threshold).mean()),
    )


def _check_labels(test: ImageSet, classes: Sequence[str], protocol: str) -> None:
    """DataError where a label means another class: a test folder that lacks one numbers the others anew."""
    for label in np.unique(test.label[test.label >= 0]):  # a class that is named by its number is taken as it is
        expected = classes[label] if label < len(classes) else "unknown"
        if test.classes[label] not in (expected, str(label)) or label >= len(classes):
            raise DataError(
                f"{protocol}: class {label} is '{test.classes[label]}' in the ID test set and '{expected}' in the ID "
                "training set. Give both the same folders, an empty one where there is no image."
            )


def _labels(stored: Stored) -> Tensor:
    return torch.from_numpy(stored.images.label)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
