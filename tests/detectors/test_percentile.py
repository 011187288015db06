from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from spherood.detectors.percentile import percentiles

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


def test_five_values_give_the_percentiles_worked_out_by_hand() -> None:
    values = torch.tensor([[40.0, -10.0], [0.0, 20.0]]), torch.tensor([[10.0]])
    found = percentiles(lambda: values, [0, 10, 25, 50, 85, 100])
    assert found == pytest.approx([-10, -6, 0, 10, 28, 40])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(FLOATS, min_size=1, max_size=9), min_size=1, max_size=5), st.floats(0, 100))
def test_they_are_those_of_numpy_whatever_the_batches(batches: list[list[float]], percent: float) -> None:
    together = np.concatenate([np.array(batch) for batch in batches])
    (found,) = percentiles(lambda: [torch.tensor(batch, dtype=torch.float32) for batch in batches], [percent])
    widest = float(np.abs(together).max())
    assert found == pytest.approx(float(np.percentile(together, percent)), rel=1e-9, abs=1e-12 * widest)


def test_neighbours_that_differ_in_the_last_bit_are_told_apart() -> None:
    one, next_ = torch.tensor([1.0, 1.0]), torch.nextafter(torch.tensor([1.0]), torch.tensor([2.0]))
    values = torch.cat([one, next_, -one, -next_])
    found = percentiles(lambda: [values], [0, 20, 40, 60, 80, 100])
    assert found == pytest.approx(sorted(values.tolist()), rel=1e-12)


def test_the_stream_is_read_twice_and_never_held() -> None:
    read = []

    def stream() -> Iterator[Tensor]:
        for seed in range(3):
            read.append(seed)
            yield torch.randn(50, 4, generator=torch.Generator().manual_seed(seed))

    percentiles(stream, [5, 50, 95])
    assert read == [0, 1, 2] * 2
