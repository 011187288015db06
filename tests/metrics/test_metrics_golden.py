"""What the reference code of OpenOOD and CIDER gave on 25 sets of scores: golden/metrics.npz."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood import metrics

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "metrics.npz")
COUNTING, AREA = 1e-12, 1e-10


@pytest.fixture(params=[str(name) for name in GOLDEN["case_names"]])
def case(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    return lambda key: GOLDEN[f"{request.param}/{key}"]


def test_openood_gave_these_five_numbers(case: Callable[[str], Any]) -> None:
    fpr, auroc, aupr_in, aupr_out, accuracy = case("openood")
    pair = case("id"), case("ood")
    assert metrics.fpr_id_at_ood95(*pair, rule="openood") == pytest.approx(fpr, abs=COUNTING, rel=0)
    assert metrics.auroc(*pair) == pytest.approx(auroc, abs=COUNTING, rel=0)
    assert metrics.aupr_in(*pair) == pytest.approx(aupr_in, abs=AREA, rel=0)
    assert metrics.aupr_out(*pair) == pytest.approx(aupr_out, abs=AREA, rel=0)
    assert metrics.accuracy(case("id_pred"), case("id_label")) == pytest.approx(accuracy, abs=COUNTING, rel=0)


def test_cider_gave_these_three_numbers_with_id_positive(case: Callable[[str], Any]) -> None:
    auroc, average_precision, fpr = case("cider_idpos")
    pair = case("id"), case("ood")
    assert metrics.auroc(*pair) == pytest.approx(auroc, abs=COUNTING, rel=0)
    assert metrics.average_precision(*pair) == pytest.approx(average_precision, abs=AREA, rel=0)
    assert metrics.fpr_ood_at_id95(*pair, rule="cider") == pytest.approx(fpr, abs=COUNTING, rel=0)


def test_cider_gave_these_three_numbers_with_ood_positive(case: Callable[[str], Any]) -> None:
    auroc, average_precision, fpr = case("cider_oodpos")
    pair = case("id"), case("ood")
    assert metrics.auroc(*pair) == pytest.approx(auroc, abs=COUNTING, rel=0)
    assert metrics.average_precision(*pair, positive="ood") == pytest.approx(average_precision, abs=AREA, rel=0)
    assert metrics.fpr_id_at_ood95(*pair, rule="cider") == pytest.approx(fpr, abs=COUNTING, rel=0)


def test_without_a_rule_every_threshold_is_looked_at(case: Callable[[str], Any]) -> None:
    pair = case("id"), case("ood")
    every = case("fpr95_oodpos_all_thresholds")
    assert metrics.fpr_id_at_ood95(*pair) == pytest.approx(float(every), abs=COUNTING, rel=0)
    id_positive, _ = case("openood_idpos_fpr_thr")  # on a thinned curve too: where that matters it is wrong
    kept = np.sort(case("id"))[int(np.ceil(0.95 * len(case("id")) - 1e-9)) - 1]
    assert metrics.fpr_ood_at_id95(*pair) == np.mean(case("ood") <= kept)
    assert metrics.fpr_ood_at_id95(*pair) <= id_positive + COUNTING
