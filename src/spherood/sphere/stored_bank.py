"""Nearest rows of a bank that is kept in half precision: half the memory, and no more than a tile of it in float32.

float16: a tile is widened and searched exactly, as `nearest` does it. One query takes twice the time of a float32 bank,
2,048 take the same (50,000 x 512, one core).
bfloat16: the product is taken in bfloat16, which has 8 bits, and picks 2 k rows; float32 picks k of them. A neighbour
may be missed. With AMX 2,048 queries take 0.45 of the time of float32 for k = 10 and 0.83 for k = 50; on features of 64
columns 4,096 take 0.86 and 1.30, since there picking takes longer than the product.
Shapes: B queries, N bank rows, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

from spherood.sphere.neighbors import joined, nearest

TILE = 16_384  # rows of the bank; 32 MiB in float32 for D = 512
QUERY_TILE = 512
SPARE = 2  # candidates for each neighbour; with 1 a ResNet-20 loses 0.04 points of AUROC, with 2 0.004
GATHERED = 2**23  # values of candidates at once, 32 MiB


@torch.no_grad()
def nearest_stored(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine (B, k), detached, and row number in the bank (B, k) of the k nearest, nearest first.

    Query: unit rows, float32 for a bank in half precision, else of its dtype. k <= N.
    """
    if bank.dtype not in (torch.float16, torch.bfloat16):
        return nearest(query, bank, k)
    if torch.compiler.is_exporting():
        return nearest(query, bank.float(), k)
    narrow = bank.dtype == torch.bfloat16
    most = SPARE * k if narrow else k
    best, where = query.new_empty(len(query), 0), torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for number, tile in enumerate(bank.split(TILE)):
        few = min(most, len(tile))
        cosine, index = _largest(query, tile, few) if narrow else nearest(query, tile.float(), few)
        best, where = joined(best, where, cosine, index + number * TILE, most)
    return _compared(query, bank, where, k) if narrow else (best, where)


def _largest(query: Tensor, tile: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest products of each query, (B, k), taken in the tile's own precision."""
    found = [(part.to(tile.dtype) @ tile.T).topk(k, dim=1) for part in query.split(QUERY_TILE)]
    return torch.cat([cosine for cosine, _ in found]).to(query.dtype), torch.cat([index for _, index in found])


def _compared(query: Tensor, bank: Tensor, candidate: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest among the candidates (B, 2 k) of each query, in its precision."""
    rows = max(1, GATHERED // max(1, candidate.shape[1] * bank.shape[1]))
    cosine = torch.cat(
        [
            torch.bmm(bank[some].to(part.dtype), part[:, :, None])[:, :, 0]
            for part, some in zip(query.split(rows), candidate.split(rows), strict=True)
        ]
    )
    best, chosen = cosine.topk(k, dim=1)
    return best, candidate.gather(1, chosen)
