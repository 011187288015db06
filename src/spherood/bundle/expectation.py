"""What to expect of a bundle: false alarms, and what it catches of every named OOD source, with intervals.

Beside it the maximum softmax, where the model has a classifier, with the same order statistic of the same held-out
images as its threshold: the same law of false alarms. Intervals: 95 %, Clopper-Pearson, over images.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spherood import calibration, metrics
from spherood.bundle.bundle import Bundle
from spherood.bundle.fit import Fitted
from spherood.bundle.manifest import Measured, Results, Share
from spherood.bundle.rows import Rows
from spherood.detectors import MSP


def measure(bundle: Bundle, fitted: Fitted, ood: Mapping[str, Rows], test: Rows | None) -> Results:
    """The table of the model card. AUROC is against the held-out images, or the test images where there are some."""
    rule, msp_threshold = bundle.decision(), None
    if fitted.msp is not None:
        msp_threshold = calibration.threshold(fitted.msp, bundle.promise.false_alarm_rate, bundle.promise.each)
    id_score = fitted.held_out_score if test is None else test.scored(fitted.detector)
    false_alarms = None
    if test is not None:
        false_alarms = share(id_score > rule.thresholds(_predicted(bundle, test)))
    found = []
    for name, rows in ood.items():
        score = rows.scored(fitted.detector)
        alarm = score > rule.thresholds(_predicted(bundle, rows))
        msp = None
        if msp_threshold is not None and rows.outputs.logits is not None:
            msp = share(rows.scored(MSP()) > msp_threshold)
        found.append(Measured(name=name, caught=share(alarm), msp=msp, auroc=metrics.auroc(id_score, score)))
    return Results(false_alarms=false_alarms, ood=tuple(found))


def _predicted(bundle: Bundle, rows: Rows) -> NDArray[np.int64]:
    return bundle.predicted(rows.outputs.feature.numpy(), len(rows))


def share(alarm: NDArray[np.bool_]) -> Share:
    """Of booleans (N,), N >= 1."""
    count = int(np.count_nonzero(alarm))
    low, high = metrics.clopper_pearson(count, len(alarm))
    return Share(of=len(alarm), value=count / len(alarm), low=low, high=high)
