"""DeLong's interval: how far might the AUROC move with other images of the same kinds?

    V_id^k(i)  = share of the m_k OOD scores of set k above s_i, a tie counting half
    V_ood^k(j) = share of the n ID scores below s_j, a tie counting half
    AUROC = 1/K sum_k mean_i V_id^k(i)
    variance = var_i(1/K sum_k V_id^k(i)) / n + sum_k var_j(V_ood^k(j)) / (m_k K^2)
    interval = AUROC -+ z sqrt(variance), clipped to [0, 1]

All K OOD sets face the same ID images, so the ID part is averaged over the sets before its variance is taken: more sets
do not shrink it. var divides by the count less one; a group of a single image has no variance of its own and counts 0.
Training is not repeated here: between seeds the AUROC moves further. At an AUROC of exactly 0 or 1 the interval is that
one number, which claims too much. O(n log n): a share is a difference of midranks, read off the sorted other group.
Unit: fraction. Source: DeLong, DeLong & Clarke-Pearson, Biometrics 44(3), 1988; the mean over K sets is the variance of
their linear combination with weights 1/K, for OOD sets without a common image.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np

from spherood.errors import ShapeError
from spherood.metrics.fractions import check_fraction
from spherood.metrics.scores import Scores, check_scores


def auroc_interval(id_score: Any, ood_scores: Any, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) in [0, 1] around the AUROC of ID scores (N,) against OOD scores, or around the mean of several.

    `ood_scores`: one array (M,), or a sequence of arrays (M_k,), one per OOD set. Higher score = more OOD. Arrays,
    lists or tensors. ShapeError unless each is 1-D, non-empty and finite; ConfigError for a confidence outside (0, 1).
    """
    known = check_scores("auroc_interval", "id_score", id_score)
    foreign = _checked_sets(ood_scores)
    z = NormalDist().inv_cdf((1 + check_fraction("auroc_interval", "confidence", confidence)) / 2)
    of_id = np.mean([1 - _share_below(ood, known) for ood in foreign], axis=0)  # (N,)
    parts = [_variance_of_mean(_share_below(known, ood)) for ood in foreign]  # (K,)
    deviation = math.sqrt(_variance_of_mean(of_id) + sum(parts) / len(foreign) ** 2)
    middle = float(of_id.mean())
    return max(0.0, middle - z * deviation), min(1.0, middle + z * deviation)


def _checked_sets(ood_scores: Any) -> list[Scores]:
    try:
        sets = list(ood_scores)
    except TypeError:  # a single number: the door says what is wrong with it
        sets = []
    if not sets or np.ndim(sets[0]) == 0:
        if isinstance(ood_scores, dict):
            raise ShapeError("auroc_interval: ood_scores is a dict. Pass list(ood_scores.values()).")
        return [check_scores("auroc_interval", "ood_scores", ood_scores)]
    return [check_scores("auroc_interval", f"ood_scores[{k}]", ood) for k, ood in enumerate(sets)]


def _share_below(other: Scores, score: Scores) -> Scores:
    """(N,) share of `other` (M,) below each score, a tie counting half."""
    order = np.sort(other)
    twice = order.searchsorted(score, side="left") + order.searchsorted(score, side="right")
    return np.asarray(twice / (2 * len(other)), dtype=np.float64)


def _variance_of_mean(component: Scores) -> float:
    return float(component.var(ddof=1)) / len(component) if len(component) > 1 else 0.0
