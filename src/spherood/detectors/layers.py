"""One score in several layers of a network: how unlikely is what they say, taken together?

    s(x) = sum_l -log p_l(x)          higher = more OOD; nats

p_l(x): share of reference rows on which the score, fitted on layer l alone, is at least as high (surprise.py).
Reads `Outputs.layers`, L features (B, F_i): of a ResNet each stage, averaged over height and width. In one string a
score with settings stands in quotes: layers:score="knn:k=50".
Inner layers see strokes and textures, not classes: they help against OOD that looks unlike the known images and harm
against OOD that looks like them. ResNet-20 for CIFAR-10, three stages, bank of 20,000; AUROC in %, feature -> layers:

                      CIFAR-100       TIN             MNIST           Texture         Scenes
    unit Mahalanobis  85.2 -> 79.0    87.1 -> 81.1    99.2 -> 99.97   96.0 -> 96.1    88.0 -> 81.9
    k-NN, k = 50      87.4 -> 82.2    89.2 -> 84.7    97.1 -> 99.9    94.7 -> 96.2    85.5 -> 80.0

Shapes: B batch, L layers, M knots, D = sum F_i. Fit: two fits for each layer, so `x` must be re-iterable.
Source: Lee et al., NeurIPS 2018, arXiv:1807.03888, add Mahalanobis distances of several layers. They fit a weight for
each layer by logistic regression on OOD or adversarial examples; here none is fitted, and p_l brings them to one scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import accumulate, pairwise
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from spherood import naming
from spherood.detectors.detector import Array, Classifier, Detector, Features, Neighbours
from spherood.detectors.surprise import curve_of, divided, summed
from spherood.errors import ConfigError, FitError, ShapeError
from spherood.outputs import Outputs


class Layers(Detector):
    """``Layers(score="knn:k=50").fit(Outputs(feature, layers=(first, second)), label).score(outputs)``."""

    reads = "layers"
    laws = ("rotation", "scale")  # of each layer by itself, as the default score has them
    columns: Tensor  # (L,), F_i
    knot: Tensor  # (L, M), reference scores, rising
    surprise: Tensor  # (L, M), -log p at each
    slope: Tensor  # (L,), of -log p beyond the last knot

    def __init__(self, *, score: str = "mahalanobis:unit=true") -> None:
        super().__init__()
        self.spec, self.members = score, nn.ModuleList()
        if not isinstance(score, str):
            raise ConfigError(f"Layers: score must be one as typed, got {score!r}. Try 'knn:k=50'.")
        one = self._unfitted(1)[0]
        if one.reads != "feature" or one.needs_classifier:
            lacks = f"reads {one.reads}" if one.reads != "feature" else "needs a classifier"
            raise ConfigError(f"Layers: {score} {lacks}, and a layer is a feature alone. Try 'knn:k=50'.")
        self.declare("columns", "knot", "surprise", "slope")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Fit the score on each layer of `Outputs`, or of batches of pairs (Outputs, label), and its curve.

        FitError as the score's, for bare arrays, and where x can be read only once.
        """
        rest, reference = divided(self, x, label)
        widths = _widths(x)
        members, curves = self._unfitted(len(widths)), []
        for member, (start, stop) in zip(members, pairwise(accumulate(widths, initial=0)), strict=True):
            part = slice(start, stop)
            curves.append(curve_of(member, Columns(rest.__iter__, part), Columns(reference.__iter__, part)))
            member.fit(Columns(lambda: self.batches(x, label), part))
        self.knot, self.surprise, self.slope = (torch.stack(some) for some in zip(*curves, strict=True))
        self.members, self.columns = nn.ModuleList(members), torch.tensor(widths, device=self.knot.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """The layers side by side, (B, D), to score (B,), float64."""
        return self._sum([member(part) for member, part in self._parts(x)])

    def forward_with_neighbours(self, x: Tensor, n: int) -> tuple[Tensor, Neighbours | None]:
        """The score, and the neighbours in the last layer, where the score looks for neighbours."""
        found = [member.forward_with_neighbours(part, n) for member, part in self._parts(x)]
        return self._sum([score for score, _ in found]), found[-1][1]

    @property
    def no_graph(self) -> str:
        """That of its score."""
        return self._unfitted(1)[0].no_graph

    def checked(self, x: Outputs | Array) -> Tensor:
        """As of any detector; ShapeError too where the layers are as wide together, but not each."""
        rows = super().checked(x)
        if isinstance(x, Outputs) and x.layers is not None and len(x.layers) > 1:  # a single one is all, side by side
            widths, fitted = [layer.shape[1] for layer in x.layers], self.columns.tolist()
            if widths != fitted:
                raise ShapeError(f"Layers.score: layers have {widths} columns, the fitted ones had {fitted}.")
        return rows

    @property
    def width(self) -> int:
        """Columns of all layers together."""
        return int(self.columns.sum())

    def _unfitted(self, count: int) -> list[Detector]:
        return [naming.build("detectors", *naming.parse_spec(self.spec)) for _ in range(count)]

    def _parts(self, x: Tensor) -> Iterator[tuple[Detector, Tensor]]:
        return zip(self.members, x.split(self.columns.tolist(), dim=1), strict=True)  # type: ignore[arg-type]

    def _sum(self, scores: list[Tensor]) -> Tensor:
        return summed(scores, self.knot, self.surprise, self.slope)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if (columns := state_dict.get(f"{prefix}columns")) is not None:
            self.members = nn.ModuleList(self._unfitted(len(columns)))  # loaded next, as children are
        super()._load_from_state_dict(state_dict, prefix, *args)


class Columns:
    """Some columns of a stream of rows, as often as one likes."""

    def __init__(self, rows: Callable[[], Iterator[tuple[Tensor, Tensor | None]]], part: slice) -> None:
        self.rows, self.part = rows, part

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        return ((rows[:, self.part], label) for rows, label in self.rows())


def _widths(x: Features) -> tuple[int, ...]:
    """F_i of every batch. FitError for bare arrays, ShapeError where batches differ."""
    found = set()
    for part in [x] if isinstance(x, Outputs | Tensor | np.ndarray) else (pair[0] for pair in x):
        if not isinstance(part, Outputs):
            raise FitError(
                "Layers.fit: an array does not tell one layer from the next. Pass Outputs(feature, layers=(...)), with "
                "a feature (B, F_i) of each layer."
            )
        found.add(tuple(layer.shape[1] for layer in part.layers or ()))
    if len(found) > 1:
        raise ShapeError(f"Layers.fit: batches have layers of {sorted(found)} columns. Use one encoder.")
    return found.pop()
