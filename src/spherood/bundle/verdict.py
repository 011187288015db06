"""What a bundle says about one image. The same record in Python, on the command line and in JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Neighbour:
    """A training image that lies near."""

    name: str
    cosine: float  # of the unit features, in [-1, 1]


@dataclass(frozen=True)
class Verdict:
    """is_ood follows the threshold alone: score > threshold, strictly.

    A p-value a little under the false-alarm rate can pass: the threshold promises the rate with a confidence, which is
    stricter than the p-value's average over held-out sets.
    """

    is_ood: bool
    score: float  # higher = more OOD
    p_value: float  # in (0, 1]: share of held-out ID images that look at least as OOD
    threshold: float
    nearest_class: str
    neighbours: tuple[Neighbour, ...]  # nearest training images where the bundle keeps them, nearest first
    reason: str  # one sentence


def reason(is_ood: bool, below: float, nearest_class: str) -> str:
    """The sentence; `below` is the share of held-out ID scores under this one."""
    share = f"{min(100 * below, 99.9):.1f}".removesuffix(".0") + " %"  # 99.96 is not all of them
    if is_ood:
        than = "every held-out image" if below == 1 else f"{share} of held-out images"
        return f"farther from the training images than {than}; nearest class: {nearest_class}"
    return f"within the range of held-out images ({share} of them lie nearer); nearest class: {nearest_class}"
