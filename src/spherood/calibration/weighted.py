"""p-values under a known shift: where new ID images come in other proportions than the held-out ones.

    p(x) = (sum_i w_i 1{s_i >= s(x)} + w(x)) / (sum_i w_i + w(x))
    effective sample size = (sum_i w_i)^2 / sum_i w_i^2

w: how much more often such an image occurs now than in the held-out set, the ratio of the two densities, up to a common
factor (more night images: w = share of night now / share then). For a further ID input of the shifted source
P(p <= t) <= t, over the draw of both, *if* the weights are right and depend on the image alone; estimated weights make
it approximate. The price is the effective sample size: how many equally weighted scores would say as much. Report it.
With equal weights p is that of `p_values`. Where the shift is unknown, recalibrate on fresh ID images instead.
Shapes: n held-out scores, B new ones. Unit: fraction; weights have none.
Source: Tibshirani, Barber, Candes & Ramdas, NeurIPS 2019, arXiv:1904.06019; Kish, Survey Sampling, 1965 (the size).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spherood.errors import CalibrationError, ShapeError
from spherood.metrics.scores import Scores, check_scores, check_vector


def weighted_p_values(held_out_score: Any, weight: Any, score: Any, own_weight: Any) -> Scores:
    """p-values (B,) of scores (B,) with own weights (B,), given held-out ID scores (n,) with weights (n,).

    In (0, 1], and 0 at most where the own weight is: such an image cannot come from the shifted source. ShapeError
    unless all are 1-D, non-empty, finite and equally long by pairs, weights >= 0; CalibrationError where `weight` is 0
    throughout. O((n + B) log n).
    """
    held_out = check_scores("weighted_p_values", "held_out_score", held_out_score)
    new = check_scores("weighted_p_values", "score", score)
    w = _check_held_out_weights("weighted_p_values", weight)
    own = _check_weights("weighted_p_values", "own_weight", own_weight)
    for name, weights, scores in (("weight", w, held_out), ("own_weight", own, new)):
        if len(weights) != len(scores):
            raise ShapeError(
                f"weighted_p_values: {len(scores)} scores and {len(weights)} in {name}. Pass one weight per score."
            )
    heaviest = w.max()  # sums of scaled weights cannot overflow
    order = np.argsort(held_out)
    from_here_up = np.append(np.cumsum(w[order][::-1] / heaviest)[::-1], 0.0)  # (n + 1,); the first is the total
    above, own = from_here_up[held_out[order].searchsorted(new, side="left")], own / heaviest
    p: Scores = (above + own) / (from_here_up[0] + own)
    return p


def effective_sample_size(weight: Any) -> float:
    """How many equally weighted scores the weights (n,) are worth, in [1, n]. Errors as above."""
    w = _check_held_out_weights("effective_sample_size", weight)
    w = w / w.max()
    return float(w.sum() ** 2 / (w @ w))


def _check_held_out_weights(where: str, value: Any) -> Scores:
    weight = _check_weights(where, "weight", value)
    if not weight.any():
        raise CalibrationError(
            f"{where}: all {weight.size} weights are 0: no held-out image is of a kind that occurs now. "
            "Collect held-out images of the shifted source."
        )
    return weight


def _check_weights(where: str, name: str, value: Any) -> Scores:
    weight = check_vector(where, name, value, "biuf", "numbers").astype(np.float64)
    wrong = ~((weight >= 0) & np.isfinite(weight))
    if wrong.any():
        raise ShapeError(
            f"{where}: {name} holds {wrong.sum()} of {weight.size} that are negative, NaN or infinite, the first at "
            f"index {wrong.argmax()}. A weight is a ratio of densities, finite and >= 0."
        )
    return weight
