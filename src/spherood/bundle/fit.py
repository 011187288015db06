"""A guard for a model that somebody already has: three disjoint parts, a score chosen, a threshold with a promise.

Rows are divided at random into a part to fit on, a part to choose the score by and a part to calibrate with; whole
groups (videos, patients, sites) go into one part. Held-out rows that are given apart all calibrate.

Choosing without OOD: a fifth of the classes is hidden, in turn; every candidate is fitted on the rest and must tell the
hidden classes from the others (mean AUROC on the part to choose by). That shows a score that is broken on these
features. It ranks good ones badly - an encoder trained on a class shows it clearly to any of them - so the first
candidate within MARGIN of the best is taken, and the default order begins with the combination. With validation OOD the
largest AUROC against it wins.
Shapes: N rows, C classes, n held-out rows. Scores: higher = more OOD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood import calibration, metrics, naming
from spherood.bundle.decision import decide
from spherood.bundle.manifest import Promise, Score
from spherood.bundle.rows import Rows
from spherood.calibration.exceedances import least_rate
from spherood.data.parts import split_parts
from spherood.detectors import KNN, MSP, Detector, Scorer
from spherood.errors import CalibrationError, ConfigError, DataError
from spherood.metrics.scores import Scores
from spherood.progress import progress
from spherood.sphere import ClassMeans, normalize

LABELLED = ("combined", "knn:k=10", "mahalanobis:unit=true", "mahalanobis")
UNLABELLED = ("knn:k=10",)
SHARES = (0.55, 0.15, 0.3)  # fit, choose, calibrate: a promise lives from the last, k-NN hardly notices the first
MARGIN = 0.02  # of AUROC
FOLDS = 5
FIT_ROWS, CHOOSE_ROWS = 20_000, 5_000  # at most, while choosing

Candidate = str | Any  # a score as typed, a Detector, or a fitted object of another library


@dataclass(frozen=True)
class Parts:
    """What each part holds; `choose` is None where there was nothing to choose."""

    fit: Rows
    choose: Rows | None
    calibrate: Rows


@dataclass(frozen=True)
class Choice:
    """Which score, and by what: AUROC of each candidate against hidden classes, or against validation OOD."""

    chosen: str
    auroc: Mapping[str, float] = field(default_factory=dict)
    against: str = ""


@dataclass(frozen=True)
class Fitted:
    """A detector with what calibrates it; `msp`: held-out scores of maximum softmax, given a classifier."""

    parts: Parts
    choice: Choice
    score: Score | None
    detector: Detector
    class_mean: Tensor | None
    held_out_score: Scores
    held_out_class: NDArray[np.int64] | None
    promise: Promise
    msp: Scores | None


def defaults(known: Rows) -> tuple[str, ...]:
    """Candidates where the user names none: with fewer than two classes there is none to hide."""
    return UNLABELLED if len(known.classes) < 2 else LABELLED


def parts_of(
    known: Rows,
    held_out: Rows | None,
    *,
    several: bool,
    false_alarm_rate: float,
    confidence: float,
    group: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Parts:
    """Three disjoint parts; of two, where nothing is to be chosen or held-out rows come apart.

    CalibrationError, with the numbers, where the part that calibrates would be too small for the promise.
    """
    fit_share, choose_share, calibrate_share = SHARES
    n = len(known)
    if held_out is not None:
        calibration.exceedances_or_refuse(len(held_out), false_alarm_rate, confidence)
        if not several:
            return Parts(known, None, held_out)
        fit, choose = split_parts(known.label, n, (0.8, 0.2), group=group, seed=seed)
        return Parts(known.subset(fit), known.subset(choose), held_out)

    least = calibration.least_held_out(false_alarm_rate, confidence)
    would = math.floor(calibrate_share * n)
    if would < least:
        rate = math.ceil(1000 * least_rate(max(1, would), confidence)) / 1000
        lower = f", or ask for a rate of {rate:g} or more" if would and rate < 1 else ""
        raise CalibrationError(
            f"{known.name}: of {n:,} rows {would:,} ({100 * calibrate_share:.0f} %) would calibrate, and a false-alarm "
            f"rate of {false_alarm_rate:g} with confidence {confidence:g} needs {least:,}. Give "
            f"{math.ceil(least / calibrate_share):,} rows or more, or held-out ones apart{lower}."
        )
    # The calibrating part is drawn regardless of labels: held-out and new images are then exchangeable exactly.
    rest, calibrate = split_parts(None, n, (1 - calibrate_share, calibrate_share), group=group, seed=seed)
    left = known.subset(rest)
    if not several:
        return Parts(left, None, known.subset(calibrate))
    shares = (fit_share / (1 - calibrate_share), choose_share / (1 - calibrate_share))
    own = None if group is None else group[rest]
    fit, choose = split_parts(left.label, len(left), shares, group=own, seed=seed)
    return Parts(left.subset(fit), left.subset(choose), known.subset(calibrate))


def fit(
    parts: Parts,
    candidates: Sequence[Candidate],
    *,
    validation_ood: Mapping[str, Rows] | None = None,
    classifier: nn.Linear | None = None,
    false_alarm_rate: float = 0.05,
    confidence: float = 0.95,
    by_class: bool = False,
    review_rate: float | None = None,
    half: bool = False,
) -> Fitted:
    """Choose, fit, calibrate. half: the bank of a k-NN is rounded to half precision first, so that calibration goes
    through what ships. ConfigError for candidates that cannot be compared; errors of the scores as they are.
    """
    built = {_name(one): _built(one) for one in candidates}
    choice = _choose(built, parts, validation_ood or {}, classifier)
    detector = built[choice.chosen]
    with progress("fitting and calibrating", 2, "steps") as advance:
        detector.fit(parts.fit.batches(), classifier=classifier)
        if half:
            halve(detector)
        advance(1)
        held_out_score = parts.calibrate.scored(detector)
        advance(1)
    mean = class_mean(parts.fit)
    if by_class and mean is None:
        raise ConfigError("a threshold per class needs labels. Label the images, or leave --by-class out.")
    predicted = None
    if by_class and mean is not None:
        nearest: NDArray[np.int64] = (normalize(parts.calibrate.outputs.feature).float() @ mean.T).argmax(dim=1).numpy()
        predicted = nearest
    promise = Promise(
        false_alarm_rate=false_alarm_rate,
        confidence=confidence,
        held_out=len(held_out_score),
        by_class=by_class,
        review_rate=review_rate,
    )
    rule = decide(promise, held_out_score, predicted)
    if isinstance(rule.reject, calibration.GroupThresholds):
        names = tuple(parts.fit.classes[row] for row in range(len(parts.fit.classes)) if row not in rule.reject.own)
        promise = promise.model_copy(update={"pooled": names})
    return Fitted(
        parts=parts,
        choice=choice,
        score=_score(choice.chosen, candidates),
        detector=detector,
        class_mean=mean,
        held_out_score=held_out_score,
        held_out_class=predicted,
        promise=promise,
        msp=None if parts.calibrate.outputs.logits is None else parts.calibrate.scored(MSP()),
    )


def class_mean(rows: Rows) -> Tensor | None:
    """Unit mean direction of each class, (C, F); None without labels. DataError for a class without a row."""
    if rows.label is None:
        return None
    means = ClassMeans(len(rows.classes))
    for outputs, label in rows.batches():
        means.add(normalize(outputs.feature), torch.from_numpy(label))
    if means.absent:
        raise DataError(
            f"{rows.name}: no row of class '{rows.classes[means.absent[0]]}' is left to fit on. Give more of them."
        )
    return means.direction.float()


def coreset(parts: Parts, size: int, seed: int = 0) -> Parts:
    """The part to fit on with `size` rows at random, every class in proportion; ConfigError where it has no more."""
    n = len(parts.fit)
    if not 0 < size < n:
        raise ConfigError(f"a coreset of {size:,} rows out of {n:,}: ask for fewer than there are, and at least one.")
    kept, _ = split_parts(parts.fit.label, n, (size / n, 1 - size / n), seed=seed)
    return Parts(parts.fit.subset(kept), parts.choose, parts.calibrate)


def halve(detector: Detector) -> None:
    """Round the bank of every k-NN in it to half precision, in place."""
    for part in detector.modules():
        if isinstance(part, KNN):
            part.bank = part.bank.half().to(part.bank.dtype)


def _choose(
    built: Mapping[str, Detector], parts: Parts, ood: Mapping[str, Rows], classifier: nn.Linear | None
) -> Choice:
    names = list(built)
    if len(names) == 1 or parts.choose is None:
        return Choice(names[0])
    if ood:
        against = " and ".join(ood)
        with progress("choosing the score", len(names), "scores") as advance:
            auroc = {}
            for name, detector in built.items():
                detector.fit(_thinned(parts.fit, FIT_ROWS).batches(), classifier=classifier)
                other = np.concatenate([rows.scored(detector) for rows in ood.values()])
                auroc[name] = metrics.auroc(parts.choose.scored(detector), other)
                advance(1)
        return Choice(max(auroc, key=lambda name: auroc[name]), auroc, against)
    if parts.fit.label is None or len(parts.fit.classes) < 2:
        raise ConfigError(
            f"{', '.join(names)}: without OOD a score is chosen by hiding classes, and there are no two classes. Name "
            "one score, give validation OOD, or label the rows."
        )
    if fitted := [
        name
        for name, one in built.items()
        if one.reads not in ("feature", "layers") or one.needs_classifier or isinstance(one, Scorer)
    ]:
        raise ConfigError(
            f"{fitted[0]}: knows the classes that would be hidden from it, so it cannot be chosen without OOD. Give "
            "validation OOD, or name it alone."
        )
    auroc = _hidden_classes(built, parts.fit, parts.choose)
    best = max(auroc.values())
    chosen = next(name for name in names if auroc[name] >= best - MARGIN)
    return Choice(chosen, auroc, "hidden classes")


def _hidden_classes(built: Mapping[str, Detector], fit: Rows, choose: Rows) -> dict[str, float]:
    """Mean AUROC over the folds."""
    fit, choose = _thinned(fit, FIT_ROWS), _thinned(choose, CHOOSE_ROWS)
    assert fit.label is not None
    assert choose.label is not None
    classes = len(fit.classes)
    folds = np.array_split(np.random.default_rng(0).permutation(classes), min(FOLDS, classes))
    found: dict[str, list[float]] = {name: [] for name in built}
    with progress("choosing the score", len(folds) * len(built), "fits") as advance:
        for hidden in folds:
            shown = np.setdiff1d(np.unique(fit.label), hidden)
            anew = np.full(classes, -1, dtype=np.int64)
            anew[shown] = np.arange(len(shown))
            rows = np.flatnonzero(anew[fit.label] >= 0)
            apart = np.isin(choose.label, hidden)
            if not (len(rows) and apart.any() and (~apart).any()):
                advance(len(built))
                continue
            part = fit.subset(rows)
            batches = [(outputs, anew[label]) for outputs, label in part.batches() if label is not None]
            for name, detector in built.items():
                detector.fit(batches)
                score = choose.scored(detector)
                found[name].append(metrics.auroc(score[~apart], score[apart]))
                advance(1)
    if not all(found.values()):
        raise DataError(f"{choose.name}: too few images of each class to choose a score by. Name one score.")
    return {name: float(np.mean(some)) for name, some in found.items()}


def _thinned(rows: Rows, most: int) -> Rows:
    if len(rows) <= most:
        return rows
    return rows.subset(np.sort(np.random.default_rng(0).permutation(len(rows))[:most]))


def _name(candidate: Candidate) -> str:
    return candidate if isinstance(candidate, str) else type(candidate).__name__


def _built(candidate: Candidate) -> Detector:
    if isinstance(candidate, Detector):
        return candidate
    if isinstance(candidate, str):
        made: Detector = naming.build("detectors", *naming.parse_spec(candidate))
        return made
    return Scorer(candidate)


def _score(chosen: str, candidates: Sequence[Candidate]) -> Score | None:
    if chosen not in candidates:
        return None
    use, with_ = naming.parse_spec(chosen)
    return Score.model_validate({"use": use, "with": with_})
