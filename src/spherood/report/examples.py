"""The images worth looking at: the mistakes a score comes nearest to, each beside its nearest training image."""

from __future__ import annotations

import numpy as np
import torch

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
    return _examples(
        evaluated, score, [(float(value), evaluated.ood[name], row, f"{name}: ") for value, name, row in ranked[:SHOWN]]
    )


def id_like_ood(evaluated: Evaluated, score: str) -> list[Example]:
    """The 12 ID test images with the highest scores."""
    id_score = evaluated.evaluation.scores[score].id_score
    rows = np.argsort(-id_score, kind="stable")[:SHOWN]
    return _examples(evaluated, score, [(float(id_score[row]), evaluated.test, int(row), "") for row in rows])


def _examples(evaluated: Evaluated, score: str, chosen: list[tuple[float, Stored, int, str]]) -> list[Example]:
    """An example per (score, set, row, prefix of the caption)."""
    train, held_out = evaluated.train, evaluated.evaluation.scores[score].held_out_score
    feature = torch.stack([stored.outputs.feature[row] for _, stored, row, _ in chosen])
    _, near = nearest(normalize(feature), normalize(train.outputs.feature), 1)
    examples = []
    for (value, stored, row, prefix), neighbour in zip(chosen, near[:, 0].tolist(), strict=True):
        examples.append(
            Example(
                pixels=np.asarray(stored.images.read(row)),
                caption=prefix + stored.images.names[row],
                score=value,
                p_value=float(calibration.p_values(held_out, [value])[0]),
                nearest_pixels=np.asarray(train.images.read(neighbour)),
                nearest_caption=train.images.names[neighbour],
            )
        )
    return examples
