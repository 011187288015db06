"""The door of both rooms: what counts as scores, and what is said about the rest."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from spherood.errors import ShapeError
from spherood.metrics import aupr_in, aupr_out, auroc, average_precision, fpr_id_at_ood95, fpr_ood_at_id95

METRICS = [auroc, aupr_in, aupr_out, average_precision, fpr_id_at_ood95, fpr_ood_at_id95]
ID, OOD = [0.0, 1.0, 2.0, 4.0], [1.0, 3.0, 5.0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "as_type",
    [
        tuple,
        np.float16,
        np.float32,
        np.int8,
        np.uint8,  # -1 would wrap round where scores are turned
        torch.tensor,
        lambda x: torch.tensor(x, dtype=torch.bfloat16),
        lambda x: torch.tensor(x, requires_grad=True),
    ],
)
def test_any_kind_of_array_gives_the_same_plain_float(metric: Any, as_type: Any) -> None:
    value = metric(as_type(ID), as_type(OOD))
    assert type(value) is float
    assert value == metric(ID, OOD)


@pytest.mark.parametrize("metric", METRICS)
def test_the_arrays_passed_in_are_left_as_they_were(metric: Any) -> None:
    known, foreign = np.array(ID)[::-1].copy(), np.array(OOD)
    metric(known, foreign)
    assert known.tolist() == ID[::-1]
    assert foreign.tolist() == OOD


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 1)), r"expected ood_score \(N,\), got \(4, 1\)\. .*ood_score\.reshape\(-1\)"),
        (1.0, r"expected ood_score \(N,\), got \(\)"),
        ([], r"ood_score is empty"),
        ([[1.0], [1.0, 2.0]], r"rows of different lengths"),
        (["low", "high"], r"expected ood_score \(N,\) of numbers, got dtype <U4"),
        ([1.0, None], r"of numbers, got dtype object"),
        ([1j, 2.0], r"of numbers, got dtype complex128"),
        ([0.0, np.nan, 1.0, np.nan], r"ood_score holds 2 NaN of 4 scores, the first at index 1\."),
        ([0.0, 1.0, -np.inf], r"ood_score holds 1 infinite of 3 scores, the first at index 2\."),
    ],
)
def test_what_is_no_list_of_finite_numbers_is_refused_by_name(metric: Any, bad: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=rf"^{metric.__name__}: .*{message}"):
        metric(ID, bad)
    with pytest.raises(ShapeError, match=rf"^{metric.__name__}: .*id_score"):
        metric(bad, OOD)


def test_both_rooms_are_free_of_torch_scipy_and_scikit_learn() -> None:
    heavy = "{'torch', 'scipy', 'sklearn'}"
    program = f"import sys, spherood.metrics, spherood.calibration; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
