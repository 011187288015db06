"""AUROC: the chance that an OOD image scores higher than an ID image, a tie counting half.

    AUROC = P(s_ood > s_id) + 1/2 P(s_ood = s_id)

This is the area under the ROC curve drawn with one straight stroke per tie. It does not matter which side is called
positive. Unit: fraction; 1 = every OOD score above every ID score, .5 = no information.
Source: Hanley & McNeil, Radiology 143(1), 1982; OpenOOD and CIDER agree on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from spherood.metrics.counts import counts_at_thresholds
from spherood.metrics.scores import check_pair


def auroc(id_score: Any, ood_score: Any) -> float:
    """AUROC in [0, 1] of ID scores (N,) against OOD scores (M,), higher = more OOD.

    Arrays, lists or tensors. ShapeError unless both are 1-D, non-empty and finite.
    """
    known, foreign = check_pair("auroc", id_score, ood_score)
    tp, fp = counts_at_thresholds(foreign, known)
    width, height = np.diff(fp, prepend=0), tp + np.concatenate([[0], tp[:-1]])  # heights of both ends, added
    return int(width @ height) / (2 * len(known) * len(foreign))  # whole numbers up to the one division: exact
