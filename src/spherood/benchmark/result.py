"""What an evaluation found out, as plain numbers: table, page, comparison and JSON all read these records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["near", "far", "extra"]  # extra: measured and listed, in no mean
MEANS: tuple[Kind, ...] = ("near", "far")
Setting = Literal["ood", "fsood"]  # fsood: full spectrum, ID under covariate shift is ID
Scores = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Metrics:
    """ID test set against one OOD set (or the mean over sets of one kind), all fractions in [0, 1].

    NaN where it was not measured: `caught` without a calibrated threshold. The last three are as the references compute
    them, for tables beside published numbers.
    """

    auroc: float
    aupr_in: float  # ID positive, trapezoids
    aupr_out: float  # OOD positive, trapezoids
    fpr_ood_at_id95: float  # OOD let through while 95 % of ID is kept (CIDER's papers)
    fpr_id_at_ood95: float  # ID rejected while 95 % of OOD is caught (OpenOOD v1.5)
    caught: float  # OOD above the calibrated threshold
    average_precision: float = math.nan  # ID positive, steps (CIDER's AUPR)
    fpr_ood_at_id95_cider: float = math.nan  # rule "cider": the recall nearest to 95 %
    fpr_id_at_ood95_openood: float = math.nan  # rule "openood": the thinned curve


@dataclass(frozen=True)
class Rate:
    """A measured share with its 95 % Clopper-Pearson interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Sweep:
    """The settings that were tried on the validation sets, and which one won."""

    chosen: str  # "knn:k=100"
    auroc: dict[str, float]  # setting -> ID validation against OOD validation, in the order tried
    ood: tuple[str, ...]  # the OOD validation sets


@dataclass(frozen=True)
class ScoreResult:
    """One score on one model. Scores: higher = more OOD."""

    name: str  # as typed: "knn", "mahalanobis:unit=true", "knn:k=50/100"
    held_out_score: Scores  # (n,) ID images that calibrated the threshold; empty where the protocol has none
    id_score: Scores  # (N,) ID test images
    ood_score: dict[str, Scores]  # OOD set -> (M,)
    metrics: dict[str, Metrics]  # OOD set, and "near" / "far" for their means
    threshold: float  # alarm when score > threshold; infinite where nothing calibrated it
    false_alarm_rate: float  # promised
    confidence: float  # of the promise
    achieved: Rate  # share of ID test images above the threshold
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)  # set or mean -> metric -> 95 % interval
    sweep: Sweep | None = None

    @property
    def calibrated(self) -> bool:
        """Whether there is a threshold with a promise."""
        return math.isfinite(self.threshold)

    @property
    def spec(self) -> str:
        """The score that was measured: of a sweep, the setting that won."""
        return self.sweep.chosen if self.sweep else self.name


@dataclass(frozen=True)
class Evaluation:
    """One model under one protocol."""

    model: str  # "CIDER", or the name of the run
    protocol: str
    kinds: dict[str, Kind]  # OOD set -> near, far or extra, in the protocol's order; present sets only
    absent: dict[str, Kind]  # sets of the protocol that were not read: their means are incomplete
    accuracy: dict[str, float]  # ID test accuracy by "class mean", "k-NN" and, where there is one, "classifier"
    scores: dict[str, ScoreResult]
    unavailable: dict[str, str]  # score -> why this model has none
    geometry: dict[str, Any] | None = None  # of the ID test features, see sphere/geometry.py; angles in degrees
    setting: Setting = "ood"
    group: str = ""  # runs of one recipe, or trials of one folder, are one group
    seed: str = ""  # of the run within its group
    resize: str = ""  # how images were brought to the model's size
    notes: tuple[str, ...] = ()  # what a reader must know beside the numbers

    def to_json(self) -> dict[str, Any]:
        """Everything but the single scores. NaN and infinity are null: JSON has neither."""
        record = asdict(self)
        for score in record["scores"].values():
            for key in ("held_out_score", "id_score", "ood_score"):
                del score[key]
        plain: dict[str, Any] = _finite(record)
        return plain

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Evaluation:
        """What `to_json` wrote, without the single scores; KeyError or TypeError for another record."""
        known = {one.name for one in fields(cls)}
        values = {key: value for key, value in record.items() if key in known}
        values["scores"] = {name: _score(score) for name, score in record["scores"].items()}
        values["notes"] = tuple(values.get("notes", ()))
        return cls(**values)


def _score(record: Mapping[str, Any]) -> ScoreResult:
    none = np.empty(0)
    sweep = record.get("sweep")
    known = {one.name for one in fields(Metrics)}
    return ScoreResult(
        name=record["name"],
        held_out_score=none,
        id_score=none,
        ood_score={},
        metrics={
            name: Metrics(**{key: math.nan if x is None else x for key, x in found.items() if key in known})
            for name, found in record["metrics"].items()
        },
        threshold=math.inf if record["threshold"] is None else record["threshold"],
        false_alarm_rate=record["false_alarm_rate"],
        confidence=record["confidence"],
        achieved=Rate(**{key: math.nan if x is None else x for key, x in record["achieved"].items()}),
        intervals={
            name: {metric: (low, high) for metric, (low, high) in found.items()}
            for name, found in record.get("intervals", {}).items()
        },
        sweep=Sweep(sweep["chosen"], sweep["auroc"], tuple(sweep["ood"])) if sweep else None,
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
