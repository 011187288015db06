"""A fitted object of another library as one of our scores: scikit-learn, PyOD, or anything alike, in this process.

    s(h) = -g(h) where higher g is more normal, g(h) where it is more OOD          higher = more OOD; in the unit of g

g: `score_samples` where there is one, else `decision_function`. In scikit-learn the second is the first minus a
constant that follows `contamination`: the same order, but a threshold on it would move with a setting that means
nothing here; and densities have the first alone.
The sign of g is PyOD's (OOD) where the class is PyOD's or the object holds `decision_scores_`, else scikit-learn's
(normal) where scikit-learn defines the method or the class is an OutlierMixin; a Pipeline, a search and a
FrozenEstimator have that of what they hold. A classifier has neither: its sign tells one class from another.
Shapes: B batch, D dimension. Nothing is fitted, there is no tensor: it cannot be bundled or exported.
Source: `decision_function` and `score_samples` in the glossary of scikit-learn; `decision_scores_` in PyOD's
BaseDetector.
"""

from __future__ import annotations

from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.errors import ConfigError, FitError, NotFittedError, ShapeError
from spherood.metrics.scores import to_array

Higher = Literal["normal", "ood"]

METHODS = ("score_samples", "decision_function")
DELEGATES = {"sklearn.model_selection._search.BaseSearchCV", "sklearn.frozen._frozen.FrozenEstimator"}


class Scorer(Detector):
    """``Scorer(IsolationForest().fit(feature)).score(feature)``. higher: what a high g means, where it is not known."""

    laws = ()  # those of the object are its own

    def __init__(self, fitted: Any, *, higher: Higher | None = None) -> None:
        super().__init__()
        self.fitted = fitted
        methods = [method for method in METHODS if hasattr(fitted, method)]
        if not methods:
            raise ConfigError(
                f"Scorer: {self.wrapped} has neither score_samples nor decision_function. Pass a fitted object that "
                "scores new rows; a LocalOutlierFactor does so with novelty=True."
            )
        self.method = methods[0]
        if higher is not None and higher not in get_args(Higher):
            raise ConfigError(f"Scorer: higher must be 'normal' or 'ood', got {higher!r}.")
        known = higher or _convention(_inmost(fitted), self.method)
        if known is None:
            raise ConfigError(
                f"Scorer: does a high {self.method} of {self.wrapped} mean normal or OOD? It follows the convention of "
                "neither scikit-learn's outlier detectors nor PyOD. Say it with higher='normal' or higher='ood'."
            )
        self.higher: Higher = known

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Nothing to learn; FitError where the object is not fitted, told from its score of the first row."""
        first, _ = next(self.batches(x, label))
        try:
            self.score(first[:1])
        except NotFittedError as error:
            raise FitError(str(error)) from error
        return self

    @property
    def no_graph(self) -> str:
        """It is somebody else's code."""
        return f"its arithmetic is that of {self.wrapped}"

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to score (B,), float64. NotFittedError where the object says so."""
        try:
            given = to_array(getattr(self.fitted, self.method)(x.numpy()))
        except Exception as error:
            if type(error).__name__ != "NotFittedError":  # by name: scikit-learn is not imported to ask for its class
                raise
            raise NotFittedError(f"{self.name}: the {self.wrapped} is not fitted. Fit it before it scores.") from error
        if given.shape != x.shape[:1]:
            raise ShapeError(
                f"{self.name}.score: {self.method} gave {given.shape} for {len(x)} rows, expected ({len(x)},). "
                "A classifier gives one column a class: pass those to a score of logits, such as MSP."
            )
        score = torch.from_numpy(given.astype(np.float64))
        return -score if self.higher == "normal" else score

    @property
    def wrapped(self) -> str:
        """The name of the object's class, or the one that an adapter says."""
        return getattr(self.fitted, "shown_as", type(self.fitted).__name__)

    @property
    def name(self) -> str:
        """`Scorer(IsolationForest)`."""
        return f"Scorer({self.wrapped})"

    @property
    def width(self) -> int | None:
        """Columns of what the object was fitted on, where it tells."""
        return getattr(self.fitted, "n_features_in_", None)


def _inmost(fitted: Any) -> Any:
    """The object whose method is called in the end."""
    while True:
        if hasattr(fitted, "steps"):
            fitted = fitted.steps[-1][1]
        elif _family(fitted) & DELEGATES:
            fitted = fitted.estimator
        else:
            return fitted


def _convention(fitted: Any, method: str) -> Higher | None:
    """What a high number means, told from where class and method come from; None where nothing tells."""
    family = _family(fitted)
    if hasattr(fitted, "decision_scores_") or any(name.startswith("pyod.") for name in family):
        return "ood"
    owner = next((it.__module__ for it in type(fitted).__mro__ if method in vars(it)), "")
    theirs = owner.startswith("sklearn.") or "sklearn.base.OutlierMixin" in family
    return "normal" if theirs and "sklearn.base.ClassifierMixin" not in family else None


def _family(thing: Any) -> set[str]:
    return {f"{it.__module__}.{it.__qualname__}" for it in type(thing).__mro__}
