"""False-positive rate at 95 % recall: two metrics that are both published as "FPR95", tens of points apart.

    fpr_ood_at_id95 = share of OOD with s <= t, t the smallest threshold that keeps   (s <= t) at least 95 % of ID
    fpr_id_at_ood95 = share of ID  with s >= t, t the largest  threshold that catches (s >= t) at least 95 % of OOD

CIDER's papers report the first, OpenOOD v1.5 the second. Scores that tie at t count as kept, or as caught. Lower is
better. Unit: fraction. Every distinct score is a threshold, and `rule` departs from it to reproduce published tables:

- "openood": the curve that scikit-learn's roc_curve leaves after dropping points with the same step before and after
  them. Where scores tie, the first point left may lie further on: {0..99} against {0..99} gives 1.00 instead of .95.
- "cider": the recall *nearest* to 95 %, which may fall short of it (10 images: 90 %), among the points up to the first
  full recall; of equally near ones the loosest. For ID caught as OOD this is CIDER's switch `--out_as_pos`.

Source: OpenOOD v1.5, openood/evaluators/metrics.py; CIDER, utils/detection_util.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherood.errors import ConfigError, nearest
from spherood.metrics.counts import Counts, counts_at_thresholds
from spherood.metrics.scores import Scores, check_pair

RECALL = 0.95  # k / n == .95 exactly where 20 k == 19 n: a quotient is rounded to the float nearest to it, as .95 is


def fpr_id_at_ood95(id_score: Any, ood_score: Any, rule: str | None = None) -> float:
    """Share of ID scores (N,) rejected where at least 95 % of OOD scores (M,) are caught, in [0, 1].

    Higher score = more OOD. Arrays, lists or tensors. `rule`: None, "openood" or "cider". ShapeError unless both are
    1-D, non-empty and finite; ConfigError for another rule.
    """
    known, foreign = check_pair("fpr_id_at_ood95", id_score, ood_score)
    return _false_positive_rate(foreign, known, _known_rule("fpr_id_at_ood95", rule, ["openood", "cider"]))


def fpr_ood_at_id95(id_score: Any, ood_score: Any, rule: str | None = None) -> float:
    """Share of OOD scores (M,) let through where at least 95 % of ID scores (N,) are kept, in [0, 1].

    Higher score = more OOD. Arrays, lists or tensors. `rule`: None or "cider". ShapeError unless both are 1-D,
    non-empty and finite; ConfigError for another rule.
    """
    known, foreign = check_pair("fpr_ood_at_id95", id_score, ood_score)
    return _false_positive_rate(-known, -foreign, _known_rule("fpr_ood_at_id95", rule, ["cider"]))


def _known_rule(where: str, rule: str | None, known: list[str]) -> str | None:
    if rule is not None and rule not in known:
        raise ConfigError(f"{where}: there is no rule {rule!r}. {nearest(str(rule), known)} None is the definition.")
    return rule


def _false_positive_rate(positive: Scores, negative: Scores, rule: str | None) -> float:
    tp, fp = counts_at_thresholds(positive, negative)
    if rule == "openood":
        kept = _corners(tp, fp)
        tp, fp = tp[kept], fp[kept]
    recall = tp / len(positive)
    at = _nearest_recall(recall) if rule == "cider" else int(np.argmax(recall >= RECALL))
    return int(fp[at]) / len(negative)


def _corners(tp: Counts, fp: Counts) -> NDArray[np.bool_]:
    """(T,) True where the step into a point differs from the step out of it; the two ends stay."""
    kept = np.ones(len(tp), dtype=np.bool_)
    kept[1:-1] = (np.diff(tp, n=2) != 0) | (np.diff(fp, n=2) != 0)
    return kept


def _nearest_recall(recall: Scores) -> int:
    """Index of the recall nearest to RECALL up to the first full one; the last of equally near ones, in floats."""
    full = int(np.argmax(recall == 1))
    return full - int(np.argmin(np.abs(recall[full::-1] - RECALL)))
