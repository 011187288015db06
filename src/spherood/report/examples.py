"""The images worth looking at: the mistakes a score comes nearest to, each beside its nearest training image."""

from __future__ import annotations

import numpy as np

from spherood import calibration
from spherood.benchmark.evaluation import Evaluated
from spherood.features import Stored
from spherood.report.content import Example
from spherood.sphere import nearest, normalize

SHOWN = 12


def ood_like_id(evaluated: Evaluated, score: str) -> list[Example]:
    """The 12 OOD images, of all sets, with the lowest scores."""
    result = evaluated.evaluation.scores[score]
    ranked = sorted((value, name, row) for name, s in result.ood_score.items() for row, value in enumerate(s))
    return [
        _example(evaluated, score, evaluated.ood[name], row, float(value), f"{name}: ")
        for value, name, row in ranked[:SHOWN]
    ]


def id_like_ood(evaluated: Evaluated, score: str) -> list[Example]:
    """The 12 ID test images with the highest scores."""
    id_score = evaluated.evaluation.scores[score].id_score
    rows = np.argsort(-id_score, kind="stable")[:SHOWN]
    return [_example(evaluated, score, evaluated.test, int(row), float(id_score[row]), "") for row in rows]


def _example(evaluated: Evaluated, score: str, stored: Stored, row: int, value: float, prefix: str) -> Example:
    train = evaluated.train
    unit, bank = normalize(stored.outputs.feature[row : row + 1]), normalize(train.outputs.feature)
    near = int(nearest(unit, bank, 1)[1])
    return Example(
        pixels=np.asarray(stored.images.read(row)),
        caption=prefix + stored.images.names[row],
        score=value,
        p_value=float(calibration.p_values(evaluated.evaluation.scores[score].held_out_score, [value])[0]),
        nearest_pixels=np.asarray(train.images.read(near)),
        nearest_caption=train.images.names[near],
    )
