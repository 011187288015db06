"""A promise per group: by predicted class, camera or site.

    threshold_y: the threshold of the held-out scores of group y alone
    p_y(x) = (1 + #{i : y_i = y(x), s_i >= s(x)}) / (n_y + 1)

One threshold for everybody keeps its rate over all images together, while a hard class may have many times that rate.
The class is the *predicted* one, for held-out and new images alike: the true one is unknown in use.

Each group's promise holds with its own confidence, not all groups at once: of 100 groups at .95 about five may break
theirs. For all at once pass 1 - 0.05 / 100.

Groups with too few held-out scores share one threshold, of their scores taken together. It keeps its promise over
images that fall into these groups in the held-out proportions, not in each. Where even together they are too few, or
where no group is small, it is the threshold of ALL held-out scores: a marginal promise over the whole, for those who
judge every image by it, and none for any group. A group that was never seen gets the shared one, without a promise.
Shapes: n held-out scores, n_y of group y, B new ones. Groups are any integers.
Source: Vovk, "Conditional validity of inductive conformal predictors", ACML 2012 (Mondrian taxonomies).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spherood.calibration.exceedances import check_count, least_held_out
from spherood.calibration.p_value import p_values
from spherood.calibration.thresholds import threshold
from spherood.errors import CalibrationError, ShapeError
from spherood.metrics.scores import Scores, check_scores, check_vector

Source = Literal["small groups", "all"]


@dataclass(frozen=True)
class GroupThresholds:
    """Alarm when score > the threshold of its group, strictly."""

    own: Mapping[int, float]  # groups with enough held-out scores
    pooled: float  # for everybody else
    pooled_groups: tuple[int, ...]  # groups of the held-out set that are too small, ascending
    pooled_from: Source  # whose scores the pooled threshold is computed from

    def of(self, group: Any) -> Scores:
        """Thresholds (B,) of groups (B,), integers; one never seen gets the pooled one. ShapeError otherwise."""
        name, place = np.unique(_check_groups("GroupThresholds.of", "group", group), return_inverse=True)
        per_name = np.array([self.own.get(int(y), self.pooled) for y in name])
        return per_name[place]


def group_thresholds(
    held_out_score: Any,
    held_out_group: Any,
    false_alarm_rate: float = 0.05,
    confidence: float = 0.95,
    method: str = "conditional",
) -> GroupThresholds:
    """Thresholds of held-out ID scores (n,), higher = more OOD, in integer groups (n,); arrays, lists or tensors.

    ShapeError unless both are 1-D, equally long and not empty, scores finite, groups integer; CalibrationError, with
    the number that would do, where all scores together are too few; ConfigError as of `threshold`.
    """
    score, group = _check_held_out("group_thresholds", held_out_score, held_out_group)
    split = _split(group, least_held_out(false_alarm_rate, confidence, method))
    own = {int(y): threshold(score[group == y], false_alarm_rate, confidence, method) for y in split.large}
    pooled = threshold(score[split.shared], false_alarm_rate, confidence, method)
    return GroupThresholds(own, pooled, tuple(int(y) for y in split.small), split.source)


def group_p_values(held_out_score: Any, held_out_group: Any, score: Any, group: Any, least: int) -> Scores:
    """p-values (B,) in (0, 1] of scores (B,) in groups (B,), each against the held-out scores (n,) of its own group.

    Groups with fewer than `least` held-out scores share, as above; take least_held_out(false_alarm_rate) to share with
    `group_thresholds`. Errors as of `group_thresholds`, and ConfigError unless `least` is whole and >= 1.
    """
    held_out, known = _check_held_out("group_p_values", held_out_score, held_out_group)
    new = check_scores("group_p_values", "score", score)
    asked = _check_groups("group_p_values", "group", group, len(new))
    fewest = check_count("group_p_values", "held-out scores per group", least, least=1)
    if len(held_out) < fewest:
        raise CalibrationError(
            f"group_p_values: a group needs at least {fewest} held-out ID scores, all groups together have "
            f"{len(held_out)}. Collect {fewest - len(held_out)} more or pass least={len(held_out)}."
        )
    split = _split(known, fewest)
    p = p_values(held_out[split.shared], new)
    for y in np.intersect1d(split.large, asked):
        here = asked == y
        p[here] = p_values(held_out[known == y], new[here])
    return p


class _Split(NamedTuple):
    large: NDArray[Any]  # groups with scores enough
    small: NDArray[Any]  # the other groups of the held-out set
    shared: NDArray[np.bool_]  # (n,), the held-out scores that speak for everybody else
    source: Source


def _split(group: NDArray[Any], least: int) -> _Split:
    name, place, count = np.unique(group, return_inverse=True, return_counts=True)
    small = count < least
    shared: NDArray[np.bool_] = small[place]
    if np.count_nonzero(shared) < least:
        return _Split(name[~small], name[small], np.ones_like(shared), "all")
    return _Split(name[~small], name[small], shared, "small groups")


def _check_held_out(where: str, held_out_score: Any, held_out_group: Any) -> tuple[Scores, NDArray[Any]]:
    score = check_scores(where, "held_out_score", held_out_score)
    return score, _check_groups(where, "held_out_group", held_out_group, len(score))


def _check_groups(where: str, name: str, value: Any, scores: int | None = None) -> NDArray[Any]:
    """`value` as integers, as many as there are scores, if told; ShapeError otherwise."""
    group = check_vector(where, name, value, "iu", "integer groups")
    if scores not in (None, len(group)):
        raise ShapeError(
            f"{where}: {scores} scores and {len(group)} in {name}. Pass one group per score, in one order."
        )
    return group
