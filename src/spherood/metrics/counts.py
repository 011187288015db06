"""How many scores of two groups reach each threshold: the two columns that every ranking metric is read from.

    tp(t) = #{positives with score >= t},  fp(t) = #{negatives with score >= t},  t over all distinct scores

Scores that tie are reached together, so a tie is one step, never an order. T thresholds, the largest first; both
columns grow, and end at the sizes of their groups. O(n log n).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spherood.metrics.scores import Scores

Counts = NDArray[np.int64]


def counts_at_thresholds(positive: Scores, negative: Scores) -> tuple[Counts, Counts]:
    """(tp, fp), each (T,), of checked scores (P,) and (N,) that are higher for positives."""
    threshold = np.unique(np.concatenate([positive, negative]))[::-1]  # (T,)
    return _reaching(positive, threshold), _reaching(negative, threshold)


def _reaching(score: Scores, threshold: Scores) -> Counts:
    below = np.sort(score).searchsorted(threshold, side="left")
    return np.asarray(len(score) - below, dtype=np.int64)
