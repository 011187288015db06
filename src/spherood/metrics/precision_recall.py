"""Area under the precision-recall curve, in the two ways that are published as "AUPR".

    precision(t) = tp(t) / (tp(t) + fp(t)),  recall(t) = tp(t) / P,  t over all distinct scores, strictest first

`aupr_in`, `aupr_out` (ID, OOD positive): trapezoids through the points (recall, precision), starting at (0, 1).
`average_precision`: steps, sum_t (recall(t) - recall(t-1)) precision(t), which draws no line between two points.
On many ties they differ (binary scores: .71 against .50), so a table has to say which one it shows.
Both depend on the share of positives: without information they give about that share, not 1/2. Unit: fraction.
Source: aupr_*: OpenOOD v1.5, evaluators/metrics.py. average_precision: CIDER, utils/detection_util.py, ID positive.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spherood.errors import ConfigError, nearest
from spherood.metrics.counts import counts_at_thresholds
from spherood.metrics.scores import Scores, check_pair


def aupr_in(id_score: Any, ood_score: Any) -> float:
    """Trapezoidal area in [0, 1] with ID positive, of ID scores (N,) and OOD scores (M,), higher = more OOD.

    Arrays, lists or tensors. ShapeError unless both are 1-D, non-empty and finite.
    """
    known, foreign = check_pair("aupr_in", id_score, ood_score)
    return _trapezoids(-known, -foreign)


def aupr_out(id_score: Any, ood_score: Any) -> float:
    """Trapezoidal area in [0, 1] with OOD positive, of ID scores (N,) and OOD scores (M,), higher = more OOD.

    Arrays, lists or tensors. ShapeError unless both are 1-D, non-empty and finite.
    """
    known, foreign = check_pair("aupr_out", id_score, ood_score)
    return _trapezoids(foreign, known)


def average_precision(id_score: Any, ood_score: Any, positive: str = "id") -> float:
    """Average precision in (0, 1] of ID scores (N,) and OOD scores (M,), higher = more OOD; `positive`: "id" or "ood".

    Arrays, lists or tensors. ShapeError unless both are 1-D, non-empty and finite; ConfigError for another `positive`.
    """
    known, foreign = check_pair("average_precision", id_score, ood_score)
    if positive not in ("id", "ood"):
        hint = nearest(str(positive), ["id", "ood"])
        raise ConfigError(f"average_precision: positive must be 'id' or 'ood', got {positive!r}. {hint}")
    recall, precision = _curve(-known, -foreign) if positive == "id" else _curve(foreign, known)
    return float(np.diff(recall) @ precision[1:])


def _curve(positive: Scores, negative: Scores) -> tuple[Scores, Scores]:
    """Recall and precision, each (T + 1,), from the agreed start (0, 1) on."""
    tp, fp = counts_at_thresholds(positive, negative)
    return np.concatenate([[0.0], tp / len(positive)]), np.concatenate([[1.0], tp / (tp + fp)])


def _trapezoids(positive: Scores, negative: Scores) -> float:
    recall, precision = _curve(positive, negative)
    return float(np.diff(recall) @ (precision[1:] + precision[:-1])) / 2
