"""Disjoint random parts of a set: rows to fit on, to choose by, to calibrate with.

Part p gets the share s_p of N rows. With labels, a class of n_c rows gives it n_c s_p of them, rounded down or up, and
all classes together N s_p, rounded down or up: a table of such counts always exists, as a flow in whole numbers does.
It is drawn. The counts of a class are the steps of floor(n_c (s_1 + ... + s_p) + u), u uniform in [0, 1), whose mean is
n_c s_p; then single rows go from part to part, along shortest ways, until the totals are right too.
With groups, whole ones are dealt in random order, each to the part that lacks most rows; then one group moves, or two
change places, as long as that makes sum_p (rows of p - N s_p)^2 smaller. Every part has a group. The least sum of all
divisions is not searched for.
Shapes: N rows, C classes, P parts; G groups.
Source: own; the first step is systematic sampling.
"""

from __future__ import annotations

import math
from itertools import pairwise, permutations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spherood.errors import ConfigError, DataError, ShapeError


def split_parts(
    label: NDArray[Any] | None,
    n: int,
    shares: tuple[float, ...],
    *,
    group: NDArray[Any] | None = None,
    seed: int = 0,
) -> list[NDArray[np.int64]]:
    """Sorted row numbers of each part; every row 0..n-1 is in one of them, the same one for the same seed.

    label (n,): each class is divided in these shares. group (n,): no group is in two parts, and label is not looked at.
    DataError where a part would be empty.
    """
    if not shares or min(shares) <= 0 or not math.isclose(sum(shares), 1):
        raise ConfigError(f"split_parts: shares must be > 0 and sum to 1, got {shares}. Try (0.6, 0.2, 0.2).")
    for name, given in (("label", label), ("group", group)):
        if given is not None and given.shape != (n,):
            raise ShapeError(f"split_parts: expected {name} ({n},), got {given.shape}. Pass one for every row.")
    rng, share = np.random.default_rng(seed), np.array(shares) / sum(shares)
    if group is not None:
        part = _deal_groups(group, share, rng)
    else:
        part = _deal_rows(np.zeros(n, dtype=np.int64) if label is None else label, share, rng)
    parts = [np.flatnonzero(part == number) for number in range(len(shares))]
    for number, rows in enumerate(parts):
        if len(rows) == 0:
            raise DataError(
                f"split_parts: no row is left for part {number + 1} of {len(shares)}, "
                f"a share of {shares[number]:g} of {n:,}. Collect more, or ask for a larger share."
            )
    return parts


def _deal_rows(label: NDArray[Any], share: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The part of every row (N,): stratified."""
    _, number, size = np.unique(label, return_inverse=True, return_counts=True)
    order = rng.permutation(len(label))
    order = order[np.argsort(number[order], kind="stable")]  # class after class, at random within each
    part = np.empty(len(label), dtype=np.int64)
    part[order] = np.repeat(np.tile(np.arange(len(share)), len(size)), _counts(size, share, rng).ravel())
    return part


def _counts(size: NDArray[np.int64], share: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of each class in each part (C, P)."""
    until = _whole(size[:, None] * np.cumsum(share))
    count = np.diff(np.floor(until + rng.random((len(size), 1))), prepend=0).astype(np.int64)
    quota, total = _whole(size[:, None] * share), _whole(size.sum() * share)
    while (way := _way(count, quota, total)) is not None:
        for giver, taker in pairwise(way):
            row = rng.choice(np.flatnonzero(_can_move(count, quota)[:, giver, taker]))
            count[row, [giver, taker]] += [-1, 1]
    return count


def _whole(count: NDArray[Any]) -> NDArray[np.float64]:
    """Without the rounding error of a whole number: .7 * 10 is a little more than 7 in floats."""
    return np.where(np.isclose(count, np.round(count), rtol=0, atol=1e-6), np.round(count), count)


def _can_move(count: NDArray[np.int64], quota: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether a row of class c may go from part p to part q (C, P, P): both stay their quota, rounded down or up."""
    return (count > np.floor(quota))[:, :, None] & (count < np.ceil(quota))[:, None, :]


def _way(count: NDArray[np.int64], quota: NDArray[np.float64], total: NDArray[np.float64]) -> list[int] | None:
    """A shortest way from a part with too many rows to one that can take them; None where all parts are right."""
    now, least, most = count.sum(axis=0), np.floor(total), np.ceil(total)
    givers, takers = (now > most, now < most) if (now > most).any() else (now > least, now < least)
    open_ = np.logical_or.reduce(_can_move(count, quota), axis=0)  # (P, P)
    ways = [[int(part)] for part in np.flatnonzero(givers)]
    seen = set(np.flatnonzero(givers).tolist())
    for way in ways:  # grows: breadth first
        if takers[way[-1]]:
            return way
        further = set(np.flatnonzero(open_[way[-1]]).tolist()) - seen
        seen |= further
        ways.extend([*way, part] for part in sorted(further))
    return None


def _deal_groups(group: NDArray[Any], share: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """The part of every row (N,): whole groups."""
    _, member, size = np.unique(group, return_inverse=True, return_counts=True)
    if len(size) < len(share):
        raise DataError(
            f"split_parts: {len(size)} groups cannot fill {len(share)} parts, as no group is divided. "
            "Collect from more groups, or ask for fewer parts."
        )
    order = rng.permutation(len(size))
    size = size[order]
    part = np.empty(len(size), dtype=np.int64)
    lacks, groups = share * len(group), np.zeros(len(share), dtype=np.int64)
    for one, rows in enumerate(size):
        empty = groups == 0
        allowed = empty if empty.sum() == len(size) - one else True  # the last groups go where there is none yet
        part[one] = np.where(allowed, lacks, -np.inf).argmax()
        lacks[part[one]] -= rows
        groups[part[one]] += 1
    pairs = list(permutations(range(len(share)), 2))
    while steps := [step for pair in pairs if (step := _step(size, part, lacks, *pair)).change < -1e-6]:
        best = min(steps)
        for one, source, target in ((best.goes, best.a, best.b), (best.returns, best.b, best.a)):
            if one >= 0:
                part[one] = target
                lacks[[source, target]] += [size[one], -size[one]]
    return part[np.argsort(order)][member]


class _Step(NamedTuple):
    """Group `goes` from part a to part b, and `returns`, if any, from b to a."""

    change: float  # of the sum of squares
    a: int
    b: int
    goes: int
    returns: int  # -1: none


def _step(size: NDArray[np.int64], part: NDArray[np.int64], lacks: NDArray[np.float64], a: int, b: int) -> _Step:
    """The best one between two parts: s rows more in b change the sum by 2 s (s - 2 w), least for s nearest to w."""
    goes = np.flatnonzero(part == a)
    goes = goes[np.argsort(size[goes], kind="stable")]
    returns = np.flatnonzero(part == b)
    if len(goes) > 1:
        returns = np.append(returns, -1)  # the last group of a goes for another one only
    back = np.where(returns < 0, 0, size[returns])
    w = (lacks[b] - lacks[a]) / 2
    above = np.searchsorted(size[goes], back + w)
    at = np.stack([above - 1, above]).clip(0, len(goes) - 1)  # the two neighbours of the right size
    s = size[goes][at] - back
    change = 2 * s * (s - 2 * w)
    best = int(change.argmin())
    return _Step(float(change.flat[best]), a, b, int(goes[at.flat[best]]), int(returns[best % len(returns)]))
