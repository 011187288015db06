"""Embeddings on a plane: PCA, or t-SNE or PaCMAP where those are installed.

    PCA: x -> (x - m) V     V: the two directions in which the rows vary most; share_k = s_k^2 / sum_j s_j^2

PCA is linear: what lies apart in the picture lies apart in space, and what lies together may still be apart in the
directions left out. t-SNE and PaCMAP keep neighbours together: distances between groups mean little. All are
deterministic: signs are fixed by each direction's largest entry, the other two draw from seed 0.
Shapes: N rows, K marks, d dimension.
Source: van der Maaten and Hinton, JMLR 9, 2008 (t-SNE); Wang et al., JMLR 22, 2021 (PaCMAP).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spherood.errors import DataError, optional

Method = Literal["pca", "tsne", "pacmap"]
Vectors = NDArray[np.float64]
FEWEST = 10  # rows that t-SNE and PaCMAP can find neighbours among
NAMES = {"pca": "PCA", "tsne": "t-SNE", "pacmap": "PaCMAP"}


@dataclass(frozen=True)
class Plane:
    """Rows and marks on a plane."""

    rows: Vectors  # (N, 2)
    marks: Vectors  # (K, 2)
    shares: tuple[float, float] | None  # of the variance, along each axis; None for a method that has none


def project(rows: Vectors, marks: Vectors, method: Method = "pca") -> Plane:
    """Rows (N, d) and marks (K, d) by one map; MissingExtraError without its library, DataError for too few rows."""
    if method == "pca":
        return _pca(rows, marks)
    module = "openTSNE" if method == "tsne" else "pacmap"
    library = optional(module, "projection", f"--projection {method}")
    if len(rows) < FEWEST:
        raise DataError(f"--projection {method}: needs {FEWEST} embeddings or more, got {len(rows)}. Use pca.")
    together = np.concatenate([rows, marks])
    if method == "tsne":
        perplexity = min(30, (len(together) - 1) / 3)
        placed = np.asarray(library.TSNE(perplexity=perplexity, random_state=0, n_jobs=1).fit(together))
    else:
        logging.getLogger("pacmap").setLevel(logging.ERROR)  # it warns of the seed that it is given
        neighbours = min(10, len(together) // 4)
        placed = library.PaCMAP(n_neighbors=neighbours, random_state=0, apply_pca=False).fit_transform(together)
    placed = placed.astype(np.float64)
    return Plane(placed[: len(rows)], placed[len(rows) :], None)


def directions(rows: Vectors, count: int) -> tuple[Vectors, Vectors]:
    """The `count` directions (d, count) that hold most of the rows' squared length, and the share of each (count,).

    Columns are orthonormal, their largest entry positive; beyond the rank of the rows both are 0.
    """
    _, length, vt = np.linalg.svd(rows, full_matrices=False)
    found = np.zeros((rows.shape[1], count))
    share = np.zeros(count)
    rank = min(count, int((length > 1e-9 * max(length[0], 1e-12)).sum()))
    found[:, :rank] = vt[:rank].T
    share[:rank] = length[:rank] ** 2 / max(float((length**2).sum()), 1e-300)
    largest = found[np.abs(found).argmax(axis=0), np.arange(count)]
    return found * np.where(largest < 0, -1.0, 1.0), share


def _pca(rows: Vectors, marks: Vectors) -> Plane:
    mean = rows.mean(axis=0)
    axes, share = directions(rows - mean, 2)
    return Plane((rows - mean) @ axes, (marks - mean) @ axes, (float(share[0]), float(share[1])))
