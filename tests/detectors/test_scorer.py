from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.covariance import EllipticEnvelope
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

from spherood import detectors
from spherood.detectors import Scorer, detector
from spherood.errors import ConfigError, FitError, NotFittedError, ShapeError
from spherood.metrics import auroc
from spherood.naming import members

Rows = NDArray[np.float64]

THEIRS = [
    IsolationForest(n_estimators=20, random_state=0),
    OneClassSVM(nu=0.1),
    LocalOutlierFactor(novelty=True),
    KernelDensity(bandwidth=0.5),
    GaussianMixture(random_state=0),
    EllipticEnvelope(random_state=0),
]
EVERY = pytest.mark.parametrize("theirs", THEIRS, ids=lambda it: type(it).__name__)


def drawn(rows: int, seed: int, at: float = 0) -> Rows:
    return at + np.random.default_rng(seed).normal(size=(rows, 3))


class Distance(BaseEstimator):
    """Distance from the origin, under a convention that nothing tells."""

    def fit(self, x: Rows, y: None = None) -> Distance:
        self.is_fitted_ = True  # a pipeline looks for an attribute that ends like this
        return self

    def decision_function(self, x: Rows) -> Rows:
        return np.linalg.norm(x, axis=1)


class LikePyOD(Distance):
    """The same, with the attribute that PyOD's fit leaves."""

    def fit(self, x: Rows, y: None = None) -> LikePyOD:
        self.decision_scores_ = self.decision_function(x)
        return self


class LikeScikitLearn(OutlierMixin, Distance):
    """The convention of the mixin: higher = more normal."""

    def decision_function(self, x: Rows) -> Rows:
        return -super().decision_function(x)


ROW = torch.tensor([[0.0, 3.0, 4.0]])


@EVERY
def test_planted_outliers_score_higher_with_the_auroc_of_scikit_learn(theirs: Any) -> None:
    theirs.fit(drawn(300, 0))
    known, far, near = drawn(100, 1), drawn(40, 2, at=6), drawn(100, 3, at=1)
    scorer = Scorer(theirs).fit(drawn(10, 4))
    id_score = scorer.score(known)
    assert float(scorer.score(far).min()) > float(id_score.quantile(0.95))
    expected = roc_auc_score(np.repeat([1, 0], 100), theirs.score_samples(np.concatenate([known, near])))
    assert 0.6 < expected < 0.95
    assert auroc(id_score, scorer.score(near)) == pytest.approx(expected, abs=1e-12)


@EVERY
def test_the_score_is_minus_score_samples_to_the_last_digit(theirs: Any) -> None:
    theirs.fit(drawn(300, 0))
    for x in (drawn(20, 1), drawn(20, 1).astype(np.float32)):
        score = Scorer(theirs).score(x)
        assert score.dtype == torch.float64
        assert np.array_equal(score.numpy(), -theirs.score_samples(x))


def test_contamination_moves_no_score() -> None:
    x = drawn(300, 0)
    few, many = (IsolationForest(n_estimators=20, random_state=0, contamination=it).fit(x) for it in (0.01, 0.4))
    assert not np.allclose(few.decision_function(x), many.decision_function(x))
    assert torch.equal(Scorer(few).score(x), Scorer(many).score(x))


def test_a_batch_of_one_and_of_none_and_any_chunk_score_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, x = Scorer(KernelDensity().fit(drawn(50, 0))), drawn(20, 1)
    whole = scorer.score(x)
    torch.testing.assert_close(torch.cat([scorer.score(row[None]) for row in x]), whole)
    monkeypatch.setattr(detector, "SCORE_ROWS", 7)
    torch.testing.assert_close(scorer.score(x), whole)
    assert scorer.score(x[:0]).shape == (0,)


def test_the_sign_of_pyod_is_kept_and_that_of_an_outlier_mixin_turned() -> None:
    assert Scorer(LikePyOD().fit(drawn(9, 0))).score(ROW).tolist() == [5.0]
    assert Scorer(LikeScikitLearn()).score(ROW).tolist() == [5.0]
    of_pyod = type("KNN", (Distance,), {"__module__": "pyod.models.knn"})  # before its fit there is no attribute
    assert Scorer(of_pyod()).score(ROW).tolist() == [5.0]


@pytest.mark.parametrize("inside", [LikePyOD, LikeScikitLearn])
def test_what_holds_another_has_the_sign_of_what_it_holds(inside: type[Any]) -> None:
    fitted = inside().fit(drawn(9, 0))
    search = GridSearchCV(fitted, {}, scoring=lambda *_: 0.0).fit(drawn(9, 0))
    for outside in (make_pipeline("passthrough", fitted), FrozenEstimator(fitted), search):
        assert Scorer(outside).score(ROW).tolist() == [5.0]
        assert Scorer(make_pipeline("passthrough", outside)).score(ROW).tolist() == [5.0]


def test_the_steps_before_the_last_are_taken_too() -> None:
    x = 100 + 50 * drawn(300, 0)
    pipeline = make_pipeline(StandardScaler(), IsolationForest(n_estimators=20, random_state=0)).fit(x)
    assert np.array_equal(Scorer(pipeline).score(x).numpy(), -pipeline.score_samples(x))


def test_a_word_decides_the_sign_where_nothing_tells_and_against_what_tells() -> None:
    assert Scorer(Distance(), higher="ood").score(ROW).tolist() == [5.0]
    assert Scorer(Distance(), higher="normal").score(ROW).tolist() == [-5.0]
    assert Scorer(LikeScikitLearn(), higher="ood").score(ROW).tolist() == [-5.0]


def test_an_unknown_sign_is_asked_for() -> None:
    with pytest.raises(ConfigError) as raised:
        Scorer(Distance())
    assert str(raised.value) == (
        "Scorer: does a high decision_function of Distance mean normal or OOD? It follows the convention of neither "
        "scikit-learn's outlier detectors nor PyOD. Say it with higher='normal' or higher='ood'."
    )
    with pytest.raises(ConfigError, match=r"^Scorer: higher must be 'normal' or 'ood', got 'abnormal'\.$"):
        Scorer(Distance(), higher="abnormal")  # type: ignore[arg-type]


def test_two_classes_are_asked_for_their_sign_and_three_are_refused() -> None:
    x = drawn(30, 0)
    two, three = (LogisticRegression().fit(x, np.arange(30) % classes) for classes in (2, 3))
    with pytest.raises(ConfigError, match="does a high decision_function of LogisticRegression mean normal or OOD"):
        Scorer(two)
    assert np.array_equal(Scorer(two, higher="ood").score(x).numpy(), two.decision_function(x))
    with pytest.raises(ShapeError) as raised:
        Scorer(three, higher="ood").score(x[:5])
    assert str(raised.value) == (
        "Scorer(LogisticRegression).score: decision_function gave (5, 3) for 5 rows, expected (5,). A classifier gives "
        "one column a class: pass those to a score of logits, such as MSP."
    )


@pytest.mark.parametrize("useless", [StandardScaler(), LocalOutlierFactor(), detectors.KNN()])
def test_what_scores_no_new_rows_is_refused(useless: Any) -> None:
    with pytest.raises(ConfigError) as raised:
        Scorer(useless)
    assert str(raised.value) == (
        f"Scorer: {type(useless).__name__} has neither score_samples nor decision_function. Pass a fitted object that "
        "scores new rows; a LocalOutlierFactor does so with novelty=True."
    )


def test_what_is_not_fitted_is_told_by_fit_and_by_score() -> None:
    message = r"^Scorer\(OneClassSVM\): the OneClassSVM is not fitted\. Fit it before it scores\.$"
    with pytest.raises(FitError, match=message):
        Scorer(OneClassSVM()).fit(drawn(5, 0))
    with pytest.raises(NotFittedError, match=message):
        Scorer(OneClassSVM()).score(drawn(5, 0))


def test_fit_learns_nothing_and_takes_every_kind_of_data() -> None:
    scorer, x = Scorer(KernelDensity().fit(drawn(50, 0))), drawn(20, 1)
    before = scorer.score(x)
    for data in (9 + x, torch.from_numpy(x), [(x, np.arange(20)), (x, None)]):
        assert scorer.fit(data) is scorer
    assert torch.equal(scorer.score(x), before)
    with pytest.raises(FitError, match="no data"):
        scorer.fit(x[:0])


def test_another_width_is_told_where_the_object_knows_its_own() -> None:
    scorer = Scorer(KernelDensity().fit(drawn(50, 0)))
    with pytest.raises(ShapeError, match=r"^Scorer\(KernelDensity\)\.score: features have 2 columns, the fitted ones"):
        scorer.score(drawn(5, 0)[:, :2])
    assert Scorer(Distance(), higher="ood").score(drawn(5, 0)[:, :2]).shape == (5,)


def test_an_error_of_the_object_itself_comes_through() -> None:
    class Broken(LikeScikitLearn):
        def decision_function(self, x: Rows) -> Rows:
            raise ZeroDivisionError("theirs")

    with pytest.raises(ZeroDivisionError, match="theirs"):
        Scorer(Broken()).score(ROW)


def test_it_is_offered_to_python_and_to_no_recipe_and_holds_no_tensor() -> None:
    scorer = detectors.Scorer(IsolationForest())
    assert (scorer.wrapped, scorer.name) == ("IsolationForest", "Scorer(IsolationForest)")
    assert "scorer" not in members("detectors")
    assert scorer.state_dict() == {}
