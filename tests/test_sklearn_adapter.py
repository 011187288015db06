from __future__ import annotations

import math
import pickle
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from spherood.bundle import Promise
from spherood.detectors import KNN, Mahalanobis, Scorer
from spherood.errors import CalibrationError, ConfigError, FitError
from spherood.sklearn import OODDetector

Rows = NDArray[np.float64]
CLASSES, DIM = 3, 4


def known(rows: int, seed: int = 0) -> tuple[Rows, NDArray[np.int64]]:
    """Class c around 4 e_c."""
    label = np.arange(rows) % CLASSES
    noise = np.random.default_rng(seed).normal(size=(rows, DIM))
    return 4 * np.eye(DIM)[label] + 0.5 * noise, label


def on_circle(*degrees: float) -> Rows:
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


NO_LABELS = "the check fits without y, and this score needs labels"


def without_labels(estimator: OODDetector) -> dict[str, str]:
    checks = ("check_outliers_train", "check_outliers_fit_predict")
    return dict.fromkeys(checks, NO_LABELS) if estimator.detector.startswith("mahalanobis") else {}


@parametrize_with_checks([OODDetector(), OODDetector("mahalanobis")], expected_failed_checks=without_labels)
def test_the_checks_of_scikit_learn_pass(estimator: OODDetector, check: Any) -> None:
    check(estimator)


def test_offset_is_a_quantile_of_scores_without_oneself_as_worked_out_by_hand() -> None:
    x = on_circle(0, 60, 90, 180, 270)  # squared chord to the nearest other: 1, 2 - sqrt 3, 2 - sqrt 3, 2, 2
    for rate, by_hand in [(0.25, -2), (0.5, -1), (0.625, (-1 - (2 - math.sqrt(3))) / 2)]:
        judge = OODDetector("knn:k=1", false_alarm_rate=rate, folds=5).fit(x)
        assert judge.offset_ == pytest.approx(by_hand, abs=1e-6)
    assert judge.score_samples(x) == pytest.approx(0, abs=1e-6)  # the detector that is kept has every row in its bank


def test_the_cross_fitted_scores_are_those_of_a_slow_loop_over_folds() -> None:
    x, label = known(41)
    order = np.random.RandomState(7).permutation(41)
    order = np.concatenate([order[label[order] == c] for c in range(CLASSES)])
    score = np.empty(41)
    for number in range(4):
        out = order[number::4]
        rest = np.setdiff1d(np.arange(41), out)
        score[out] = Mahalanobis().fit(x[rest], label[rest]).score(x[out]).numpy()
    judge = OODDetector("mahalanobis", folds=4, random_state=7, false_alarm_rate=0.1).fit(x, label)
    assert judge.offset_ == pytest.approx(np.sort(-score)[4], rel=1e-5)  # 0.1 of 40 steps is the fifth


@pytest.mark.parametrize(("rows", "k"), [(2, 1), (5, 2), (99, 9), (2499, 49), (2500, 50), (4000, 50)])
def test_k_is_the_square_root_of_the_rows_up_to_50_unless_it_is_given(rows: int, k: int) -> None:
    x = np.random.default_rng(0).normal(size=(rows, 2))
    assert OODDetector(folds=2).fit(x).detector_.k == k
    assert OODDetector("knn:k=1").fit(x).detector_.k == 1


def test_every_fold_has_the_k_of_the_whole() -> None:
    x = known(9)[0]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    squared = np.sort(np.square(unit[:, None] - unit).sum(axis=2))  # column 0 is the row itself
    judge = OODDetector(folds=9, false_alarm_rate=0.25).fit(x)  # the root of 9 rows is 3, that of the 8 others 2
    assert judge.offset_ == pytest.approx(np.sort(-squared[:, 3])[2], rel=1e-5)


def test_new_known_rows_are_called_outliers_about_as_often_as_asked_and_far_ones_always() -> None:
    judge = OODDetector(false_alarm_rate=0.1, random_state=0).fit(known(1000)[0])
    assert np.mean(judge.predict(known(2000, 1)[0]) == -1) == pytest.approx(0.1, abs=0.03)
    assert np.all(judge.predict(-known(50, 2)[0]) == -1)


def test_signs_are_those_of_scikit_learn_and_the_boundary_is_known() -> None:
    x, new = known(200)[0], known(59, 1)[0]
    judge = OODDetector("knn:k=5").fit(x).calibrate(new)
    ours = KNN(k=5).fit(x).score(new).double().numpy()
    assert np.array_equal(judge.score_samples(new), -ours)
    assert judge.offset_ == -ours.max()  # 59 rows are the fewest for 0.05, and none may lie beyond
    assert np.array_equal(judge.decision_function(new), ours.max() - ours)
    assert np.all(judge.predict(new) == 1)
    judge.offset_ = float(np.nextafter(judge.offset_, 0))
    assert np.array_equal(judge.predict(new) == -1, ours == ours.max())


def test_only_calibration_promises_and_a_new_fit_forgets_it() -> None:
    x = known(200)[0]
    judge = OODDetector(false_alarm_rate=0.1, confidence=0.9).fit(x)
    assert not hasattr(judge, "promise_")
    assert judge.calibrate(known(80, 1)[0]) is judge
    assert judge.promise_ == Promise(false_alarm_rate=0.1, confidence=0.9, held_out=80)
    assert not hasattr(judge.fit(x), "promise_")


def test_too_few_held_out_rows_are_refused_and_leave_the_offset() -> None:
    judge = OODDetector().fit(known(200)[0])
    before = judge.offset_
    with pytest.raises(CalibrationError) as raised:
        judge.calibrate(known(58, 1)[0])
    assert str(raised.value) == (
        "Threshold: a false-alarm rate of 0.05 needs at least 59 held-out ID scores, got 58. "
        "Collect 1 more or ask for 0.06."
    )
    assert judge.offset_ == before
    assert not hasattr(judge, "promise_")


def test_the_promise_is_kept_in_the_share_of_draws_it_names() -> None:
    judge = OODDetector("knn:k=3", false_alarm_rate=0.1, confidence=0.8).fit(known(60)[0])
    many = np.sort(judge.score_samples(known(30_000, 1)[0]))
    draws, broken = 400, 0
    for seed in range(draws):
        judge.calibrate(known(60, 2 + seed)[0])
        broken += bool(np.searchsorted(many, judge.offset_, side="left") / len(many) > 0.1)
    # 60 held-out scores allow 3 above: P(Bin(60, .1) <= 3) = .137
    assert broken == pytest.approx(0.137 * draws, abs=3 * math.sqrt(draws * 0.137 * 0.863))


def test_labels_are_integers_or_names_in_any_numbering() -> None:
    x, label = known(90)
    expected = -Mahalanobis().fit(x, label).score(x).double().numpy()
    for y in (label, 10 * label - 7, np.array(["cat", "dog", "eel"])[label], [str(it) for it in label]):
        judge = OODDetector("mahalanobis", random_state=0).fit(x, y)
        np.testing.assert_allclose(judge.score_samples(x), expected, rtol=1e-5)
    assert np.array_equal(OODDetector("knn").fit(x, label).score_samples(x), OODDetector().fit(x).score_samples(x))


def test_small_classes_are_dealt_over_all_folds_and_a_single_row_is_no_obstacle() -> None:
    x, label = known(15)  # five a class and five folds: a class is never absent
    for seed in range(10):
        judge = OODDetector("mahalanobis:shrinkage=0.5", false_alarm_rate=0.01, random_state=seed).fit(x, label)
        assert judge.offset_ > -40  # without its class a row lies 100 and more away
    lonely = np.concatenate([label[:-1], [CLASSES]])
    assert len(OODDetector("mahalanobis:shrinkage=0.5").fit(x, lonely).detector_.mean) == CLASSES + 1


def test_a_score_that_needs_labels_says_so() -> None:
    with pytest.raises(FitError, match=r"^Mahalanobis\.fit: needs labels\. Call fit\(feature, label\)\.$"):
        OODDetector("mahalanobis").fit(known(90)[0])


def test_fit_predict_passes_the_labels_on() -> None:
    x, label = known(90)
    judge = OODDetector("mahalanobis:unit=true", random_state=0)
    assert np.array_equal(judge.fit_predict(x, label), clone(judge).fit(x, label).predict(x))


def test_the_same_seed_gives_the_same_offset_and_another_one_another() -> None:
    offsets = [OODDetector(random_state=seed).fit(known(60)[0]).offset_ for seed in (0, 0, 1)]
    assert offsets[0] == offsets[1] != offsets[2]


def test_it_is_a_step_of_a_pipeline_and_one_of_our_scores_again() -> None:
    x, label = known(200)
    pipeline = make_pipeline(StandardScaler(), OODDetector("mahalanobis")).fit(x, label)
    scaled = StandardScaler().fit_transform(x)
    expected = Mahalanobis().fit(scaled, label).score(scaled).double().numpy()
    np.testing.assert_allclose(-pipeline.score_samples(x), expected, rtol=1e-4)
    assert set(pipeline.predict(x)) == {1, -1}
    np.testing.assert_allclose(Scorer(pipeline).score(x).numpy(), expected, rtol=1e-4)


def test_names_of_columns_are_kept_and_their_order_is_checked() -> None:
    x = known(90)[0]
    names = ["a", "b", "c", "d"]
    table = pa.table(dict(zip(names, x.T, strict=True)))
    judge = OODDetector().fit(table)
    assert judge.feature_names_in_.tolist() == names
    assert np.array_equal(judge.score_samples(table), OODDetector().fit(x).score_samples(x))
    with pytest.raises(ValueError, match="feature names should match"):
        judge.predict(table.select(names[::-1]))


def test_a_pickled_one_scores_the_same_and_keeps_its_promise() -> None:
    x, label = known(90)
    for spec in ("knn", "mahalanobis:covariance=total:unit=true"):
        judge = OODDetector(spec).fit(x, label).calibrate(known(80, 1)[0])
        again = pickle.loads(pickle.dumps(judge))
        assert np.array_equal(again.decision_function(x), judge.decision_function(x))
        assert again.promise_ == judge.promise_


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "OODDetector: folds must be a whole number of at least 2, got 1. Try 5."),
        ({"folds": 2.5}, "OODDetector: folds must be a whole number of at least 2, got 2.5. Try 5."),
        ({"false_alarm_rate": 5}, "OODDetector: false_alarm_rate must lie strictly between 0 and 1, got 5. For 5 %"),
        ({"confidence": 1}, "OODDetector: confidence must lie strictly between 0 and 1, got 1. For 1 % write 0.01."),
        ({"detector": None}, "OODDetector: detector must be text such as 'knn:k=10', got None."),
        ({"detector": "kn"}, "detectors: there is no 'kn'. Did you mean 'knn'?"),
    ],
    ids=str,
)
def test_a_setting_that_makes_no_sense_is_told_by_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        OODDetector(**settings).fit(known(20)[0])


def test_k_beyond_the_rows_that_a_fold_leaves_is_told() -> None:
    with pytest.raises(FitError, match=r"KNN: k=17 is larger than the bank of 16 features\. Use k <= 16"):
        OODDetector("knn:k=17").fit(known(20)[0])


def test_labels_that_are_no_classes_are_refused_by_scikit_learn() -> None:
    x, label = known(20)
    with pytest.raises(ValueError, match="continuous"):
        OODDetector().fit(x, label + 0.5 * x[:, 0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        OODDetector().fit(x, label[:-1])


def test_without_scikit_learn_the_import_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'sklearn': raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Without())\n"
        "import spherood.sklearn"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.endswith(
        "MissingExtraError: spherood.sklearn: needs sklearn, which is not installed. "
        "Install it with: pip install 'spherood[sklearn]'\n"
    )
