"""What a bundle says about one image. The same record in Python, on the command line and in JSON."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Neighbour:
    """A training image that lies near."""

    name: str
    cosine: float  # of the unit features, in [-1, 1]
    row: int = -1  # its place in the bank, and among the bundle's thumbnails


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
    nearest_class: str | None  # None where the bundle was made without labels
    neighbours: tuple[Neighbour, ...]  # nearest training images where the bundle keeps them, nearest first
    reason: str  # one sentence
    needs_review: bool = (
        False  # no alarm, but unusual enough for a person to look, where the bundle promises a review rate
    )


def reason(is_ood: bool, below: float, nearest_class: str | None, *, needs_review: bool = False) -> str:
    """The sentence; `below` is the share of held-out ID scores under this one."""
    share = f"{min(100 * below, 99.9):.1f}".removesuffix(".0") + " %"  # 99.96 is not all of them
    ending = "" if nearest_class is None else f"; nearest class: {nearest_class}"
    if is_ood or needs_review:
        than = "every held-out image" if below == 1 else f"{share} of held-out images"
        look = "; a person should look" if needs_review else ""
        return f"farther from the training images than {than}{look}{ending}"
    return f"within the range of held-out images ({share} of them lie nearer){ending}"
