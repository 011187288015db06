"""The door for scores: whatever holds N numbers comes in, a float64 array (N,) comes out, or a ShapeError says why not.

NumPy arrays, lists and tensors are welcome; a tensor is known by its `detach`, so that this room needs no torch.
float64 holds every float32, float16 and bfloat16 exactly: scores that tie stay tied, scores that differ stay in order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from spherood.errors import ShapeError

Scores = NDArray[np.float64]


def to_array(value: Any) -> NDArray[Any]:
    """`value` as an array of its own dtype; tensors leave their graph and their device first."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    tensor = value.detach().cpu()
    try:
        return np.asarray(tensor)
    except TypeError:  # bfloat16, which NumPy does not know
        return np.asarray(tensor.float())


def check_vector(where: str, name: str, value: Any, kinds: str, wanted: str) -> NDArray[Any]:
    """`value` as an array (N,) with N >= 1 and a dtype of one of `kinds` (NumPy's letters); ShapeError otherwise."""
    try:
        array = to_array(value)
    except ValueError:  # rows of different lengths
        raise ShapeError(f"{where}: expected {name} (N,) of {wanted}, got rows of different lengths.") from None
    if array.ndim != 1:
        way_out = f"Pass one number per image: {name}.reshape(-1) if these are single numbers already."
        raise ShapeError(f"{where}: expected {name} (N,), got {array.shape}. {way_out}")
    if array.size == 0:
        raise ShapeError(f"{where}: {name} is empty. Pass at least one entry.")
    if array.dtype.kind not in kinds:
        raise ShapeError(f"{where}: expected {name} (N,) of {wanted}, got dtype {array.dtype}. Convert it first.")
    return array


def check_scores(where: str, name: str, value: Any) -> Scores:
    """`value` as a float64 array (N,), N >= 1 and finite; ShapeError, naming `where` and `name`, otherwise."""
    score = check_vector(where, name, value, "biuf", "numbers").astype(np.float64)
    for word, wrong in (("NaN", np.isnan(score)), ("infinite", np.isinf(score))):
        if wrong.any():
            raise ShapeError(
                f"{where}: {name} holds {wrong.sum()} {word} of {score.size} scores, the first at index "
                f"{wrong.argmax()}. Look at that input (a zero feature, an overflow?) or leave such scores out."
            )
    return score


def check_pair(where: str, id_score: Any, ood_score: Any) -> tuple[Scores, Scores]:
    """Both groups of scores, checked."""
    return check_scores(where, "id_score", id_score), check_scores(where, "ood_score", ood_score)
