"""Conformal p-value: how large a share of ID scores at least this high?

    p(x) = (1 + #{i : s_i >= s(x)}) / (n + 1)

For an ID input, exchangeable with the n held-out ones, P(p <= t) <= t for every t, over the draw of both. It is *not*
the probability of being ID. The smallest value is 1 / (n + 1); ties count against an alarm. Unit: fraction in (0, 1].
Source: Bates, Candes, Lei, Romano & Sesia, Annals of Statistics 51(1), 2023, arXiv:2104.08279.
"""

from __future__ import annotations

from typing import Any

from spherood.metrics.scores import Scores, check_scores


def p_values(held_out_score: Any, score: Any) -> Scores:
    """p-values (B,) in (0, 1] of scores (B,), given held-out ID scores (n,); higher score = more OOD, lower p.

    Arrays, lists or tensors. ShapeError unless both are 1-D, non-empty and finite. O((n + B) log n), and O(n + B log n)
    where the held-out scores come in rising order.
    """
    held_out = check_scores("p_values", "held_out_score", held_out_score)
    if (held_out[1:] < held_out[:-1]).any():
        held_out.sort()  # check_scores made a copy
    new = check_scores("p_values", "score", score)
    n = len(held_out)
    p: Scores = (1 + n - held_out.searchsorted(new, side="left")) / (n + 1)
    return p
