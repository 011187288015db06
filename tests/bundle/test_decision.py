from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spherood import calibration
from spherood.bundle import Promise
from spherood.bundle.decision import decide
from spherood.errors import CalibrationError, ConfigError

RNG = np.random.default_rng(0)
SCORE = RNG.permutation(np.arange(200) / 100)  # 0 to 1.99
CLASS = np.repeat([0, 1, 2], [100, 80, 20])
CLASS_SCORE = SCORE + CLASS  # classes differ by 1
NONE = np.full(4, -1)


def promise(**kwargs: Any) -> Promise:
    return Promise(**({"false_alarm_rate": 0.05, "confidence": 0.95, "held_out": 200} | kwargs))


def floats(*values: float) -> NDArray[np.float64]:
    return np.array(values, dtype=np.float64)


def test_without_classes_one_threshold_holds_for_everybody() -> None:
    rule = decide(promise(), SCORE, CLASS)
    assert rule.reject == 1.95  # 4 of 200 may lie above: P(Bin(200, .05) <= 4) = .026, and <= 5 is .062
    np.testing.assert_array_equal(rule.thresholds(np.array([-1, 0, 2, 7])), np.full(4, 1.95))
    assert (rule.review, rule.rate, rule.held_out_class) == (None, 0.05, None)


def test_p_values_count_the_held_out_scores_at_least_as_high() -> None:
    found = decide(promise(), SCORE, CLASS).p_values(floats(-1, 0, 1.985, 1.99, 5), np.zeros(5, int))
    np.testing.assert_allclose(found, np.array([201, 201, 2, 2, 1]) / 201)


def test_without_a_review_rate_nobody_has_to_look() -> None:
    assert decide(promise(), SCORE, None).needs_review(floats(0, 1.9, 1.95, 9), NONE).tolist() == [False] * 4


def test_a_person_looks_above_the_second_threshold_and_up_to_the_first() -> None:
    rule = decide(promise(review_rate=0.2), SCORE, None)
    assert (rule.reject, rule.review) == calibration.two_thresholds(SCORE, 0.05, 0.2, 0.95)
    reject, review = float(rule.reject), float(rule.review)  # type: ignore[arg-type]
    score = floats(review, np.nextafter(review, 9), reject, np.nextafter(reject, 9))
    assert rule.needs_review(score, NONE).tolist() == [False, True, True, False]
    assert (score > rule.thresholds(NONE)).tolist() == [False, False, False, True]


def test_several_settings_tried_make_every_threshold_more_careful() -> None:
    alone, of_ten = (decide(promise(tried=tried), SCORE, None).reject for tried in (1, 10))
    assert of_ten == calibration.threshold(SCORE, 0.05, 0.995) > alone


def test_by_class_each_has_its_own_threshold_and_p_value_and_the_small_ones_share() -> None:
    rule = decide(promise(by_class=True), CLASS_SCORE, CLASS)
    expected = [calibration.threshold(CLASS_SCORE[y == CLASS], 0.05, 0.95) for y in (0, 1)]
    everybody = calibration.threshold(CLASS_SCORE, 0.05, 0.95)  # 20 scores alone are too few
    np.testing.assert_array_equal(rule.thresholds(np.array([0, 1, 2, -1])), [*expected, everybody, everybody])
    assert len({*expected, everybody}) == 3
    p = rule.p_values(floats(1.5, 1.5, 1.5), np.array([0, 1, 2]))
    for found, scores in zip(p, (CLASS_SCORE[CLASS == 0], CLASS_SCORE[CLASS == 1], CLASS_SCORE), strict=True):
        assert found == (1 + np.count_nonzero(scores >= 1.5)) / (len(scores) + 1)


def test_by_class_a_review_rate_has_thresholds_by_class_too() -> None:
    rule = decide(promise(by_class=True, review_rate=0.3), CLASS_SCORE, CLASS)
    class_ = np.array([0, 1])
    review = floats(*(calibration.threshold(CLASS_SCORE[y == CLASS], 0.3, 0.975) for y in (0, 1)))
    assert rule.needs_review(review, class_).tolist() == [False, False]
    assert rule.needs_review(np.nextafter(review, 9), class_).tolist() == [True, True]
    assert rule.needs_review(np.nextafter(rule.thresholds(class_), 9), class_).tolist() == [False, False]


def test_another_rate_than_the_promised_one_gives_another_threshold() -> None:
    rule = decide(promise(), SCORE, None, 0.2)
    assert (rule.rate, rule.reject) == (0.2, calibration.threshold(SCORE, 0.2, 0.95))
    with pytest.raises(CalibrationError, match=r"a false-alarm rate of 0\.01 needs at least 299 held-out ID scores"):
        decide(promise(), SCORE, None, 0.01)
    # a smaller rate needs larger classes: class 1 joins the ones that share
    assert decide(promise(by_class=True), CLASS_SCORE, CLASS, 0.03).reject.own.keys() == {0}  # type: ignore[union-attr]


@pytest.mark.parametrize("rate", [0.2, 0.3])
def test_a_rate_at_or_above_the_review_rate_is_refused(rate: float) -> None:
    message = (
        f"a false-alarm rate of {rate:g} must be below the review rate of 0.2: what is rejected is more certain than "
        "what a person looks at."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        decide(promise(review_rate=0.2), SCORE, None, rate)


def test_the_held_out_scores_are_left_as_they_were() -> None:
    before = CLASS_SCORE.copy()
    for one in (promise(), promise(by_class=True)):
        decide(one, CLASS_SCORE, CLASS).p_values(floats(1), np.array([0]))
    np.testing.assert_array_equal(CLASS_SCORE, before)
