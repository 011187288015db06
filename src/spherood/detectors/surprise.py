"""How surprising is a score? The scale on which scores of different kinds add up.

    S(s) = -log p(s)          higher = more OOD; nats

p(s): share of reference rows on which the score is at least s, from a fifth of the fitted rows, scored by a fit on the
other four fifths; read off a curve through 128 of its quantiles, straight between them. Above the highest one -log p
goes on as a straight line (the tail of an exponential law), so that far inputs do not tie.
Shapes: B batch, N reference rows, J scores, M knots.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.two_passes import refuse_generator
from spherood.errors import FitError

REFERENCE = 5  # every fifth row is reference in the first fit
KNOTS = 128
TAIL = 0.1  # share of the reference scores whose mean excess gives the slope beyond the last

Rows = Iterable[tuple[Tensor, Tensor | None]]
Curve = tuple[Tensor, Tensor, Tensor]  # knots (M,), rising; -log p at each (M,); its slope beyond the last ()


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


def divided(reader: Detector, x: Features, label: Array | None) -> tuple[Fifths, Fifths]:
    """The rows to fit on, and those to compare with. FitError for fewer than 5, and where x can be read only once."""
    refuse_generator(reader, x)
    rest, reference = Fifths(reader, x, label, last=False), Fifths(reader, x, label, last=True)
    if not any(True for _ in reference):
        raise FitError(f"{reader.name}.fit: needs {REFERENCE} rows or more to compare with. Give it more.")
    return rest, reference


def curve_of(score: Detector, rest: Rows, reference: Rows, classifier: Classifier = None) -> Curve:
    """Fit a score on `rest`; the curve of what it says of `reference`."""
    score.fit(rest, classifier=classifier)
    return curve(torch.cat([score.score(rows).double() for rows, _ in reference]))


def curve(score: Tensor) -> Curve:
    """Of reference scores (N,), float64."""
    ordered = score.sort().values
    n, largest = len(ordered), ordered.abs().max().clamp(min=1e-30)
    highest = torch.tensor(float(n)).log10().item()
    at_least = torch.logspace(0, highest, KNOTS, dtype=torch.float64, device=score.device).round().long()
    knot = ordered[n - at_least.flip(0)]  # dense in the tail, where verdicts are made
    surprise = -((1 + at_least.flip(0)) / (n + 1)).log().double()
    steps = torch.arange(KNOTS, dtype=torch.float64, device=score.device) * torch.finfo(torch.float64).eps * largest
    tail = ordered[n - max(2, round(TAIL * n)) :]
    slope = 1 / (tail - tail[0]).mean().clamp(min=1e-12 * largest)
    return knot + steps, surprise, slope  # the steps tell equal knots apart


def summed(scores: Sequence[Tensor], knot: Tensor, surprise: Tensor, slope: Tensor) -> Tensor:
    """sum_j S_j, (B,), float64: of J scores (B,), by curves (J, M), (J, M), (J,)."""
    score = torch.stack([one.double() for one in scores])  # (J, B)
    if torch.compiler.is_exporting():  # ONNX has no search
        place = (knot[:, None, :] < score[:, :, None]).sum(dim=2)
    else:
        place = torch.searchsorted(knot, score)
    right = place.clamp(1, knot.shape[1] - 1)
    low, high = knot.gather(1, right - 1), knot.gather(1, right)
    at_low, at_high = surprise.gather(1, right - 1), surprise.gather(1, right)
    share = ((score - low) / (high - low)).clamp(0, 1)
    beyond = (score - knot[:, -1:]).clamp(min=0) * slope[:, None]
    return (torch.lerp(at_low, at_high, share) + beyond).sum(dim=0)
