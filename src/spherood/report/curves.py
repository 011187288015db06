"""Scores boiled down to what a chart needs, so that no page carries fifty thousand numbers per set.

    kept(t) = #{score <= t}        caught(t) = #{score > t}        alarm when score > threshold, strictly

Counts rather than shares: they are exact, and shorter in JSON. Shapes: N scores, T thresholds, B bins.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spherood.benchmark.result import ScoreResult, Scores
from spherood.calibration import false_alarm_band
from spherood.errors import ConfigError

BINS = 60
EDGE = 0.005  # share of a group that may lie beyond either end of the drawn range
REACH = 2.0  # one far set with scores a hundred times as large would squeeze all others into one bar

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Group:
    """The scores of one set of images, binned."""

    size: int
    bins: Counts  # (B,); the first and last bar also hold what lies beyond the drawn range
    outside: int  # how many those are
    kept: Counts  # (T,) scores at or below each threshold of the grid


@dataclass(frozen=True)
class Curves:
    """One score on one model, ready to draw."""

    low: float  # the drawn range
    high: float
    digits: int  # decimals that tell neighbouring thresholds apart
    grid: Scores  # (T,) ascending
    calibrated: int  # where the calibrated threshold stands in the grid, exact
    id_group: Group
    ood_group: dict[str, Group]
    roc: dict[str, tuple[Scores, Scores]]  # OOD set -> share of ID rejected, share of OOD caught
    bound: Scores  # (T,) upper bound of the false-alarm rate at each threshold of the grid, for all of them at once


def drawn_range(id_score: Scores, ood_score: list[Scores], threshold: float) -> tuple[float, float]:
    """From the lowest 0.5 % quantile of any group to the highest 99.5 % one, at most REACH widths of ID beyond ID.

    It always holds the threshold. Infinite scores have no place on an axis and are left out.
    """
    ends = [np.quantile(s[np.isfinite(s)], [EDGE, 1 - EDGE]) for s in (id_score, *ood_score) if np.isfinite(s).any()]
    if not ends:
        return threshold - 0.5, threshold + 0.5
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    width = ends[0][1] - ends[0][0]
    if width > 0:
        low, high = max(low, ends[0][0] - REACH * width), min(high, ends[0][1] + REACH * width)
    low, high = float(min(low, threshold)), float(max(high, threshold))
    if high - low <= 1e-12 * max(abs(low), abs(high)):  # all scores alike
        return low - 0.5, high + 0.5
    return low, high


def decimals(low: float, high: float) -> int:
    """Enough to tell a thousandth of the range."""
    return max(0, 3 - math.floor(math.log10(high - low)))


def threshold_grid(id_score: Scores, low: float, high: float, threshold: float) -> Scores:
    """About 200 thresholds: half of them even steps, half ID quantiles (there the numbers change fastest), and the
    calibrated one, unrounded."""
    even = np.linspace(low, high, 101)
    finite = id_score[np.isfinite(id_score)]
    quantile = np.quantile(finite, np.linspace(0, 1, 101)).clip(low, high) if len(finite) else even
    rounded = np.round(np.concatenate([even, quantile]), decimals(low, high) + 1)
    return np.unique(np.append(rounded, threshold))


def kept(score: Scores, grid: Scores) -> Counts:
    """How many scores (N,) raise no alarm at each threshold (T,): a score equal to the threshold does not."""
    return np.searchsorted(np.sort(score), grid, side="right").astype(np.int64)


def roc(id_score: Scores, ood_score: Scores, points: int = 200) -> tuple[Scores, Scores]:
    """Share of ID rejected and share of OOD caught from (0, 0) to (1, 1), at most `points` of each.

    Ties become slanted lines. Where there are too many corners, those nearest to even steps along the curve stay.
    """
    threshold = np.append(np.unique(np.concatenate([id_score, ood_score]))[::-1], -np.inf)
    x, y = (1 - kept(score, threshold) / len(score) for score in (id_score, ood_score))
    rise, run = np.diff(y), np.diff(x)
    corner = np.ones(len(x), dtype=bool)
    corner[1:-1] = np.abs(rise[:-1] * run[1:] - rise[1:] * run[:-1]) > 1e-15  # the others lie on a straight line
    x, y = x[corner], y[corner]
    if len(x) > points:
        along = x + y  # ascending from 0 to 2
        right = np.searchsorted(along, np.linspace(0, 2, points)).clip(1, len(along) - 1)
        left_is_nearer = np.linspace(0, 2, points) - along[right - 1] < along[right] - np.linspace(0, 2, points)
        stay = np.unique(right - left_is_nearer)
        x, y = x[stay], y[stay]
    return x, y


def false_alarm_bound(result: ScoreResult, grid: Scores) -> Scores:
    """The band of the held-out scores at each threshold (T,); 1 below all of them."""
    band = false_alarm_band(result.held_out_score, result.confidence)
    row = np.searchsorted(band.threshold, grid, side="right") - 1
    return np.where(row < 0, 1.0, band.upper[np.maximum(row, 0)])


def curves(model: str, result: ScoreResult) -> Curves:
    """ConfigError where there is nothing to draw: no scores, NaN, or a threshold that is not finite."""
    where = f"report: score {result.name} of {model}"
    if not math.isfinite(result.threshold):
        raise ConfigError(f"{where} has the threshold {result.threshold}. Calibrate it on held-out ID images first.")
    for name, score in (("ID", result.id_score), *result.ood_score.items()):
        if len(score) == 0 or np.isnan(score).any():
            raise ConfigError(
                f"{where} has {len(score)} scores on {name}, {np.isnan(score).sum()} of them NaN. Evaluate it again."
            )
    low, high = drawn_range(result.id_score, list(result.ood_score.values()), result.threshold)
    grid = threshold_grid(result.id_score, low, high, result.threshold)

    def group(score: Scores) -> Group:
        bins = np.histogram(score.clip(low, high), bins=np.linspace(low, high, BINS + 1))[0].astype(np.int64)
        return Group(len(score), bins, int(((score < low) | (score > high)).sum()), kept(score, grid))

    return Curves(
        low=low,
        high=high,
        digits=decimals(low, high),
        grid=grid,
        calibrated=int(np.searchsorted(grid, result.threshold)),
        id_group=group(result.id_score),
        ood_group={name: group(score) for name, score in result.ood_score.items()},
        roc={name: roc(result.id_score, score) for name, score in result.ood_score.items()},
        bound=false_alarm_bound(result, grid),
    )
