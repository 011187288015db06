from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spherood.sphere import nearest, neighbors, normalize


def drawn(rows: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, 6, generator=generator, dtype=torch.float64))


@pytest.mark.parametrize("k", [1, 5, 23])
@pytest.mark.parametrize("bank_tile", [1, 4, 23, 1000])
@pytest.mark.parametrize("query_tile", [1, 3, 1000])
def test_tiles_find_what_the_whole_product_finds(
    monkeypatch: pytest.MonkeyPatch, query_tile: int, bank_tile: int, k: int
) -> None:
    monkeypatch.setattr(neighbors, "QUERY_TILE", query_tile)
    monkeypatch.setattr(neighbors, "BANK_TILE", bank_tile)
    query, bank = drawn(10, 0), drawn(23, 1)
    cosine, index = nearest(query, bank, k)
    whole = (query @ bank.T).topk(k, dim=1)
    torch.testing.assert_close(cosine, whole.values, rtol=0, atol=1e-14)
    assert torch.equal(index, whole.indices)


@pytest.mark.parametrize("bank_tile", [2, 3, 100])
def test_equal_neighbours_come_each_once(monkeypatch: pytest.MonkeyPatch, bank_tile: int) -> None:
    monkeypatch.setattr(neighbors, "BANK_TILE", bank_tile)
    bank = drawn(3, 1).repeat(4, 1)  # every row four times
    cosine, index = nearest(bank[:3], bank, 12)
    assert [sorted(row) for row in index.tolist()] == [list(range(12))] * 3
    torch.testing.assert_close(cosine, (bank[:3, None] * bank[index]).sum(dim=2), rtol=0, atol=1e-14)
    assert {i % 3 for i in index[0, :4].tolist()} == {0}


def test_no_query_finds_nothing() -> None:
    cosine, index = nearest(drawn(0, 0), drawn(5, 1), 2)
    assert cosine.shape == index.shape == (0, 2)
