"""What an evaluation found out, as plain numbers: the table, the page and the JSON all read these records."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["near", "far"]
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Metrics:
    """ID test set against one OOD set (or the mean over sets of one kind), all fractions in [0, 1]."""

    auroc: float
    aupr_in: float  # ID positive
    aupr_out: float  # OOD positive
    fpr_ood_at_id95: float  # OOD let through while 95 % of ID is kept (CIDER's papers)
    fpr_id_at_ood95: float  # ID rejected while 95 % of OOD is caught (OpenOOD v1.5)
    caught: float  # OOD above the calibrated threshold


@dataclass(frozen=True)
class Rate:
    """A measured share with its 95 % Clopper-Pearson interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ScoreResult:
    """One score on one model. Scores: higher = more OOD."""

    name: str  # as typed: "knn", "mahalanobis:unit=true"
    held_out_score: Scores  # (n,) ID images that calibrated the threshold
    id_score: Scores  # (N,) ID test images
    ood_score: dict[str, Scores]  # OOD set -> (M,)
    metrics: dict[str, Metrics]  # OOD set, and "near" / "far" for their means
    threshold: float  # alarm when score > threshold
    false_alarm_rate: float  # promised
    confidence: float  # of the promise
    achieved: Rate  # share of ID test images above the threshold


@dataclass(frozen=True)
class Evaluation:
    """One model under one protocol."""

    model: str  # "CIDER", or the name of the run
    protocol: str
    kinds: dict[str, Kind]  # OOD set -> near or far, in the protocol's order; present sets only
    absent: dict[str, Kind]  # sets of the protocol that are not on disk: their means are incomplete
    accuracy: dict[str, float]  # ID test accuracy by "class mean", "k-NN" and, where there is one, "classifier"
    scores: dict[str, ScoreResult]
    unavailable: dict[str, str]  # score -> why this model has none
    geometry: dict[str, Any] | None = None  # of the ID test features, see sphere/geometry.py; angles in degrees

    def to_json(self) -> dict[str, Any]:
        """Everything but the single scores."""
        record = asdict(self)
        for score in record["scores"].values():
            for key in ("held_out_score", "id_score", "ood_score"):
                del score[key]
        return record
