"""Exact nearest neighbours by cosine: the bare product, and searches that read few of its values twice.

Of the product of a query tile and a bank tile, each block is split into groups of 8 columns, and the largest value of
each group is taken while the block is still in a cache. The k groups with the largest ones hold k values,
and whatever lies in another group is no larger than any of these k: so the k nearest are sought among k groups, not N
values. Memory is bounded by the product of two tiles, whatever the bank. For few queries a block is a whole bank tile,
which is the wider the fewer they are: one query against a bank of a million is one product. Equal cosines may come in
any order.

On a CPU with tiles for bfloat16 (AMX), many float32 queries are first compared with the bank in bfloat16, and only
rows that may be among the k nearest are multiplied in float32. With q' and b' the rounded rows, r is c - q'.b', rounded
to bfloat16, where c = |q| max |b| makes r and its error small for near rows. By Cauchy and Schwarz

    |r - (c - q.b)| <= |r| / 256 + e,    e = |q - q'| |b| + |q'| |b - b'| + (D + 1) 2^-21 |q| |b|

with the largest |b| and |b - b'| of the bank tile, all lengths as measured (rounding takes up to 1/256 of a component,
and about 1/600 of a row); the last term is for the float32 sums of both products. If k rows have r <= t with t >= 0,
each of the k nearest has r <= t + t / 256 + 2 e, rounded to bfloat16. So nothing is left out, whatever the data; a
query for which too many rows pass, as among near-duplicates, is searched in float32. Cosines then differ from the plain
product's by the order of summation, for unit rows by less than 1e-6, and neighbours as close as that may change places.
Memory: the rounded rows of a bank tile besides.
Shapes: B queries, N bank rows, D dimension, W columns of a block, G groups in it, M pairs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

QUERY_TILE = 512
BANK_TILE = 6 * 8192  # a 512 x 49,152 float32 product is 96 MiB
BLOCK = 8192  # W; 1,024 gains 5 % on idle cores, but takes twice as long on busy ones: threads wait at each block's end
FEW = 32  # queries; their product with a bank tile, 6 MiB, is cached as it is. With 128, wide blocks are slower
GROUP = 8  # 16 is as fast up to k = 200 and slower at 1,000
MANY = 512  # queries worth rounding the bank for: with 512 numbers a row, 384 are no faster, 256 are slower
ROUNDED_QUERIES = 384  # at least, and fewer than twice as many: a product of 256 takes as long
ROUNDED_ROWS = 60 * 1024  # a 767 x 61,440 bfloat16 product is 90 MiB
STEP = 2048  # rows are filled up to a multiple: without, the product may take twice as long
SMALL = 2048  # bank rows; not tried with fewer
LEAST = 64  # bank rows for each neighbour; with 32, candidates are too many


@torch.no_grad()  # the buffer is written over; take row numbers from here and the gradient from your own product
def nearest(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Cosine (B, k), detached, and row number in the bank (B, k) of the k nearest, nearest first.

    Both sides unit rows of one dtype, k <= N.
    """
    if torch.compiler.is_exporting():  # what follows depends on numbers of queries, which a graph does not know
        cosine, index = (query @ bank.T).topk(k, dim=1)
        return cosine, index
    if not _rounding_pays(query, bank, k):
        return _search(query, bank, k)
    parts = bank.split(_rows_of_part(bank))
    cosine, index = _search_rounded(query, parts[0], k)
    for number, part in enumerate(parts[1:], start=1):
        more, where = _search_rounded(query, part, k)
        cosine, index = joined(cosine, index, more, where + number * len(parts[0]), k)
    return cosine, index


def _search(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
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
            cosine, index = joined(best, where, cosine, index, k)
        best, where = cosine, index
    return best, where


def joined(best: Tensor, where: Tensor, cosine: Tensor, index: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest (all, where there are fewer) of two answers to the same queries, nearest first."""
    cosine, index = torch.cat([best, cosine], dim=1), torch.cat([where, index], dim=1)
    cosine, chosen = cosine.topk(min(k, cosine.shape[1]), dim=1)
    return cosine, index.gather(1, chosen)


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


def _rows_of_part(bank: Tensor) -> int:
    """As few parts as ROUNDED_ROWS allows, of one length."""
    return -(-len(bank) // -(-len(bank) // ROUNDED_ROWS))


def _rounding_pays(query: Tensor, bank: Tensor, k: int) -> bool:
    return (
        query.dtype == torch.float32
        and query.device.type == "cpu"
        and len(query) >= MANY
        and len(bank) >= SMALL
        and _rows_of_part(bank) >= LEAST * k
        and _multiplies_tiles()
    )


@cache
def _multiplies_tiles() -> bool:
    """AVX-512's bfloat16 alone saves nothing from 128 numbers a row on: 0.93 times as fast, 0.6 times with 512."""
    read: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    return torch.backends.mkldnn.is_available() and bool(read().get("amx_bf16"))


class Rounded(NamedTuple):
    rows: Tensor  # (N filled up, D + 1), bfloat16: (b', 1)
    longest: Tensor  # (), the largest |b|
    lost: Tensor  # (), the largest |b - b'|


def _rounded(bank: Tensor) -> Rounded:
    rows = torch.empty(_multiple(len(bank), STEP), bank.shape[1] + 1, dtype=torch.bfloat16)
    rows[: len(bank), -1] = 1
    rows[len(bank) :] = 0
    rows[len(bank) :, -1] = torch.inf  # and so is r: no neighbour of anything
    longest, lost = [], []
    for block, into in zip(bank.split(BLOCK), rows[: len(bank)].split(BLOCK), strict=True):
        into[:, :-1] = block
        longest.append(torch.linalg.vector_norm(block, dim=1).amax())
        lost.append(torch.linalg.vector_norm(block - into[:, :-1], dim=1).amax())
    return Rounded(rows, torch.stack(longest).amax(), torch.stack(lost).amax())


def _search_rounded(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    bank = bank.contiguous()
    rounded = _rounded(bank)
    size = -(-len(query) // max(1, len(query) // ROUNDED_QUERIES))
    product = torch.empty(size, len(rounded.rows), dtype=torch.bfloat16)
    cosine, index = query.new_empty(len(query), k), torch.empty(len(query), k, dtype=torch.int64)
    found = torch.zeros(len(query), dtype=torch.bool)
    for start in range(0, len(query), size):
        rows = slice(start, start + size)
        tile = query[rows]
        row, column, found[rows] = _passing(tile, rounded, k, product[: len(tile)])
        cosine[rows], index[rows] = _nearest_of_pairs(tile, bank, row, column, k)
        if 2 * found[rows].sum() < len(tile):
            break  # the others will hardly fare better
    left = found.logical_not().nonzero()[:, 0]
    if len(left):
        cosine[left], index[left] = _search(query[left], bank, k)
    return cosine, index


def _passing(query: Tensor, bank: Rounded, k: int, product: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query (M,), ascending, and bank row (M,) of each pair to be multiplied in float32; (B,): whether they suffice.

    A query for which they do not has no pair.
    """
    size, dim = query.shape
    length = torch.linalg.vector_norm(query, dim=1)
    reach = length * bank.longest
    near = torch.cat([-query, reach[:, None]], dim=1).bfloat16()  # (-q', c)
    lost = torch.linalg.vector_norm(query + near[:, :-1], dim=1)
    error = lost * bank.longest + (length + lost) * bank.lost + (dim + 1) * 2**-21 * reach
    torch.mm(near, bank.rows.T, out=product)
    bits = product.view(torch.int16).view(size, GROUP, -1)  # as ordered as r from 0 on, and negative as r is
    least = torch.amin(bits, dim=1)  # (B, G); integers, for their minimum takes a third of the time
    folded = least
    while folded.shape[1] % 2 == 0 and folded.shape[1] >= 8 * k:
        folded = torch.amin(folded.view(size, 2, -1), dim=1)  # still k rows, t is a little larger, and topk faster
    t = folded.topk(k, dim=1, largest=False, sorted=False).values.amax(dim=1).view(torch.bfloat16).float().clamp(min=0)
    limit = (t + t / 256 + 2.001 * error).bfloat16().view(torch.int16)[:, None]  # .001 for the arithmetic of e itself
    row, group = (least <= limit).nonzero(as_tuple=True)
    enough = 2 * k + len(bank.rows) // 64  # with more groups, the whole product is as fast
    found = torch.bincount(row, minlength=size) <= enough
    found &= (reach > 2**-100) & (error < 2.0**100)  # AMX takes tiny products for 0; false for NaN
    if not found.all():
        row, group = row[found[row]], group[found[row]]
    one, member = (bits[row, :, group] <= limit[row]).nonzero(as_tuple=True)
    return row[one], group[one] + member * least.shape[1], found


def _nearest_of_pairs(query: Tensor, bank: Tensor, row: Tensor, column: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest among each query's own pairs (M,), ascending by query; no answer where a query has fewer."""
    _let_sparse_tensors_be()
    count = torch.bincount(row, minlength=len(query))
    begin = F.pad(count.cumsum(dim=0), (1, 0))
    size = (len(query), len(bank))
    pairs = torch.sparse_csr_tensor(begin, column, query.new_zeros(len(row)), size, check_invariants=False)
    own = torch.arange(max(k, int(count.max()))) < count[:, None]
    cosine = query.new_full(own.shape, -torch.inf)
    cosine.masked_scatter_(own, torch.sparse.sampled_addmm(pairs, query, bank.T, beta=0).values())
    cosine, chosen = cosine.topk(k, dim=1)
    return cosine, F.pad(column, (0, 1))[(begin[:-1, None] + chosen).clamp(max=len(column))]


@cache
def _let_sparse_tensors_be() -> None:
    """A process's first one warns of a beta; what is used of it here is tested."""
    with warnings.catch_warnings(action="ignore"):
        torch.eye(1).to_sparse_csr()
