"""A guard from paths: everything that `spherood fit` does, short of printing it.

Paths are checked, then read through the encoder; parts are divided, rid of copies, fitted, calibrated and measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from spherood import metrics, naming
from spherood.bundle.bundle import Bundle
from spherood.bundle.expectation import measure
from spherood.bundle.fit import Fitted, coreset, defaults, fit, parts_of
from spherood.bundle.hygiene import check_unseen, copies_in_ood, without_copies
from spherood.bundle.manifest import Licences, Promise
from spherood.bundle.reading import Reader, check
from spherood.bundle.rows import Rows
from spherood.calibration import exceedances_or_refuse
from spherood.errors import ConfigError, ShapeError
from spherood.metrics.fractions import check_fraction

THUMBNAIL = 48  # pixels


@dataclass(frozen=True)
class Wanted:
    """What goes in, and what is to be promised; the command line's help explains each."""

    known: Path
    held_out: Path | None = None
    test: Path | None = None
    ood: Mapping[str, Path] = field(default_factory=dict)
    validation_ood: Mapping[str, Path] = field(default_factory=dict)
    scores: Sequence[str] | None = None
    false_alarm_rate: float = 0.05
    confidence: float = 0.95
    by_class: bool = False
    review_rate: float | None = None
    group_by: str | None = None
    labels: Path | None = None
    coreset: int | None = None
    half: bool = False
    thumbnails: bool = False
    licences: Licences = field(default_factory=Licences)
    seed: int = 0

    @property
    def paths(self) -> list[Path]:
        """Everything that is read."""
        single = [path for path in (self.known, self.held_out, self.test) if path is not None]
        return [*single, *self.ood.values(), *self.validation_ood.values()]


@dataclass(frozen=True)
class Made:
    """The bundle, and what it was made from: the page shows images."""

    bundle: Bundle
    fitted: Fitted
    ood: Mapping[str, Rows]
    test: Rows | None


def make(wanted: Wanted, reader: Reader) -> Made:
    """The guard. Errors as of `Reader.read`, `parts_of` and `fit`; a wrong setting or path is told before any work."""
    promise = _promise(wanted)
    encoder = reader.encoder
    for path in wanted.paths:
        check(path, encoder)
    asked = [naming.build("detectors", *naming.parse_spec(text)) for text in wanted.scores or ()]
    reader = replace(reader, layers=any(one.reads == "layers" for one in asked))
    known, group = reader.read(wanted.known, "known", labels=wanted.labels, group_by=wanted.group_by)

    def further(path: Path, name: str) -> Rows:
        return _beside(known, reader.read(path, name)[0], path)

    held_out = None if wanted.held_out is None else further(wanted.held_out, "held-out")
    candidates = wanted.scores or defaults(known)
    parts = parts_of(
        known,
        held_out,
        several=len(candidates) > 1,
        false_alarm_rate=wanted.false_alarm_rate,
        confidence=promise.each,
        group=group,
        seed=wanted.seed,
    )
    unseen = check_unseen(parts.calibrate, encoder, reader.root)
    parts, notes = without_copies(parts)
    notes = unseen + notes
    exceedances_or_refuse(len(parts.calibrate), wanted.false_alarm_rate, promise.each)
    validation_ood = {name: further(path, name) for name, path in wanted.validation_ood.items()}
    ood = {name: further(path, name) for name, path in wanted.ood.items()}
    test = None if wanted.test is None else further(wanted.test, "test")
    whole = parts.fit
    if wanted.coreset is not None:
        parts = coreset(parts, wanted.coreset, wanted.seed)
    classifier = getattr(None if encoder is None else encoder.model, "classifier", None)
    classifier = classifier if isinstance(classifier, nn.Linear) else None
    fitted = fit(
        parts,
        candidates,
        validation_ood=validation_ood,
        classifier=classifier,
        false_alarm_rate=wanted.false_alarm_rate,
        confidence=wanted.confidence,
        by_class=wanted.by_class,
        review_rate=wanted.review_rate,
        half=wanted.half,
    )
    if wanted.group_by is not None:
        notes.append(
            "Groups were kept in one part. Images of one group are alike, and the confidence counts them as "
            "independent: it is too high for new groups, the more so the fewer there are."
        )
    notes += copies_in_ood(parts, ood)
    if wanted.half or wanted.coreset is not None:
        notes.append(_cost(fitted, whole, classifier, test or parts.calibrate, ood))
    bundle = Bundle.of(
        fitted,
        encoder,
        half=wanted.half,
        thumbnails=THUMBNAIL if wanted.thumbnails else None,
        licences=wanted.licences,
        provenance=_provenance(wanted, fitted),
    )
    results = measure(bundle, fitted, ood, test).model_copy(update={"notes": tuple(notes)})
    return Made(replace(bundle, results=results), fitted, ood, test)


def _beside(known: Rows, rows: Rows, path: Path) -> Rows:
    """The rows of `path`; ShapeError where they are not as wide as the known ones."""
    width, expected = rows.outputs.feature.shape[1], known.outputs.feature.shape[1]
    if width != expected:
        raise ShapeError(f"{path}: features have {width} columns, the known ones {expected}. Use one encoder for both.")
    return rows


def _cost(fitted: Fitted, whole: Rows, classifier: nn.Linear | None, ids: Rows, ood: Mapping[str, Rows]) -> str:
    """What a smaller bank costs, in AUROC: a sentence."""
    if not ood or fitted.score is None:
        return "What the smaller bank costs was not measured: give --ood sources."
    full = naming.build("detectors", fitted.score.use, fitted.score.with_).fit(whole.batches(), classifier=classifier)
    told = []
    for name, rows in ood.items():
        before, after = (metrics.auroc(ids.scored(one), rows.scored(one)) for one in (full, fitted.detector))
        told.append(f"{name} {100 * before:.2f} to {100 * after:.2f}")
    return f"The smaller bank of {len(fitted.parts.fit):,} rows changes the AUROC: {', '.join(told)}."


def _promise(wanted: Wanted) -> Promise:
    rate = check_fraction("spherood fit", "false_alarm_rate", wanted.false_alarm_rate)
    confidence = check_fraction("spherood fit", "confidence", wanted.confidence)
    review = wanted.review_rate
    if review is not None and check_fraction("spherood fit", "review_rate", review) <= rate:
        raise ConfigError(
            f"spherood fit: the review rate {review:g} must be larger than the false-alarm rate {rate:g}."
        )
    return Promise(false_alarm_rate=rate, confidence=confidence, held_out=1, review_rate=review)


def _provenance(wanted: Wanted, fitted: Fitted) -> dict[str, str]:
    parts, choice = fitted.parts, fitted.choice
    sizes = f"fit {len(parts.fit):,}, choose {len(parts.choose or ()):,}, calibrate {len(parts.calibrate):,}"
    told = {"known": str(wanted.known), "parts": f"{sizes} (seed {wanted.seed})"}
    if wanted.held_out is not None:
        told["held-out"] = str(wanted.held_out)
    if wanted.group_by is not None:
        told["groups"] = wanted.group_by
    if choice.auroc:
        found = ", ".join(f"{name} {value:.4f}" for name, value in choice.auroc.items())
        told["score chosen by"] = f"AUROC against {choice.against}: {found}"
    return told
