"""Which inputs of a batch to flag, so that few of those flagged are ID?

    flag every p <= rate / pi0 * j / m,   j = max{j : p_(j) <= rate / pi0 * j / m}          (Benjamini & Hochberg)
    pi0 = min(1, (1 + #{p > cut}) / (m (1 - cut)))                                          (Storey)

The false-discovery rate, the mean of (ID inputs flagged) / (inputs flagged), counted 0 where none is flagged, is then
at most `rate`: on average over held-out set and batch, not in every batch. The p-values share one held-out set and so
depend on each other, positively, which this procedure bears. pi0: share of ID inputs in the batch; 1 is always safe.
The smallest p-value is 1 / (n + 1), so a large batch against few held-out scores can have no discoveries unless many
inputs are flagged together: `least_discoveries` says how many, beforehand.
There are only n + 1 p-values, j / (n + 1): how often each occurs says all, however large m is (`discovery_cut`). Equal
ones share the line of the last of them.
Shapes: n held-out scores, m inputs. Unit: fractions.
Source: Benjamini & Hochberg, JRSS B 57(1), 1995; Storey, JRSS B 64(3), 2002; for conformal p-values Bates, Candes, Lei,
Romano & Sesia, Annals of Statistics 51(1), 2023, arXiv:2104.08279.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherood.calibration.band import check_p_values
from spherood.calibration.exceedances import SLACK, check_count, least_held_out
from spherood.errors import CalibrationError, ConfigError, ShapeError
from spherood.metrics.fractions import check_fraction
from spherood.metrics.scores import check_vector


def discoveries(p_value: Any, rate: float = 0.1, null_share: float = 1.0) -> NDArray[np.bool_]:
    """Which of m inputs to flag, (m,) bool, by their p-values (m,), at a false-discovery rate; O(m log m).

    ShapeError unless p (m,) lies in [0, 1]; ConfigError unless the rate lies in (0, 1) and 0 < null_share <= 1.
    """
    p = check_p_values("discoveries", p_value)
    per_null = check_fraction("discoveries", "rate", rate)
    if not 0 < null_share <= 1:
        raise ConfigError(
            f"discoveries: null_share must be above 0 and at most 1, got {null_share}. Pass null_share(p_value), or 1."
        )
    m = len(p)
    line = per_null / null_share * (1 + SLACK) * np.arange(1, m + 1) / m
    under = np.flatnonzero(np.sort(p) <= line)
    return p <= line[under[-1]] if len(under) else np.zeros(m, dtype=np.bool_)


def discovery_cut(counts: Any, rate: float = 0.1) -> float:
    """The largest p-value to flag, or 0 for none, by counts (n + 1,): counts[j - 1] inputs have p = j / (n + 1). O(n).

    Flagging every p <= it is what `discoveries` does with all these p-values (null_share 1). ShapeError unless the
    counts are whole numbers >= 0; ConfigError unless the rate lies in (0, 1).
    """
    count = check_vector("discovery_cut", "counts", counts, "iu", "whole numbers")
    if (count < 0).any():
        raise ShapeError(
            f"discovery_cut: counts must be >= 0, got {count[count < 0][0]} at index {(count < 0).argmax()}. "
            "Count how many inputs have each p-value."
        )
    share = check_fraction("discovery_cut", "rate", rate)
    last = count.cumsum()  # rank of the last input with this p-value
    p = np.arange(1, len(count) + 1) / len(count)
    under = np.flatnonzero((count > 0) & (p <= share * (1 + SLACK) * last / max(1, last[-1])))
    return float(p[under[-1]]) if len(under) else 0.0


def null_share(p_value: Any, cut: float = 0.5) -> float:
    """Storey's estimate of the share of ID inputs, in (0, 1], from p-values (m,).

    Above `cut` nearly all p-values are of ID inputs. On average it is not below the true share, but for the cap at 1.
    ShapeError unless p (m,) lies in [0, 1]; ConfigError unless the cut lies in (0, 1).
    """
    p = check_p_values("null_share", p_value)
    above = 1 - check_fraction("null_share", "cut", cut)
    return min(1.0, (1 + int(np.count_nonzero(p > cut))) / (len(p) * above))


def least_discoveries(n: int, m: int, rate: float = 0.1) -> int:
    """The fewest of `m` inputs, 1 .. m, that can be flagged at all against `n` held-out scores (null_share 1).

    R of them can where 1 / (n + 1) <= rate R / m. CalibrationError, with the numbers, where even all m cannot;
    ConfigError unless n and m are whole and >= 1 and the rate lies in (0, 1).
    """
    count = check_count("least_discoveries", "held-out scores", n, least=1)
    inputs = check_count("least_discoveries", "inputs", m, least=1)
    share = check_fraction("least_discoveries", "rate", rate)
    least = least_held_out(share, method="marginal")
    if count < least:
        raise CalibrationError(
            f"least_discoveries: a false-discovery rate of {share:g} needs at least {least} held-out ID scores, "
            f"got {count}. Collect {least - count} more or ask for 1/{count + 1}."
        )
    return min(inputs, max(1, math.ceil(inputs * (1 - SLACK) / (share * (count + 1)))))
