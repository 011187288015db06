"""Copies between parts: a held-out image that is a copy of a fitted one looks closer than any new image will.

Images: near-duplicates by perceptual hash, confirmed on pixels (data/duplicates.py). Features: rows whose squared
distance is at most 1e-8 of their squared length. Such held-out rows are taken out; copies in OOD are told.
Shapes: N rows, F columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spherood.bundle.encoder import Encoder
from spherood.bundle.fit import Parts
from spherood.bundle.rows import Rows
from spherood.data.duplicates import near_duplicates
from spherood.data.overlap import shared_images
from spherood.errors import DataError
from spherood.outputs import Outputs
from spherood.sphere import nearest, normalize
from spherood.training.reading import features_of

SAME = 1e-8
SHOWN = 3
MANY = 0.05  # of the held-out rows


def without_copies(parts: Parts) -> tuple[Parts, list[str]]:
    """The calibrating part without copies of the other parts, and what to tell."""
    notes, kept = [], parts.calibrate
    for name, part in (("fit", parts.fit), ("choose", parts.choose)):
        if part is None:
            continue
        copies, pairs = copied(kept, part)
        if copies.any():
            notes.append(
                f"{int(copies.sum()):,} held-out rows are copies of rows to {name} by: taken out{_shown(pairs)}."
            )
            if copies.mean() > MANY:
                notes.append(
                    "So many are rarely copies: drawings of few strokes look alike, which costs power and not the "
                    "promise; frames of a video belong into one part: --group-by."
                )
            kept = kept.subset(np.flatnonzero(~copies))
    return Parts(parts.fit, parts.choose, kept), notes


def check_unseen(calibrate: Rows, encoder: Encoder | None, root: Path) -> list[str]:
    """DataError where held-out rows trained the encoder, as far as it is known what did: of a run found on disk.

    What to tell where a run's training set is not found.
    """
    if encoder is None or encoder.trained_on is None:
        return []
    images, given = calibrate.images, calibrate.given
    if images is None and given is None:
        return []
    what = "rows" if images is None else "images"
    if not encoder.trained_on.present(root):
        return [
            f"The {what} that trained {encoder.name} are not under {root}, so nobody looked whether it has seen "
            "held-out ones. If it has, nothing is promised. Where they are: --data"
        ]
    if images is not None:
        seen = shared_images(images, encoder.trained_on.load(root))
    elif given is not None:
        trained = Rows.of_features(features_of(encoder.trained_on, root))
        same, _ = copied(replace(calibrate, outputs=Outputs(given), given=None), trained)
        seen = [f"row {row}" for row in np.flatnonzero(same)]
    if seen:
        raise DataError(
            f"{len(seen):,} of {len(calibrate):,} held-out {what} trained {encoder.name}, first {seen[0]}: it knows "
            f"them too well, and nothing could be promised. Hold out {what} that it has not seen: --held-out"
        )
    return []


def copies_in_ood(parts: Parts, ood: Mapping[str, Rows]) -> list[str]:
    """What to tell of OOD that is a copy of something known."""
    notes = []
    for name, rows in ood.items():
        for part in (parts.fit, parts.choose, parts.calibrate):
            if part is None:
                continue
            copies, pairs = copied(rows, part)
            if copies.any():
                notes.append(
                    f"{int(copies.sum()):,} rows of the OOD source {name} are copies of known ones{_shown(pairs)}: "
                    "they cannot be told apart, and count as missed."
                )
    return notes


def copied(rows: Rows, other: Rows) -> tuple[NDArray[np.bool_], list[tuple[str, str]]]:
    """Which rows (N,) have a copy in `other`, and the names of the pairs, where rows have names."""
    if rows.small_pictures is not None and other.small_pictures is not None:
        found = near_duplicates(rows.small_pictures, other.small_pictures)
        names = {pair.first for pair in found}
        return np.array([name in names for name in rows.names], dtype=np.bool_), [(p.first, p.second) for p in found]
    a, b = rows.outputs.feature, other.outputs.feature
    _, index = nearest(normalize(a).float(), normalize(b).float(), 1)
    near = b[index[:, 0]]
    same = ((a - near).square().sum(dim=1) <= SAME * a.square().sum(dim=1)).numpy()
    if not (rows.names and other.names):
        return same, []
    return same, [(rows.names[i], other.names[int(index[i, 0])]) for i in np.flatnonzero(same).tolist()]


def _shown(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    more = ", …" if len(pairs) > SHOWN else ""
    return f" ({', '.join(f'{a} = {b}' for a, b in pairs[:SHOWN])}{more})"
