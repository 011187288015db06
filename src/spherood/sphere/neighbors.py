"""Exact nearest neighbours by cosine: the bare product, and a search that reads few of its values twice.

Of the product of a query tile and a bank tile, each block is split into groups of 8 columns, and the largest value of
each group is taken while the block is still in a cache. The k groups with the largest ones hold k values,
and whatever lies in another group is no larger than any of these k: so the k nearest are sought among k groups, not N
values. Memory is bounded by the product of two tiles, whatever the bank. For few queries a block is a whole bank tile,
which is the wider the fewer they are: one query against a bank of a million is one product. Equal cosines may come in
any order.
Shapes: B queries, N bank rows, D dimension, W columns of a block, G groups in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

QUERY_TILE = 512
BANK_TILE = 6 * 8192  # a 512 x 49,152 float32 product is 96 MiB
BLOCK = 8192  # W; 1,024 gains 5 % on idle cores, but takes twice as long on busy ones: threads wait at each block's end
FEW = 32  # queries; their product with a bank tile, 6 MiB, is cached as it is. With 128, wide blocks are slower
GROUP = 8  # 16 is as fast up to k = 200 and slower at 1,000


@torch.no_grad()  # the buffer is written over; take row numbers from here and the gradient from your own product
def nearest(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine (B, k), detached, and row number in the bank (B, k) of the k nearest, nearest first.

    Both sides unit rows of one dtype, k <= N.
    """
    rows = min(len(query), QUERY_TILE)
    parts = bank.split(BANK_TILE * max(1, FEW // max(1, rows)))
    block = BLOCK if rows > FEW else _multiple(len(parts[0]), GROUP)
    buffer = query.new_empty(rows, _multiple(len(parts[0]), block))  # once: new pages for each tile cost 25 ms
    tiles = [_nearest_of_tile(tile, parts, k, buffer[: len(tile)], block) for tile in query.split(QUERY_TILE)]
    return torch.cat([cosine for cosine, _ in tiles]), torch.cat([index for _, index in tiles])


def _multiple(rows: int, of: int) -> int:
    return -(-rows // of) * of


def _nearest_of_tile(
    query: Tensor, parts: Sequence[Tensor], k: int, buffer: Tensor, block: int
) -> tuple[Tensor, Tensor]:
    best = query.new_empty(len(query), 0)
    where = torch.empty(len(query), 0, dtype=torch.int64, device=query.device)
    for number, part in enumerate(parts):
        if 2 * k * GROUP < len(part):
            cosine, index = _search_groups(query, part, k, buffer, block)
        else:  # with more candidates than that, sorting all is as fast
            cosine, index = _search_all(query, part, k, buffer)
        index += number * len(parts[0])
        if number:
            cosine, index = torch.cat([best, cosine], dim=1), torch.cat([where, index], dim=1)
            cosine, chosen = cosine.topk(min(k, cosine.shape[1]), dim=1)
            index = index.gather(1, chosen)
        best, where = cosine, index
    return best, where


def _search_all(query: Tensor, bank: Tensor, k: int, buffer: Tensor) -> tuple[Tensor, Tensor]:
    product = torch.mm(query, bank.T, out=buffer[:, : len(bank)])
    cosine, index = product.topk(min(k, len(bank)), dim=1)
    return cosine, index


def _search_groups(query: Tensor, bank: Tensor, k: int, buffer: Tensor, block: int) -> tuple[Tensor, Tensor]:
    groups = block // GROUP  # G; a group is every G-th column of a block: neighbouring ones take five times as long
    product = buffer[:, : _multiple(len(bank), block)]
    product[:, len(bank) :] = -torch.inf  # fills up the last block
    largest = query.new_empty(len(query), product.shape[1] // GROUP)
    for number, rows in enumerate(bank.split(block)):
        values = product[:, number * block : (number + 1) * block]  # (B, W)
        torch.mm(query, rows.T, out=values[:, : len(rows)])
        into = largest[:, number * groups : (number + 1) * groups]
        torch.amax(values.view(len(query), GROUP, groups), dim=1, out=into)
    group = largest.topk(k, dim=1, sorted=False).indices  # (B, k)
    first = group // groups * block + group % groups
    step = groups * torch.arange(GROUP, device=query.device)
    index = (first[:, None] + step[:, None]).flatten(1)  # (B, 8 k)
    cosine, chosen = product.gather(1, index).topk(k, dim=1)
    return cosine, index.gather(1, chosen)
