"""CIDER's prototypes: a moving average of unit vectors, normalised after every single sample.

    p_y <- u / |u|,   u = m p_y + (1 - m) z        for one row (z, y) after the other

The recursion is not linear and depends on the order of rows, but rows of different classes never meet. So the r-th rows
of all classes advance in one round: same numbers, same gradients as the row loop, in as many rounds as the most
frequent class has rows. The gradient flows from the new prototypes through every later normalisation into z.

Shapes: N rows, C classes, d dimension, U classes present in the batch.
Source: Ming et al., ICLR 2023, arXiv:2203.04450 (equation number unchecked); order as in the released code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def advance(prototypes: Tensor, embedding: Tensor, label: Tensor, momentum: float) -> Tensor:
    """The prototypes (C, d) after the rows embedding (N, d), label (N,), in row order; an absent class keeps its own.

    `momentum` in [0, 1] is the share of the old prototype. Labels on the CPU spare a GPU one synchronisation.
    """
    row, present, sizes = _rounds(label, len(prototypes))
    row, present = row.to(embedding.device), present.to(embedding.device)
    rows = embedding[row].split(sizes)
    current = prototypes[present]  # (U, d), the most frequent class first: a round always touches a prefix
    for z in rows:
        moved = F.normalize(momentum * current[: len(z)] + (1 - momentum) * z, dim=1)
        current = torch.cat([moved, current[len(z) :]])
    return prototypes.index_copy(0, present, current)


def _rounds(label: Tensor, classes: int) -> tuple[Tensor, Tensor, list[int]]:
    """Row order by rounds (N,), present classes (U,) by falling frequency, and the number of rows of each round."""
    label = label.cpu().long()
    count = torch.bincount(label, minlength=classes)
    by_count = count.argsort(descending=True, stable=True)
    place = torch.empty_like(by_count)
    place[by_count] = torch.arange(len(by_count))  # (C,), class -> its place by falling frequency
    order = place[label].argsort(stable=True)  # rows by class, within a class in row order
    start = count[by_count].cumsum(0) - count[by_count]  # (C,), where a class begins in `order`
    turn = torch.empty_like(label)
    turn[order] = torch.arange(len(label)) - start[place[label[order]]]  # (N,), how many rows of its class came before
    row = (turn * classes + place[label]).argsort()
    return row, by_count[: int((count > 0).sum())], torch.bincount(turn).tolist()
