"""Percentiles of all values of a stream, exact and in bounded memory: the stream is read twice.

float32 values sort as their bits do, read as an integer (negative ones with all bits but the sign turned). The first
reading counts the upper 16 bits of every value, the second the lower 16 bits of those values that share the upper bits
of an order statistic asked for. So 2^16 counts an order statistic are kept, however many values there are.
Between two order statistics a straight line, as in numpy.percentile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

HALF = 1 << 16


def percentiles(stream: Callable[[], Iterable[Tensor]], percent: Sequence[float]) -> list[float]:
    """Each percentile, in [0, 100], of all values that `stream()` gives, rounded to float32; call it as often."""
    upper = sum((_counts(_order(values) >> 16, HALF // 2) for values in stream()), torch.zeros(HALF, dtype=torch.int64))
    n = int(upper.sum())
    places = [(n - 1) * share / 100 for share in percent]
    ranks = sorted({rank for place in places for rank in (int(place), min(int(place) + 1, n - 1))})

    ends = upper.cumsum(0)  # the values up to and with each of the upper halves
    shared = {rank: int(torch.searchsorted(ends, rank, right=True)) for rank in ranks}
    lower = {half: torch.zeros(HALF, dtype=torch.int64) for half in set(shared.values())}
    for values in stream():
        order = _order(values)
        for half in lower:
            lower[half] += _counts((order & (HALF - 1))[order >> 16 == half - HALF // 2], 0)

    value = {}
    for rank, half in shared.items():
        within = rank - int(ends[half] - upper[half])
        low = int(torch.searchsorted(lower[half].cumsum(0), within, right=True))
        value[rank] = _value((half - HALF // 2) * HALF + low)
    return [
        value[int(place)] + (place - int(place)) * (value[min(int(place) + 1, n - 1)] - value[int(place)])
        for place in places
    ]


def _order(values: Tensor) -> Tensor:
    """Integers that sort as the values do."""
    bits = values.float().flatten().view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _value(order: int) -> float:
    """What `_order` made this integer of."""
    bits = torch.tensor(order if order >= 0 else order ^ 0x7FFFFFFF, dtype=torch.int32)
    return float(bits.view(torch.float32))


def _counts(number: Tensor, shift: int) -> Tensor:
    return torch.bincount(number + shift, minlength=HALF).cpu()
