"""Every single score of an evaluation as one Parquet table: path, set, label, one column per score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spherood.benchmark.evaluation import Evaluated
from spherood.errors import optional
from spherood.files import written_aside


def write_scores(path: Path, evaluated: Sequence[Evaluated]) -> None:
    """Rows: ID validation, ID test, then each OOD set, in their order; several models stand below each other.

    Columns: model, path, set ("ID test", "svhn", ...), label (-1: unknown), then scores by name, higher = more OOD.
    MissingExtraError without pyarrow.
    """
    arrow = optional("pyarrow", "parquet", "--save-scores")
    parquet = optional("pyarrow.parquet", "parquet", "--save-scores")
    tables = []
    for one in evaluated:
        scores = one.evaluation.scores
        sets = {"ID test": one.test, **one.ood}
        if one.validation is not None:
            sets = {"ID validation": one.validation, **sets}
        columns: dict[str, object] = {
            "model": [one.evaluation.model] * sum(len(stored.images) for stored in sets.values()),
            "path": [name for stored in sets.values() for name in stored.images.names],
            "set": [name for name, stored in sets.items() for _ in stored.images.names],
            "label": np.concatenate([stored.images.label for stored in sets.values()]),
        }
        for text, result in scores.items():
            by_set = {"ID validation": result.held_out_score, "ID test": result.id_score, **result.ood_score}
            columns[text] = np.concatenate([by_set[name] for name in sets])
        tables.append(arrow.table(columns))
    with written_aside(path) as aside:
        parquet.write_table(arrow.concat_tables(tables, promote_options="default"), aside)
