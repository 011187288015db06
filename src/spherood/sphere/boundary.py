"""Outliers just beyond the boundary of a class, made from its own outermost rows (NPOS).

    d_k(x)     = |u(x) - the k-th nearest of u(bank)|^2,   u(x) = x / |x|      a bank row is its own first neighbour
    anchors    = bank rows drawn among the `select` with the largest d_k
    candidates = anchor + noise                                                the same noise around every anchor
    outliers   = of each anchor's candidates the `points` with the largest d_k

Nothing here is random: the draw and the noise are arguments.
The released code reads the distances, which lie anchor after anchor, as if they lay candidate after candidate, and so
keeps others than the farthest once there are two anchors: in its own example their mean d_k is 1.398, that of all
candidates 1.393, of the farthest 1.436. `as_released` does the same.
Shapes: C classes, B bank rows of a class, D width, A anchors of a class, S select, M noise rows, P points.
Source: Tao et al., ICLR 2023, arXiv:2303.02966 (equation numbers unchecked); deeplearning-wisc/npos, OpenOOD.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spherood.sphere.unit import normalize

TILE = 2**24  # values of a product of candidates and banks at a time: 64 MiB in float32


def kth_square(x: Tensor, bank: Tensor, k: int) -> Tensor:
    """d_k (..., N), 0..4, of rows x (..., N, D) among bank (..., B, D), k <= B."""
    cosine = (normalize(x) @ normalize(bank).mT).topk(k, dim=-1, sorted=False).values.amin(dim=-1)
    return (2 - 2 * cosine).clamp(min=0)


def outermost(bank: Tensor, k: int, select: int) -> tuple[Tensor, Tensor]:
    """d_k (..., S) and row number (..., S) of the `select` outermost rows of bank (..., B, D), outermost first."""
    distance, row = kth_square(bank, bank, k).topk(select, dim=-1)
    return distance, row


def farthest(candidate: Tensor, bank: Tensor, k: int, points: int, *, as_released: bool = False) -> Tensor:
    """Numbers (..., A, P) among each anchor's own: candidate (..., A, M, D) farthest from bank (..., B, D) first."""
    anchors, around = candidate.shape[-3:-1]
    distance = kth_square(candidate.flatten(-3, -2), bank, k)  # (..., A M)
    outer = distance.shape[:-1]
    table = distance.view(*outer, around, anchors).mT if as_released else distance.view(*outer, anchors, around)
    return table.topk(points, dim=-1).indices


@torch.no_grad()
def boundary_outliers(
    bank: Tensor, draw: Tensor, noise: Tensor, *, k: int, select: int, points: int, as_released: bool = False
) -> Tensor:
    """Outliers (C, A P, D) around bank (C, B, D), anchor after anchor, detached.

    draw (C, A): places 0..select-1 among the outermost rows, the outermost at 0. noise (M, D): at its final size.
    """
    at_once = max(1, TILE // (bank.shape[1] * max(bank.shape[1], draw.shape[1] * len(noise))))
    tiles = []
    for rows, place in zip(bank.split(at_once), draw.split(at_once), strict=True):
        anchor = _pick(rows, outermost(rows, k, select)[1].gather(1, place))  # (c, A, D)
        candidate = anchor[:, :, None] + noise  # (c, A, M, D)
        kept = farthest(candidate, rows, k, points, as_released=as_released)
        tiles.append(_pick(candidate, kept).flatten(1, 2))
    return torch.cat(tiles)


def _pick(x: Tensor, row: Tensor) -> Tensor:
    """The rows (..., R, D) of x (..., N, D) numbered row (..., R)."""
    return x.gather(-2, row[..., None].expand(*row.shape, x.shape[-1]))
