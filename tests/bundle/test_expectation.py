from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from spherood import calibration, metrics
from spherood.bundle.bundle import Bundle
from spherood.bundle.expectation import measure, share
from spherood.bundle.fit import Fitted, Parts, fit
from spherood.bundle.rows import Rows
from spherood.outputs import Outputs


def rows(name: str, n: int, seed: int, shift: float = 0.0, *, logits: bool = False) -> Rows:
    """Three classes on the axes; `shift` moves them to the fourth axis."""
    label = np.arange(n) % 3
    z = np.random.default_rng(seed).normal(size=(n, 4))
    feature = torch.from_numpy((np.eye(4)[label] + 0.2 * z + shift * np.eye(4)[3]).astype(np.float32))
    outputs = Outputs(feature, logits=3 * feature[:, :3] if logits else None)
    return Rows(name, outputs, label.astype(np.int64), ("a", "b", "c"))


def made(*, logits: bool = False, **kwargs: Any) -> Fitted:
    parts = Parts(rows("fit", 90, 0, logits=logits), None, rows("held-out", 300, 1, logits=logits))
    return fit(parts, ["knn:k=3"], **kwargs)


OOD = {"far": rows("far", 80, 2, 1.5), "near": rows("near", 120, 3, 0.5)}


@pytest.mark.parametrize("by_class", [False, True])
def test_the_table_counts_the_verdicts_of_the_bundle(by_class: bool) -> None:
    fitted, test = made(by_class=by_class), rows("test", 200, 4)
    bundle = Bundle.of(fitted)
    results = measure(bundle, fitted, OOD, test)
    assert [one.name for one in results.ood] == ["far", "near"]
    for found, source in zip(results.ood, OOD.values(), strict=True):
        alarms = [verdict.is_ood for verdict in bundle.predict(source.outputs)]
        assert (found.caught.of, found.caught.value) == (len(source), np.mean(alarms))
        assert found.msp is None
    assert results.false_alarms is not None
    false = [verdict.is_ood for verdict in bundle.predict(test.outputs)]
    assert (results.false_alarms.of, results.false_alarms.value) == (200, np.mean(false))
    assert 1 > results.ood[0].caught.value > 0.7 > results.ood[1].caught.value > 0


def test_auroc_is_against_the_test_images_where_there_are_some_else_against_the_held_out_ones() -> None:
    fitted, test = made(), rows("test", 50, 4)
    bundle, score = Bundle.of(fitted), OOD["near"].scored(fitted.detector)
    against = [measure(bundle, fitted, OOD, one) for one in (None, test)]
    assert against[0].ood[1].auroc == metrics.auroc(fitted.held_out_score, score)
    assert against[1].ood[1].auroc == metrics.auroc(test.scored(fitted.detector), score)
    assert (against[0].false_alarms, against[0].notes) == (None, ())


def test_maximum_softmax_has_the_threshold_of_the_same_rank_of_the_same_images() -> None:
    fitted = made(logits=True, false_alarm_rate=0.1, review_rate=0.3)
    ood = {"near": rows("near", 900, 3, 0.5, logits=True), "bare": OOD["far"]}
    bundle = Bundle.of(fitted)
    found = measure(bundle, fitted, ood, None)
    assert fitted.msp is not None
    score = -ood["near"].outputs.logits.double().softmax(dim=1).amax(dim=1).numpy()  # type: ignore[union-attr]
    above = calibration.allowed_exceedances(300, 0.1, 0.975)
    assert above is not None
    ordered = np.sort(fitted.msp)
    threshold, alone = ordered[300 - above - 1], calibration.threshold(fitted.msp, 0.1, 0.95)
    assert np.mean(score > threshold) < np.mean(score > alone)  # the review rate costs half of the doubt
    assert np.count_nonzero(fitted.held_out_score > bundle.threshold()) == above
    assert found.ood[0].msp is not None
    assert found.ood[0].msp.value == np.mean(score > threshold)
    assert found.ood[1].msp is None


def test_a_score_at_the_threshold_is_not_caught() -> None:
    fitted = made()
    (found,) = measure(Bundle.of(fitted), fitted, {"held-out": fitted.parts.calibrate}, None).ood
    assert found.caught.value == calibration.exceedances_or_refuse(300, 0.05, 0.95) / 300
    assert found.auroc == 0.5


def test_without_sources_there_is_nothing_to_tell() -> None:
    fitted = made()
    results = measure(Bundle.of(fitted), fitted, {}, None)
    assert (results.ood, results.false_alarms) == ((), None)


@pytest.mark.parametrize(
    ("alarms", "of", "low", "high"),
    [(0, 10, 0, 1 - 0.025 ** (1 / 10)), (10, 10, 0.025 ** (1 / 10), 1), (1, 1, 0.025, 1), (3, 20, 0.03207, 0.37893)],
)
def test_a_share_has_its_clopper_pearson_interval(alarms: int, of: int, low: float, high: float) -> None:
    """0 and n of n in closed form; 3 of 20 as the tables of Clopper and Pearson have it."""
    found = share(np.arange(of) < alarms)
    assert (found.of, found.value) == (of, alarms / of)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-5)
