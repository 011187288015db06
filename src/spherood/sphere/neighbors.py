"""Exact nearest neighbours by cosine, in tiles: memory is bounded by a tile, whatever the bank.

Shapes: B queries, N bank rows, D dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

QUERY_TILE = 1024
BANK_TILE = 8192  # a 1,024 x 8,192 float32 product is 32 MB


def nearest(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine (B, k) and row number in the bank (B, k) of the k nearest, nearest first. Both sides unit rows, k <= N."""
    tiles = [_nearest_of_tile(tile, bank, k) for tile in query.split(QUERY_TILE)]
    return torch.cat([cosine for cosine, _ in tiles]), torch.cat([index for _, index in tiles])


def _nearest_of_tile(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    best = query.new_empty(len(query), 0)
    where = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for number, block in enumerate(bank.split(BANK_TILE)):
        cosine, index = (query @ block.T).topk(min(k, len(block)), dim=1)
        cosine, index = torch.cat([best, cosine], dim=1), torch.cat([where, index + number * BANK_TILE], dim=1)
        best, chosen = cosine.topk(min(k, cosine.shape[1]), dim=1)
        where = index.gather(1, chosen)
    return best, where
