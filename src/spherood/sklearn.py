"""scikit-learn's conventions around our scores: an estimator whose signs, threshold and labels are scikit-learn's.

    score_samples = -s          decision_function = score_samples - offset_          predict = +1 known, -1 outlier

s: the score of a detector, higher = more OOD, in its own unit; here higher = more normal. Where s > threshold is our
alarm, score_samples < offset_ = -threshold is theirs: the same rows, on the boundary too.

`fit` sets offset_ as scikit-learn does, to a quantile of training scores, with one difference: they are cross-fitted.
Each fold is scored by a detector that was fitted on the others, because a row of the bank is its own nearest neighbour
and its score is too low. That quantile comes with no promise: the scores come from several detectors, none of which is
the one that is kept, so a new score is not exchangeable with them. `calibrate` on held-out rows gives the promise.
Shapes: N rows, D columns.
"""

from __future__ import annotations

import math
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from spherood.bundle import Promise
from spherood.calibration import threshold
from spherood.detectors import Detector
from spherood.errors import ConfigError, optional
from spherood.metrics.fractions import check_fraction
from spherood.naming import build, parse_spec

base, utils, validation, multiclass = (
    optional(module, "sklearn", "spherood.sklearn")
    for module in ("sklearn.base", "sklearn.utils", "sklearn.utils.validation", "sklearn.utils.multiclass")
)


class OODDetector(base.OutlierMixin, base.BaseEstimator):  # type: ignore[misc, name-defined]
    """``OODDetector("mahalanobis:unit=true").fit(X, y).calibrate(X_held_out).predict(X_new)``.

    detector: a score as the command line names it. "knn" without k takes the square root of N, at most 50: with few
    rows 50 is near the size of a class, where k-NN fails. (Not called `score`: scikit-learn looks for a method there.)
    false_alarm_rate: share of known rows that may be called outliers. confidence: of the promise of `calibrate`.
    folds: for the offset of `fit`. random_state: who is in which fold; nothing else is random.

    Fitted: `detector_`, `offset_`, `n_features_in_`, `feature_names_in_` where X has names, and, after `calibrate`
    alone, `promise_`.
    """

    detector_: Detector
    offset_: float
    promise_: Promise

    def __init__(
        self,
        detector: str = "knn",
        *,
        false_alarm_rate: float = 0.05,
        confidence: float = 0.95,
        folds: int = 5,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.detector = detector
        self.false_alarm_rate = false_alarm_rate
        self.confidence = confidence
        self.folds = folds
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Forget the past; learn from known rows X (N, D) and their classes y (N,), integers or names.

        Scores that use no labels ignore y. ConfigError for a setting, FitError where the detector cannot be fitted;
        scikit-learn's own ValueError for X or y of the wrong kind.
        """
        check_fraction("OODDetector", "false_alarm_rate", self.false_alarm_rate)
        check_fraction("OODDetector", "confidence", self.confidence)
        if not isinstance(self.folds, Integral) or self.folds < 2:
            raise ConfigError(f"OODDetector: folds must be a whole number of at least 2, got {self.folds!r}. Try 5.")
        checks = {"dtype": (np.float64, np.float32), "ensure_min_samples": 2}
        if y is None:
            X = validation.validate_data(self, X, **checks)
        else:
            X, y = validation.validate_data(self, X, y, **checks)
            multiclass.check_classification_targets(y)

        score = np.empty(len(X))
        fold = self._folds(len(X), y)
        for number in range(fold.max() + 1):
            out = fold == number
            part = self._fitted(X[~out], None if y is None else y[~out], rows=len(X))
            score[out] = _score_samples(part, X[out])
        self.detector_ = self._fitted(X, y, rows=len(X))
        self.offset_ = float(np.quantile(score, self.false_alarm_rate))
        if hasattr(self, "promise_"):
            del self.promise_
        return self

    def calibrate(self, X: Any) -> Self:
        """Set `offset_` from known rows X (n, D) that took no part in the fit, and state what it keeps in `promise_`.

        With probability `confidence` over such X, at most `false_alarm_rate` of further known rows are called outliers.
        CalibrationError, with the number that would do, where n is too small; the old offset then stays.
        """
        held_out = -self.score_samples(X)
        self.offset_ = -threshold(held_out, self.false_alarm_rate, self.confidence)
        self.promise_ = Promise(
            false_alarm_rate=self.false_alarm_rate, confidence=self.confidence, held_out=len(held_out)
        )
        return self

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Minus the detector's score of X (B, D), (B,); higher = more normal."""
        validation.check_is_fitted(self)
        X = validation.validate_data(self, X, dtype=(np.float64, np.float32), reset=False)
        return _score_samples(self.detector_, X)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """`score_samples` minus `offset_`, (B,); below 0 = outlier."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """+1 for what looks known, -1 for an outlier, (B,)."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def fit_predict(self, X: Any, y: Any = None) -> NDArray[np.int64]:
        """`fit(X, y).predict(X)`; scikit-learn's own would drop y. Rows of the fit score as too normal: see above."""
        return self.fit(X, y).predict(X)

    def _folds(self, rows: int, y: Any) -> NDArray[np.int64]:
        """The fold of each row, (rows,); every class is dealt over all of them like cards."""
        order = utils.check_random_state(self.random_state).permutation(rows)
        if y is not None:
            order = order[np.argsort(y[order], kind="stable")]
        fold = np.empty(rows, dtype=np.int64)
        fold[order] = np.arange(rows) % self.folds
        return fold

    def _fitted(self, X: Any, y: Any, rows: int) -> Detector:
        """A detector of its own for X; k follows the rows of the whole, so that every fold has the same."""
        if not isinstance(self.detector, str):
            raise ConfigError(f"OODDetector: detector must be text such as 'knn:k=10', got {self.detector!r}.")
        name, settings = parse_spec(self.detector)
        if name == "knn":
            settings = {"k": min(50, math.isqrt(rows)), **settings}
        made: Detector = build("detectors", name, settings)
        return made.fit(X, None if y is None else np.unique(y, return_inverse=True)[1])  # 0..C-1, whoever is absent


def _score_samples(detector: Detector, X: Any) -> NDArray[np.float64]:
    return -detector.score(X).double().numpy()
