from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """All float32 rows are compared in bfloat16 first, on any processor; how many queries each float32 search had."""
    monkeypatch.setattr(neighbors, "MANY", 1)
    monkeypatch.setattr(neighbors, "SMALL", 1)
    monkeypatch.setattr(neighbors, "STEP", 512)
    monkeypatch.setattr(neighbors, "LEAST", 1)
    monkeypatch.setattr(neighbors, "_multiplies_tiles", lambda: True)
    search, counts = neighbors._search, []

    def counted(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
        counts.append(len(query))
        return search(query, bank, k)

    monkeypatch.setattr(neighbors, "_search", counted)
    return counts


def is_exact(query: Tensor, bank: Tensor, k: int, atol: float = 1e-6) -> bool:
    """Whether `nearest` finds what the float64 product finds, up to the order of neighbours within `atol`."""
    cosine, index = nearest(query, bank, k)
    product = query.double() @ bank.double().T
    best = product.topk(k, dim=1).values
    torch.testing.assert_close(cosine.double(), best, rtol=0, atol=atol)
    torch.testing.assert_close(product.gather(1, index), best, rtol=0, atol=atol)
    return all(len({*row}) == k for row in index.tolist())


@pytest.mark.parametrize("rows", [512, 700, 1500])  # all groups full; not all; more than a block
@pytest.mark.parametrize("part", [500, 2000])
@pytest.mark.parametrize("tile", [4, 1000])
def test_a_search_by_rounded_rows_finds_what_the_float64_product_finds(
    monkeypatch: pytest.MonkeyPatch, rounding: list[int], tile: int, part: int, rows: int
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 1024)
    monkeypatch.setattr(neighbors, "ROUNDED_ROWS", part)
    monkeypatch.setattr(neighbors, "ROUNDED_QUERIES", tile)
    query, bank = drawn(11, 0, torch.float32), drawn(rows, 1, torch.float32)
    for k in (1, 2, 9, 30):
        assert is_exact(query, bank, k)
    assert sum(rounding) < 11  # of 44, for each part: nearly all were found without the float32 product


def test_rounding_may_change_the_order_and_the_search_does_not(rounding: list[int]) -> None:
    axis, step = torch.eye(64)[0], 1e-4 * torch.arange(300)  # angles a hundred times finer than bfloat16 tells apart
    close = torch.cos(0.5 + step)[:, None] * axis + torch.sin(0.5 + step)[:, None] * drawn_in(64, 300, 2)
    bank = torch.cat([close, drawn_in(64, 3000, 1)])[torch.randperm(3300, generator=torch.Generator().manual_seed(0))]
    near = (axis.bfloat16() @ bank.bfloat16().T).topk(9).indices
    assert set(near.tolist()) != set((axis @ bank.T).topk(9).indices.tolist())
    assert is_exact(axis[None].repeat(3, 1), bank, 9)
    assert is_exact(axis[None], bank, 1)


@pytest.mark.parametrize("whose", ["query", "bank"])
def test_rows_rounded_in_opposite_directions_are_compared_rightly(
    monkeypatch: pytest.MonkeyPatch, rounding: list[int], whose: str
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 256)  # only some have a long row, or one that loses much
    sign = torch.tensor([1.0, -1.0]).repeat(8)
    coarse = [0.25 * (0.609375 + side * sign) for side in (0.875, -0.875)]  # bfloat16 as they are
    fine = [
        0.25 * (1 + (1 - side * sign) / 256) for side in (0.01, -0.01)
    ]  # rounded down and up by turns, and up and down
    query, (nearer, near) = (fine[0], coarse) if whose == "query" else (coarse[0], fine)
    near[0] -= 1e-3 if whose == "bank" else 2**-9
    others = -0.01 * normalize(torch.rand(700, 16, generator=torch.Generator().manual_seed(0)))
    cosine, index = nearest(query[None], torch.cat([others, nearer[None], others, near[None]]), 1)
    assert (query.bfloat16().float() * (nearer.bfloat16().float() - near.bfloat16().float())).sum() < -0.005
    assert index.tolist() == [[700]]
    assert cosine.item() == pytest.approx((query.double() @ nearer.double()).item(), abs=1e-6)
    assert not rounding


def test_a_neighbour_beyond_the_constant_passes_too(rounding: list[int]) -> None:
    query = torch.tensor([[1, 2**-4]])  # c is 1 for its product with itself, 1 + 2^-8
    bank = torch.cat([query, torch.tensor([[1, 2**-5]]), torch.tensor([[-0.5, 0.25]]).repeat(700, 1)])
    assert nearest(query, bank, 1)[1].item() == 0
    assert not rounding


def drawn_in(dim: int, rows: int, seed: int) -> Tensor:
    """Unit rows orthogonal to the first axis."""
    z = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    z[:, 0] = 0
    return normalize(z)


def test_among_near_duplicates_the_search_is_that_in_float32(rounding: list[int]) -> None:
    clump = normalize(torch.ones(6) + 1e-4 * drawn(3000, 1, torch.float32))
    query = drawn(5, 0, torch.float32)
    assert is_exact(query, clump, 3)
    assert rounding == [5]


def test_only_the_queries_beside_a_clump_are_searched_in_float32(rounding: list[int]) -> None:
    apart = drawn(3000, 1, torch.float32)
    clump = normalize(torch.ones(6) + 1e-4 * drawn(3000, 2, torch.float32))
    bank = torch.cat([apart[apart.sum(dim=1) < 0], clump])
    query = torch.cat([-torch.ones(1, 6), torch.ones(1, 6), -torch.eye(6)])
    assert is_exact(normalize(query), bank, 4)
    assert rounding == [1]


def test_after_a_tile_of_vain_attempts_the_rest_is_not_attempted(
    monkeypatch: pytest.MonkeyPatch, rounding: list[int]
) -> None:
    monkeypatch.setattr(neighbors, "ROUNDED_QUERIES", 4)
    attempts, passing = [], neighbors._passing

    def counted(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
        attempts.append(len(query))
        return passing(query, *rest)

    monkeypatch.setattr(neighbors, "_passing", counted)
    clump = normalize(torch.ones(6) + 1e-4 * drawn(1000, 1, torch.float32))
    assert is_exact(drawn(12, 0, torch.float32), clump, 3)
    assert attempts == [4]
    assert rounding == [12]


@pytest.mark.parametrize(("of_query", "of_bank"), [(1.0, 20.0), (1e-3, 1e3), (30.0, 1.0)])
def test_rows_of_any_length_are_searched_by_product(rounding: list[int], of_query: float, of_bank: float) -> None:
    stretch = 0.5 + torch.rand(800, 1, generator=torch.Generator().manual_seed(2))
    query, bank = of_query * drawn(7, 0, torch.float32), of_bank * stretch * drawn(800, 1, torch.float32)
    assert is_exact(query, bank, 6, atol=1e-6 * of_query * of_bank)
    assert sum(rounding) < 7


@pytest.mark.parametrize("value", [torch.nan, torch.inf, 0.0, 1e-25])
@pytest.mark.parametrize("whose", ["query", "bank"])
def test_rows_that_cannot_be_rounded_are_searched_as_ever(rounding: list[int], whose: str, value: float) -> None:
    query, bank = drawn(9, 0, torch.float32), drawn(700, 1, torch.float32)
    row = {"query": query[3], "bank": bank[3]}[whose]
    row *= value
    cosine, _ = nearest(query, bank, 2)
    torch.testing.assert_close(cosine, (query @ bank.T).topk(2, dim=1).values, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("scale", [2.0**-53, 2.0**-57, 2.0**-61])
def test_products_too_small_for_the_tiles_are_taken_in_float32(rounding: list[int], scale: float) -> None:
    query, bank = scale * drawn(9, 0, torch.float32), scale * drawn(700, 1, torch.float32)
    assert is_exact(query, bank, 2, atol=1e-6 * scale**2)
    assert rounding == [9]


@pytest.mark.usefixtures("rounding")
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-4, 1e-3, 1e-2, 0.1, 1.0]), st.integers(1, 40))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_clusters_of_any_width_are_searched_exactly(seed: int, width: float, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(4, 16, generator=generator)

    def rows(count: int) -> Tensor:
        own = mean[torch.randint(4, (count,), generator=generator)]
        return normalize(own + width * torch.randn(count, 16, generator=generator))

    assert is_exact(rows(9), rows(800), k)


def test_rows_are_rounded_for_many_float32_queries_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "_multiplies_tiles", lambda: True)
    few, many = torch.zeros(neighbors.MANY - 1, 4), torch.zeros(neighbors.MANY, 4)
    bank = torch.zeros(64 * 50, 4)
    assert neighbors._rounding_pays(many, bank, 50)
    assert not neighbors._rounding_pays(few, bank, 50)
    assert not neighbors._rounding_pays(many, bank, 51)
    assert not neighbors._rounding_pays(many, bank[:2047], 1)
    assert not neighbors._rounding_pays(many.double(), bank.double(), 50)


def test_rows_are_rounded_where_the_processor_has_tiles_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    has_tiles = neighbors._multiplies_tiles.__wrapped__
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert has_tiles()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert not has_tiles()
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_tiles()
