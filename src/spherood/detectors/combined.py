"""Several scores as one: how unlikely is each of them, taken together?

    s(x) = sum_j -log p_j(x)          higher = more OOD; nats

p_j(x): share of reference rows on which score j is at least as high, from a fifth of the fitted rows, scored by a fit
on the other four fifths; read off a curve through 128 of its quantiles, straight between them. Above the highest one
-log p goes on as a straight line (the tail of an exponential law), so that far inputs do not tie. No weight is fitted
to OOD of any kind. k-NN and Mahalanobis see different OOD: together they catch more than either, on a ResNet-20 for
CIFAR-10 66 % where the two catch 62 and 64 % (docs/guard.md).
Shapes: B batch, J scores, M knots. Fit: two fits of every score, so `x` must be re-iterable.
Source: Fisher, Statistical Methods for Research Workers, 1925, section 21.1 (unchecked). The scores are dependent, so
the sum has no chi-square law: calibrate it as any score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from spherood import naming
from spherood.detectors.detector import Array, Classifier, Detector, Features, Neighbours
from spherood.detectors.two_passes import refuse_generator
from spherood.errors import ConfigError, FitError
from spherood.outputs import Outputs

REFERENCE = 5  # every fifth row is reference in the first fit
KNOTS = 128
TAIL = 0.1  # share of the reference scores whose mean excess gives the slope beyond the last


class Combined(Detector):
    """``Combined(scores=["knn:k=10", "mahalanobis:unit=true"]).fit(feature, label).score(feature)``."""

    knot: Tensor  # (J, M), reference scores, rising
    surprise: Tensor  # (J, M), -log p at each
    slope: Tensor  # (J,), of -log p beyond the last knot

    def __init__(self, *, scores: Sequence[str] = ("knn:k=10", "mahalanobis:unit=true")) -> None:
        super().__init__()
        if isinstance(scores, str) or len(scores) < 2:
            raise ConfigError(
                f"Combined: scores must be two or more of them, got {scores!r}. Name a single one itself."
            )
        members = [naming.build("detectors", *naming.parse_spec(text)) for text in scores]
        parts = {member.reads for member in members}
        if len(parts) > 1:
            raise ConfigError(f"Combined: {', '.join(scores)} read {' and '.join(sorted(parts))}. Combine alike ones.")
        self.reads = members[0].reads  # type: ignore[misc]
        self.needs_classifier = any(member.needs_classifier for member in members)  # type: ignore[misc]
        self.members = nn.ModuleList(members)
        self.declare("knot", "surprise", "slope")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Fit every score, and the curve of its p-value. FitError as theirs, and where x can be read only once."""
        refuse_generator(self, x)
        rest, reference = Fifths(self, x, label, last=False), Fifths(self, x, label, last=True)
        if not any(True for _ in reference):
            raise FitError(f"{self.name}.fit: needs 5 rows or more to compare with. Give it more.")
        curves = []
        for member in self._members():
            member.fit(rest, classifier=classifier)
            curves.append(_curve(torch.cat([member.score(one).double() for one, _ in reference])))
        for member in self._members():
            member.fit(x, label, classifier)
        self.knot, self.surprise, self.slope = (torch.stack(some) for some in zip(*curves, strict=True))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """What the scores read, (B, D), to score (B,), float64."""
        return self._sum([member(x) for member in self._members()])

    def score_with_neighbours(self, x: Outputs | Array, n: int) -> tuple[Tensor, Neighbours | None]:
        """`score`, and the neighbours that one of the scores looked up anyway."""
        found = [member.score_with_neighbours(x, n) for member in self._members()]
        return self._sum([score for score, _ in found]), next((near for _, near in found if near is not None), None)

    def _sum(self, scores: Sequence[Tensor]) -> Tensor:
        score = torch.stack([one.double() for one in scores])  # (J, B)
        right = torch.searchsorted(self.knot, score).clamp(1, self.knot.shape[1] - 1)
        low, high = self.knot.gather(1, right - 1), self.knot.gather(1, right)
        at_low, at_high = self.surprise.gather(1, right - 1), self.surprise.gather(1, right)
        share = ((score - low) / (high - low)).clamp(0, 1)
        beyond = (score - self.knot[:, -1:]).clamp(min=0) * self.slope[:, None]
        return (torch.lerp(at_low, at_high, share) + beyond).sum(dim=0)

    @property
    def width(self) -> int | None:
        """Columns of what the scores were fitted on."""
        return next((member.width for member in self._members() if member.width is not None), None)

    def _members(self) -> list[Detector]:
        return list(self.members)  # type: ignore[arg-type]  # ModuleList holds modules of any kind


class Fifths:
    """Of every five rows of a stream the last one, or the other four; as often as one likes."""

    def __init__(self, reader: Detector, x: Features, label: Array | None, *, last: bool) -> None:
        self.reader, self.x, self.label, self.last = reader, x, label, last

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        start = 0
        for rows, label in self.reader.batches(self.x, self.label):
            is_last = torch.arange(start, start + len(rows), device=rows.device) % REFERENCE == REFERENCE - 1
            start += len(rows)
            kept = is_last if self.last else ~is_last
            if bool(kept.any()):
                yield rows[kept], None if label is None else label[kept]


def _curve(score: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Reference scores (N,) to knots (M,), -log p at each (M,), and the slope beyond the last."""
    ordered = score.sort().values
    n = len(ordered)
    at_least = torch.logspace(0, torch.tensor(float(n)).log10().item(), KNOTS, dtype=torch.float64).round().long()
    knot = ordered[n - at_least.flip(0)]  # dense in the tail, where verdicts are made
    surprise = -((1 + at_least.flip(0)) / (n + 1)).log().double()
    steps = (
        torch.arange(KNOTS, dtype=torch.float64) * torch.finfo(torch.float64).eps * ordered.abs().max().clamp(min=1e-30)
    )
    tail = ordered[n - max(2, round(TAIL * n)) :]
    slope = 1 / (tail - tail[0]).mean().clamp(min=1e-12 * ordered.abs().max().clamp(min=1e-30))
    return knot + steps, surprise, slope  # the steps tell equal knots apart
