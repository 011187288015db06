"""Features drawn here; classes are blobs on the axes unless a test says otherwise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import ceil, floor
from typing import Any, Self

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from torch import Tensor, nn

from spherood import calibration
from spherood.bundle import Bundle, Score
from spherood.bundle.fit import LABELLED, Fitted, Parts, class_mean, coreset, fit, parts_of
from spherood.bundle.rows import Rows
from spherood.detectors import KNN, MSP, Combined, Detector
from spherood.errors import CalibrationError, ConfigError, DataError
from spherood.metrics import binomial
from spherood.outputs import Outputs
from spherood.sphere import normalize

Array = NDArray[Any]


def numbered(n: int, label: Array | None = None) -> Rows:
    """Row i holds the feature (i,)."""
    return Rows.of_arrays("photos", np.arange(n, dtype=np.float32)[:, None], label)


def numbers(rows: Rows | None) -> list[int]:
    return [] if rows is None else rows.outputs.feature[:, 0].long().tolist()


def blobs(label: Sequence[int] | Array, seed: int, dim: int = 6, noise: float = 0.3) -> tuple[Array, Array]:
    """Feature (N, dim) and label (N,)."""
    y = np.asarray(label)
    z = np.random.default_rng(seed).normal(size=(len(y), dim))
    return (np.eye(dim)[y] + noise * z).astype(np.float32), y


def parts(classes: int = 5, each: int = 60, **kwargs: Any) -> Parts:
    """Three parts of `each` rows a class."""
    label = np.repeat(np.arange(classes), each)
    found = [Rows.of_arrays(name, *blobs(label, seed, **kwargs)) for seed, name in enumerate(("fit", "choose", "cal"))]
    return Parts(*found)


@given(n=st.integers(30, 300), several=st.booleans(), seed=st.integers(0, 99), classes=st.integers(0, 4))
def test_every_row_is_in_one_part_and_the_parts_have_their_sizes(
    n: int, several: bool, seed: int, classes: int
) -> None:
    known = numbered(n, np.arange(n) % classes if classes else None)
    found = parts_of(known, None, several=several, false_alarm_rate=0.3, confidence=0.95, seed=seed)
    assert sorted(numbers(found.fit) + numbers(found.choose) + numbers(found.calibrate)) == list(range(n))
    assert len(found.calibrate) in (floor(0.3 * n + 1e-9), ceil(0.3 * n - 1e-9))
    assert (found.choose is not None) == several
    if found.choose is not None:
        assert abs(len(found.choose) - 0.15 * n) < 1.3  # a share of a share: rounded twice
        assert abs(len(found.fit) - 0.55 * n) < 1.8
    if classes:
        assert found.fit.label is not None
        assert numbers(found.fit) == [i for i in numbers(found.fit) if 0 <= i < n]
        np.testing.assert_array_equal(found.fit.label, np.array(numbers(found.fit)) % classes)


def test_who_calibrates_does_not_depend_on_labels_and_who_is_fitted_is_stratified() -> None:
    label = np.repeat([0, 1, 2], [20, 60, 120])
    settings: dict[str, Any] = {"several": True, "false_alarm_rate": 0.05, "confidence": 0.9}
    plain, labelled = (parts_of(numbered(200, one), None, **settings) for one in (None, label))
    assert numbers(plain.calibrate) == numbers(labelled.calibrate)
    assert labelled.choose is not None
    assert labelled.choose.label is not None
    assert labelled.fit.label is not None
    left = np.bincount(np.delete(label, numbers(labelled.calibrate)))
    for count, share in ((np.bincount(labelled.fit.label), 55 / 70), (np.bincount(labelled.choose.label), 15 / 70)):
        assert (abs(count - share * left) < 1).all()


def test_another_seed_gives_other_parts_and_the_same_seed_the_same() -> None:
    def calibrating(seed: int) -> list[int]:
        found = parts_of(numbered(300), None, several=False, false_alarm_rate=0.05, confidence=0.95, seed=seed)
        return numbers(found.calibrate)

    assert calibrating(0) == calibrating(0) != calibrating(1)


@pytest.mark.parametrize("several", [False, True])
def test_held_out_rows_that_come_apart_all_calibrate_and_the_known_ones_do_not(several: bool) -> None:
    known, held_out = numbered(40), numbered(59)
    found = parts_of(known, held_out, several=several, false_alarm_rate=0.05, confidence=0.95)
    assert found.calibrate is held_out
    assert sorted(numbers(found.fit) + numbers(found.choose)) == list(range(40))
    assert (len(found.fit), len(numbers(found.choose))) == ((32, 8) if several else (40, 0))


def test_too_few_held_out_rows_that_come_apart_are_refused() -> None:
    with pytest.raises(CalibrationError, match=r"needs at least 59 held-out ID scores, got 58\. Collect 1 more"):
        parts_of(numbered(400), numbered(58), several=False, false_alarm_rate=0.05, confidence=0.95)


@pytest.mark.parametrize("several", [False, True])
def test_no_group_is_in_two_parts(several: bool) -> None:
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(60), rng.integers(1, 12, 60)))
    n = len(group)
    known = numbered(n, np.arange(n) % 3)
    found = parts_of(known, None, several=several, false_alarm_rate=0.1, confidence=0.95, group=group)
    members = [set(group[numbers(part)].tolist()) for part in (found.fit, found.choose, found.calibrate) if part]
    assert len(members) == 2 + several
    assert sum(map(len, members)) == len(set.union(*members)) == 60
    assert abs(len(found.calibrate) - 0.3 * n) < 3
    assert sorted(numbers(found.fit) + numbers(found.choose) + numbers(found.calibrate)) == list(range(n))


MESSAGE = re.compile(
    r"photos: of ([\d,]+) rows ([\d,]+) \(30 %\) would calibrate, and a false-alarm rate of (\S+) with confidence "
    r"(\S+) needs ([\d,]+)\. Give ([\d,]+) rows or more, or held-out ones apart, or ask for a rate of (\S+) or more\."
)


@pytest.mark.parametrize(
    ("n", "rate", "confidence"), [(100, 0.05, 0.95), (196, 0.05, 0.95), (4, 0.5, 0.99), (4000, 0.001, 0.95)]
)
def test_too_few_rows_are_refused_with_numbers_that_are_true(n: int, rate: float, confidence: float) -> None:
    def divide(n: int, rate: float) -> Parts:
        return parts_of(numbered(n), None, several=False, false_alarm_rate=rate, confidence=confidence)

    with pytest.raises(CalibrationError) as caught:
        divide(n, rate)
    told = MESSAGE.fullmatch(str(caught.value))
    assert told
    rows, would, asked, sure, least, enough, possible = (float(text.replace(",", "")) for text in told.groups())
    assert (rows, would, asked, sure) == (n, floor(0.3 * n), rate, confidence)
    assert (1 - rate) ** least <= 1 - confidence < (1 - rate) ** (least - 1)
    assert len(divide(int(enough), rate).calibrate) >= least
    with pytest.raises(CalibrationError):
        divide(int(enough) - 1, rate)
    divide(n, possible)
    with pytest.raises(CalibrationError):
        divide(n, possible - 0.001)


@pytest.mark.parametrize(("n", "confidence"), [(3, 0.95), (4, 0.9999)])
def test_a_rate_that_no_number_of_rows_allows_is_not_offered(n: int, confidence: float) -> None:
    with pytest.raises(CalibrationError, match=r"Give [\d,]+ rows or more, or held-out ones apart\.$"):
        parts_of(numbered(n), None, several=False, false_alarm_rate=0.05, confidence=confidence)


def test_the_promise_holds_through_the_whole_path() -> None:
    """1,000 rows of noise, 300 of which calibrate: the rate on fresh rows, over 200 draws of everything."""
    rate, held_out, draws, fresh = 0.05, 300, 200, 4000
    above = calibration.allowed_exceedances(held_out, rate)
    assert above == 8
    found = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        feature = (rng.normal(size=(1000 + fresh, 4)) + np.eye(4)[0]).astype(np.float32)
        bundle = Bundle.fit(feature[:1000], score="knn:k=1", false_alarm_rate=rate, seed=seed)
        assert len(bundle.held_out_score) == bundle.promise.held_out == held_out
        found.append(np.mean(bundle.runtime.detector.score(feature[1000:]).numpy() > bundle.threshold()))
    broken = sum(share > rate for share in found)
    law = [above + 1, held_out - above]  # of the true rate: Beta
    mean, deviation = law[0] / sum(law), np.sqrt(law[0] * law[1] / sum(law) ** 2 / (sum(law) + 1))
    assert 1 - np.exp(binomial.log_at_most(broken - 1, draws, 0.05)) > 0.001, f"{broken} of {draws} broke the promise"
    assert abs(np.mean(found) - mean) < 4 * deviation / np.sqrt(draws)
    assert 0.8 * deviation < np.std(found) < 1.35 * deviation  # with the noise of 4,000 fresh rows on top


class Planted(Detector):
    """1 for rows far from the classes it was fitted on, else 0; also 0 where column 0 is below `blind`."""

    mean: Tensor

    def __init__(self, *, blind: float = 0.0) -> None:
        super().__init__()
        self.blind = blind
        self.declare("mean")

    def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
        rows, labels = (torch.cat(some) for some in zip(*self.batches(x, label), strict=True))
        self.mean = torch.stack([rows[labels == y].mean(dim=0) for y in labels.unique()])[:, 1:]
        return self

    def forward(self, x: Tensor) -> Tensor:
        far = torch.cdist(x[:, 1:], self.mean).amin(dim=1) > 0.5
        return (far & (x[:, 0] >= self.blind)).float()


class Sharp(Planted):
    """Another name."""


def planted(label: int | Sequence[int], count: int = 100) -> Rows:
    """`count` rows a class on its axis; column 0 runs evenly from 0 to 1 within a class."""
    labels = np.repeat(np.atleast_1d(label), count)
    even = np.tile((np.arange(count) + 0.5) / count, len(labels) // count)
    return Rows.of_arrays("planted", np.column_stack([even, np.eye(8)[labels]]).astype(np.float32), labels)


def planted_parts() -> Parts:
    return Parts(planted(range(5)), planted(range(5)), planted(range(5)))


def test_of_the_scores_within_the_margin_of_the_best_the_first_is_taken() -> None:
    """Blind to a share b of the hidden rows: AUROC 1 - b / 2, as ties count half."""
    near, far = (fit(planted_parts(), [Planted(blind=blind), Sharp()]).choice for blind in (0.03, 0.05))
    assert near.auroc == pytest.approx({"Planted": 0.985, "Sharp": 1.0})
    assert far.auroc == pytest.approx({"Planted": 0.975, "Sharp": 1.0})
    assert (near.chosen, far.chosen) == ("Planted", "Sharp")
    assert near.against == "hidden classes"


def test_with_validation_ood_the_largest_auroc_wins_and_is_taken_against_all_sources_together() -> None:
    ood = {"b": planted(6, 40), "a": planted(7, 160)}
    found = fit(planted_parts(), [Planted(blind=0.03), Sharp()], validation_ood=ood).choice
    assert found.auroc == pytest.approx({"Planted": 1 - (1 + 5) / 200 / 2, "Sharp": 1.0})  # blind to 1 of 40, 5 of 160
    assert (found.chosen, found.against) == ("Sharp", "b and a")


def test_a_score_broken_by_lengths_that_vary_is_dropped_even_where_it_comes_first() -> None:
    found = parts(noise=0.1)
    rng = np.random.default_rng(9)
    scaled = Parts(
        *(
            Rows.of_arrays(
                rows.name, rows.outputs.feature * torch.from_numpy(rng.lognormal(0, 3, (len(rows), 1))), rows.label
            )
            for rows in (found.fit, found.choose, found.calibrate)
            if rows
        )
    )
    choice = fit(scaled, ["mahalanobis", "mahalanobis:unit=true", "knn:k=10"]).choice
    assert choice.chosen == "mahalanobis:unit=true"
    assert choice.auroc["mahalanobis"] < 0.8 < 0.95 < choice.auroc["knn:k=10"]


def test_what_was_chosen_is_fitted_on_every_row_of_its_part_and_on_no_other() -> None:
    found = parts()
    fitted = fit(found, ["knn:k=10", "mahalanobis"])
    assert (fitted.choice.chosen, fitted.score) == ("knn:k=10", Score.model_validate({"use": "knn", "with": {"k": 10}}))
    torch.testing.assert_close(fitted.detector.bank, normalize(found.fit.outputs.feature))
    again = KNN(k=10).fit(found.fit.outputs.feature)
    np.testing.assert_array_equal(fitted.held_out_score, again.score(found.calibrate.outputs.feature).double().numpy())
    assert fitted.class_mean is not None
    torch.testing.assert_close(fitted.class_mean, class_mean(found.fit))


def test_one_candidate_is_not_compared() -> None:
    choice = fit(parts(), ["knn:k=3"]).choice
    assert (choice.chosen, choice.auroc, choice.against) == ("knn:k=3", {}, "")


def test_the_default_candidates_begin_with_the_combination_and_each_can_be_built() -> None:
    fitted = fit(parts(each=40), LABELLED)
    assert list(fitted.choice.auroc) == list(LABELLED)
    assert isinstance(fitted.detector, Combined)


def with_logits(rows: Rows) -> Rows:
    return Rows(rows.name, Outputs(rows.outputs.feature, logits=4 * rows.outputs.feature), rows.label, rows.classes)


def all_with_logits() -> Parts:
    found = parts(each=20)
    assert found.choose
    return Parts(with_logits(found.fit), with_logits(found.choose), with_logits(found.calibrate))


def test_a_score_that_knows_the_hidden_classes_needs_validation_ood_or_stands_alone() -> None:
    found = all_with_logits()
    rest = ": knows the classes that would be hidden from it, so it cannot be chosen without OOD. Give validation OOD, "
    rest += "or name it alone."
    forest = IsolationForest(n_estimators=5, random_state=0).fit(found.fit.outputs.feature.numpy())
    for candidate, name in (("msp", "msp"), (forest, "IsolationForest")):
        with pytest.raises(ConfigError, match=f"^{re.escape(name + rest)}$"):
            fit(found, ["knn:k=10", candidate])
        alone = fit(found, [candidate])
        assert (alone.choice.chosen, alone.choice.auroc) == (name, {})
        ood = {"corner": with_logits(Rows.of_arrays("corner", np.ones((30, 6), np.float32)))}
        assert set(fit(found, ["knn:k=10", candidate], validation_ood=ood).choice.auroc) == {"knn:k=10", name}


@pytest.mark.parametrize("label", [None, np.zeros(300, dtype=np.int64)], ids=["no labels", "one class"])
def test_without_two_classes_several_scores_need_validation_ood(label: Array | None) -> None:
    feature, _ = blobs(np.zeros(300, dtype=np.int64), 0)
    rows = Rows.of_arrays("rows", feature, label)
    message = "knn:k=3, knn:k=5: without OOD a score is chosen by hiding classes, and there are no two classes."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        fit(Parts(rows, rows, rows), ["knn:k=3", "knn:k=5"])


def test_where_hiding_leaves_nothing_to_compare_it_is_told() -> None:
    rows, only = Rows.of_arrays("rows", *blobs([0, 1] * 30, 0)), Rows.of_arrays("few", *blobs([0, 0], 1))
    with pytest.raises(DataError, match=r"few: too few images of each class to choose a score by\. Name one score\."):
        fit(Parts(rows, only, rows), ["knn:k=3", "mahalanobis"])


def unequal() -> Parts:
    """Held out: 80, 70, 40 and 30 rows of four classes; of a fifth none."""
    held_out = Rows.of_arrays("cal", *blobs(np.repeat([0, 1, 2, 3], [80, 70, 40, 30]), 3, noise=0.1))
    return Parts(Rows.of_arrays("fit", *blobs(np.repeat(np.arange(5), 20), 0)), None, held_out)


def by_class(**kwargs: Any) -> Fitted:
    return fit(unequal(), ["knn:k=3"], by_class=True, **kwargs)


def test_thresholds_by_class_are_those_of_the_predicted_classes_and_the_shared_ones_are_listed() -> None:
    fitted = by_class()
    held_out = unequal().calibrate
    mean = np.stack([row / np.linalg.norm(row) for row in np.asarray(fitted.class_mean, dtype=np.float64)])
    feature = held_out.outputs.feature.numpy()
    predicted = (feature / np.linalg.norm(feature, axis=1, keepdims=True) @ mean.T).argmax(axis=1)
    np.testing.assert_array_equal(fitted.held_out_class, predicted)
    np.testing.assert_array_equal(predicted, held_out.label)  # the noise is small
    expected = calibration.group_thresholds(fitted.held_out_score, predicted, 0.05, 0.95)
    assert set(expected.own) == {0, 1}  # 59 are needed; 40 + 30 share
    assert fitted.promise.pooled == ("2", "3", "4")
    bundle = Bundle.of(fitted)
    of_class = bundle.decision().thresholds(np.arange(5))
    np.testing.assert_array_equal(of_class, [expected.own[0], expected.own[1], *[expected.pooled] * 3])
    assert bundle.threshold() == expected.pooled
    np.testing.assert_array_equal([one.threshold for one in bundle.predict(feature)], of_class[predicted])


def test_thresholds_by_class_take_features_in_double_precision() -> None:
    double = [Rows.of_arrays("rows", rows.outputs.feature.double(), rows.label) for rows in
              (unequal().fit, unequal().calibrate)]  # fmt: skip
    found = fit(Parts(double[0], None, double[1]), ["knn:k=3"], by_class=True)
    np.testing.assert_array_equal(found.held_out_class, by_class().held_out_class)


def test_a_threshold_per_class_without_labels_is_refused() -> None:
    rows = Rows.of_arrays("rows", blobs(np.zeros(90, dtype=np.int64), 0)[0])
    with pytest.raises(ConfigError, match=r"^a threshold per class needs labels\. Label the images, or leave"):
        fit(Parts(rows, None, rows), ["knn:k=3"], by_class=True)


def test_a_review_rate_gives_two_thresholds_that_hold_together() -> None:
    fitted = fit(parts(), ["knn:k=3"], false_alarm_rate=0.02, review_rate=0.1)
    rule = Bundle.of(fitted).decision()
    assert (rule.reject, rule.review) == calibration.two_thresholds(fitted.held_out_score, 0.02, 0.1, 0.95)
    assert fitted.promise.review_rate == 0.1
    with pytest.raises(ConfigError, match=r"^a false-alarm rate of 0\.2 must be below the review rate of 0\.1"):
        Bundle.of(fitted).threshold(0.2)


@pytest.mark.parametrize("candidate", ["knn:k=3", "combined"])
def test_half_rounds_the_bank_and_calibration_goes_through_it(candidate: str) -> None:
    found = parts()
    plain, half = (fit(found, [candidate], half=half) for half in (False, True))
    banks = [next(part.bank for part in one.detector.modules() if isinstance(part, KNN)) for one in (plain, half)]
    torch.testing.assert_close(banks[1], banks[0].half().float(), rtol=0, atol=0)
    assert banks[1].dtype == torch.float32
    assert not torch.equal(banks[0], banks[1])
    np.testing.assert_array_equal(half.held_out_score, found.calibrate.scored(half.detector))
    assert (half.held_out_score != plain.held_out_score).any()
    assert Bundle.of(half, half=True).runtime.half


def test_a_coreset_keeps_every_class_in_proportion_and_leaves_the_other_parts_alone() -> None:
    known = numbered(200, np.repeat([0, 1, 2], [20, 60, 120]))
    whole = Parts(known, numbered(3), numbered(4))
    found = coreset(whole, 50)
    assert found.fit.label is not None
    assert np.bincount(found.fit.label).tolist() == [5, 15, 30]
    assert set(numbers(found.fit)) < set(range(200))
    assert (found.choose, found.calibrate) == (whole.choose, whole.calibrate)
    assert numbers(found.fit) == numbers(coreset(whole, 50).fit) != numbers(coreset(whole, 50, seed=1).fit)
    assert [len(coreset(whole, size).fit) for size in (1, 7, 33, 199)] == [1, 7, 33, 199]


@pytest.mark.parametrize("size", [0, -1, 200, 1000])
def test_a_coreset_of_all_rows_or_none_is_refused(size: int) -> None:
    message = f"a coreset of {size:,} rows out of 200: ask for fewer than there are, and at least one."
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        coreset(Parts(numbered(200), None, numbered(4)), size)


def test_the_mean_of_a_class_is_that_of_its_unit_rows() -> None:
    feature = np.array([[2, 0], [0, 5], [-3, 0], [-1, 0]], dtype=np.float32)
    mean = class_mean(Rows.of_arrays("rows", feature, np.array([0, 0, 1, 1])))
    torch.testing.assert_close(mean, torch.tensor([[0.5**0.5, 0.5**0.5], [-1.0, 0.0]]))
    assert class_mean(Rows.of_arrays("rows", feature)) is None


def test_a_class_of_which_no_row_is_left_is_named() -> None:
    rows = Rows("photos", Outputs(torch.eye(2)), np.array([0, 2]), ("cat", "cow", "dog"))
    with pytest.raises(DataError, match=r"^photos: no row of class 'cow' is left to fit on\. Give more of them\.$"):
        class_mean(rows)


def test_maximum_softmax_is_kept_where_there_are_logits_and_the_classifier_goes_to_the_score() -> None:
    found = all_with_logits()
    fitted = fit(found, ["knn:k=3"])
    assert fitted.msp is not None
    logits = found.calibrate.outputs.logits
    assert logits is not None
    np.testing.assert_allclose(fitted.msp, -logits.double().softmax(dim=1).amax(dim=1).numpy(), rtol=1e-12)
    assert fit(parts(), ["knn:k=3"]).msp is None

    seen = []

    class Curious(MSP):
        def fit(self, x: Any, label: Any = None, classifier: Any = None) -> Self:
            seen.append(classifier)
            return self

    last = nn.Linear(6, 5)
    fit(found, [Curious()], classifier=last)
    assert seen == [last]


def test_a_detector_given_as_object_has_no_name_to_be_saved_by() -> None:
    fitted = fit(parts(), [KNN(k=3)])
    assert (fitted.choice.chosen, fitted.score) == ("KNN", None)


def test_only_a_score_with_a_bank_keeps_the_names_of_its_rows() -> None:
    found = parts(each=20)
    names = [f"{i}.png" for i in range(100)]
    named = Parts(Rows("fit", found.fit.outputs, found.fit.label, found.fit.classes, names), None, found.calibrate)
    scores = ("knn:k=3", "combined:scores=[knn, mahalanobis]", "mahalanobis")
    assert [Bundle.of(fit(named, [score])).bank_names for score in scores] == [names, names, []]
