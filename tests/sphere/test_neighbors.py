from __future__ import annotations

import pytest
import torch
from torch import Tensor

from spherood.sphere import nearest, neighbors, normalize


def drawn(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, 6, generator=generator, dtype=dtype))


@pytest.fixture
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 6 columns in 3 groups of 2, so that a bank of a few dozen rows is searched by groups."""
    monkeypatch.setattr(neighbors, "FEW", 0)
    monkeypatch.setattr(neighbors, "BLOCK", 6)
    monkeypatch.setattr(neighbors, "GROUP", 2)


@pytest.mark.parametrize("k", [1, 5, 23])
@pytest.mark.parametrize("bank_tile", [1, 4, 23, 1000])
@pytest.mark.parametrize("query_tile", [1, 3, 1000])
def test_tiles_find_what_the_whole_product_finds(
    monkeypatch: pytest.MonkeyPatch, query_tile: int, bank_tile: int, k: int
) -> None:
    monkeypatch.setattr(neighbors, "FEW", 0)
    monkeypatch.setattr(neighbors, "QUERY_TILE", query_tile)
    monkeypatch.setattr(neighbors, "BANK_TILE", bank_tile)
    query, bank = drawn(10, 0), drawn(23, 1)
    cosine, index = nearest(query, bank, k)
    whole = (query @ bank.T).topk(k, dim=1)
    torch.testing.assert_close(cosine, whole.values, rtol=0, atol=1e-14)
    assert torch.equal(index, whole.indices)


@pytest.mark.parametrize("rows", [13, 48, 50, 53])  # of 6-column blocks: just over two, eight, eight and a bit
@pytest.mark.parametrize("bank_tile", [7, 20, 1000])
@pytest.mark.parametrize("query_tile", [3, 1000])
@pytest.mark.parametrize("few", [0, 10, 30])  # of 10 queries: narrow blocks; one per bank tile; the same, wider tiles
@pytest.mark.usefixtures("small_groups")
def test_groups_find_what_the_whole_product_finds_for_every_k(
    monkeypatch: pytest.MonkeyPatch, few: int, query_tile: int, bank_tile: int, rows: int
) -> None:
    monkeypatch.setattr(neighbors, "FEW", few)
    monkeypatch.setattr(neighbors, "QUERY_TILE", query_tile)
    monkeypatch.setattr(neighbors, "BANK_TILE", bank_tile)
    query, bank = drawn(10, 0), drawn(rows, 1)
    for k in range(1, rows + 1):
        cosine, index = nearest(query, bank, k)
        whole = (query @ bank.T).topk(k, dim=1)
        torch.testing.assert_close(cosine, whole.values, rtol=0, atol=1e-14)
        assert torch.equal(index, whole.indices)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [900, 8192, 9001])  # less than a block, a block, one and a rest no group divides
@pytest.mark.parametrize("k", [1, 50, 200])
def test_the_values_are_those_of_the_product_to_the_last_bit(rows: int, k: int, dtype: torch.dtype) -> None:
    query, bank = drawn(64, 0, dtype), drawn(rows, 1, dtype)
    cosine, index = nearest(query, bank, k)
    product = torch.cat([query @ block.T for block in bank.split(neighbors.BLOCK)], dim=1)
    assert cosine.dtype == dtype
    assert torch.equal(cosine, product.topk(k, dim=1).values)
    assert torch.equal(cosine, product.gather(1, index))


@pytest.mark.parametrize("bank_tile", [2, 3, 100])
def test_equal_neighbours_come_each_once(monkeypatch: pytest.MonkeyPatch, bank_tile: int) -> None:
    monkeypatch.setattr(neighbors, "FEW", 0)
    monkeypatch.setattr(neighbors, "BANK_TILE", bank_tile)
    bank = drawn(3, 1).repeat(4, 1)  # every row four times
    cosine, index = nearest(bank[:3], bank, 12)
    assert [sorted(row) for row in index.tolist()] == [list(range(12))] * 3
    torch.testing.assert_close(cosine, (bank[:3, None] * bank[index]).sum(dim=2), rtol=0, atol=1e-14)
    assert {i % 3 for i in index[0, :4].tolist()} == {0}


@pytest.mark.parametrize("k", [1, 4, 7])
@pytest.mark.usefixtures("small_groups")
def test_equal_neighbours_in_one_group_and_in_many_come_each_once(k: int) -> None:
    bank = drawn(5, 1).repeat(10, 1)
    cosine, index = nearest(bank[:5], bank, k)
    assert all(len({*row}) == k for row in index.tolist())
    assert torch.equal(index % 5, torch.arange(5)[:, None].expand(5, k))
    torch.testing.assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-14)


@pytest.mark.usefixtures("small_groups")
def test_what_fills_up_the_last_block_is_nobodys_neighbour() -> None:
    bank = drawn(1, 1).repeat(13, 1)  # two blocks and one column; the query is opposite to every row
    cosine, index = nearest(-bank[:1], bank, 3)
    assert index.max() < 13
    torch.testing.assert_close(cosine, -torch.ones_like(cosine), rtol=0, atol=1e-14)


def test_rows_that_need_a_gradient_are_welcome_and_the_cosine_has_none() -> None:
    cosine, _ = nearest(drawn(2, 0).requires_grad_(), drawn(900, 1), 3)
    assert not cosine.requires_grad


@pytest.mark.parametrize("rows", [5, 900])
def test_no_query_finds_nothing(rows: int) -> None:
    cosine, index = nearest(drawn(0, 0), drawn(rows, 1), 2)
    assert cosine.shape == index.shape == (0, 2)
