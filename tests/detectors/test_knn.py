from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from spherood.bundle import Bundle
from spherood.bundle.fit import Parts, fit, halve
from spherood.bundle.rows import Rows
from spherood.detectors import KNN, Combined
from spherood.detectors.knn import Draw
from spherood.errors import ConfigError, FitError
from spherood.outputs import Outputs
from spherood.sphere import normalize

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
IN_HALF = pytest.mark.parametrize("storage", HALVES)
TILE = "spherood.sphere.stored_bank.TILE"


def drawn(rows: int, seed: int = 0, dim: int = 5) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("name", "k"), [("knn_k1", 1), ("knn_k10", 10), ("knn_k50", 50), ("knn_k200", 200), ("cider_knn_k50", 50)]
)
def test_the_scores_are_those_of_openood(resnet20: SimpleNamespace, name: str, k: int) -> None:
    score = KNN(k=k).fit(resnet20.train).score(resnet20.query)
    np.testing.assert_allclose(score.double().numpy(), resnet20.score[name], rtol=0, atol=1e-6)


def test_two_rows_in_the_bank_give_the_distances_worked_out_by_hand() -> None:
    x, y, z = torch.eye(3)
    bank, query = torch.stack([2 * x, 3 * y]), torch.stack([z, -5 * x, x])
    torch.testing.assert_close(KNN(k=1).fit(bank).score(query), torch.tensor([2.0, 2.0, 0.0]))
    torch.testing.assert_close(KNN(k=2).fit(bank).score(query), torch.tensor([2.0, 4.0, 2.0]))


def test_a_very_near_neighbour_keeps_its_digits() -> None:
    angle = 1e-4
    query = torch.tensor([[np.cos(angle), np.sin(angle)]], dtype=torch.float32)
    score = KNN(k=1).fit(torch.tensor([[1.0, 0.0]])).score(query)
    assert float(score) == pytest.approx(angle**2, rel=1e-3)  # 2 - 2 cos in float32 gives 0 or 1.2e-7


def test_scores_lie_between_0_and_4_and_grow_with_k() -> None:
    bank, query = drawn(40), drawn(30, 1)
    scores = torch.stack([KNN(k=k).fit(bank).score(query) for k in (1, 2, 7, 40)])
    assert bool((scores.diff(dim=0) > 0).all())
    assert float(KNN(k=1).fit(bank).score(bank).max()) < 1e-12
    assert 0 <= float(scores.min()) <= float(scores.max()) <= 4


def test_turns_lengths_and_the_order_of_the_bank_change_nothing() -> None:
    bank, query = drawn(40), drawn(30, 1)
    expected = KNN(k=3).fit(bank).score(query)
    turn = torch.linalg.qr(drawn(5, 2))[0]
    length = drawn(40, 3).abs()[:, :1] + 0.1
    for changed_bank, changed_query in [
        (bank @ turn, query @ turn),
        (bank * length, query * 7),
        (bank.flip(0), query),
    ]:
        torch.testing.assert_close(KNN(k=3).fit(changed_bank).score(changed_query), expected, rtol=1e-4, atol=1e-5)


def test_labels_are_not_needed_and_not_used() -> None:
    bank = drawn(40)
    with_labels = KNN(k=3).fit(bank, torch.arange(40) % 7).score(bank)
    assert torch.equal(KNN(k=3).fit(bank).score(bank), with_labels)
    assert torch.equal(KNN(k=3).fit([(bank, None)]).score(bank), with_labels)


def test_k_beyond_the_bank_is_told_with_the_largest_that_works() -> None:
    with pytest.raises(FitError, match=r"KNN: k=41 is larger than the bank of 40 features\. Use k <= 40"):
        KNN(k=41).fit(drawn(40))
    assert KNN(k=40).fit(drawn(40)).score(drawn(2)).shape == (2,)


@pytest.mark.parametrize("k", [0, -3, 2.5, "ten"])
def test_k_is_a_whole_number_above_zero(k: Any) -> None:
    with pytest.raises(ConfigError, match=rf"KNN: k must be a whole number of at least 1, got {k}\. Try 50"):
        KNN(k=k)


def test_k_may_come_from_a_numpy_sweep() -> None:
    bank = drawn(40)
    assert torch.equal(KNN(k=np.int64(5)).fit(bank).score(bank), KNN(k=5).fit(bank).score(bank))


def slowly(bank: Tensor, query: Tensor, k: int, dtype: torch.dtype) -> list[float]:
    """The score one pair at a time, in float64, from rows rounded to dtype."""
    rows, scores = normalize(bank).to(dtype).double(), []
    for u in normalize(query).double():
        nearest_first = sorted(range(len(rows)), key=lambda i: -float(u @ rows[i]))
        scores.append(float((u - rows[nearest_first[k - 1]]).square().sum()))
    return scores


@IN_HALF
@pytest.mark.parametrize("tile", [7, 50, 10_000])
def test_half_precision_scores_with_the_rows_it_keeps(storage: Any, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TILE, tile)
    bank, query = drawn(50), drawn(30, 1)
    judge = KNN(k=25, storage=storage).fit(bank)  # 2 k candidates are all there are: bfloat16 misses nothing
    assert judge.bank.dtype == HALVES[storage]
    score = judge.score(query)
    assert score.dtype == torch.float32
    torch.testing.assert_close(
        score.double(), torch.tensor(slowly(bank, query, 25, HALVES[storage])).double(), rtol=0, atol=1e-6
    )
    assert float((score - KNN(k=25).fit(bank).score(query)).abs().max()) > 1e-5


@pytest.mark.parametrize("tile", [64, 10_000])
def test_few_neighbours_of_many_in_float16_are_the_exact_ones(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TILE, tile)
    bank, query = drawn(1000), drawn(30, 1)
    score = KNN(k=3, storage="float16").fit(bank).score(query).double()
    expected = torch.tensor(slowly(bank, query, 3, torch.float16), dtype=torch.float64)
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("tile", [64, 10_000])
def test_bfloat16_misses_a_neighbour_by_no_more_than_its_rounding(tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates are chosen by products of 8 bits, ordered by products of 24."""
    monkeypatch.setattr(TILE, tile)
    bank, query = drawn(1000, dim=16), drawn(200, 1, dim=16)
    exact = KNN(k=3).fit(bank.bfloat16()).score_with_neighbours(query, 3)[1]
    cosine, row = KNN(k=3, storage="bfloat16").fit(bank).score_with_neighbours(query, 3)[1]
    assert bool((cosine.diff(dim=1) <= 0).all())
    kept = normalize(bank).bfloat16().float()
    torch.testing.assert_close(cosine, (normalize(query)[:, None] * kept[row]).sum(dim=2), rtol=0, atol=1e-6)
    assert float((exact[0] - cosine).max()) < 2**-7
    assert float((row == exact[1]).float().mean()) > 0.95


class Widest(TorchDispatchMode):
    """Sees the largest float32 tensor that is made."""

    seen = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.dtype == torch.float32:
            self.seen = max(self.seen, out.numel())
        return out


@pytest.mark.parametrize(("storage", "rows"), [("float16", 100), ("bfloat16", 2 * 3)])
def test_the_search_in_half_precision_widens_a_tile_or_the_candidates(
    storage: Any, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TILE, 100)
    judge, query = KNN(k=3, storage=storage).fit(drawn(4000, dim=64)), drawn(1, 1, dim=64)
    with Widest() as widest:
        judge.score(query)
    assert widest.seen <= rows * 64


def test_the_candidates_of_many_queries_are_widened_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    judge, query = KNN(k=3, storage="bfloat16").fit(drawn(400, dim=64)), drawn(50, 1, dim=64)
    expected = judge.score(query)
    monkeypatch.setattr("spherood.sphere.stored_bank.GATHERED", 2 * 6 * 64)
    with Widest() as widest:
        score = judge.score(query)
    assert widest.seen <= 50 * 64  # the queries themselves
    torch.testing.assert_close(score, expected, rtol=0, atol=1e-6)


@IN_HALF
def test_half_the_memory_goes_to_disk_and_comes_back(storage: Any, tmp_path: Path) -> None:
    bank, query = drawn(200, dim=64), drawn(30, 1, dim=64)
    judge = KNN(k=3, storage=storage).fit(bank)
    save_file(judge.state_dict(), tmp_path / "judge.safetensors")
    assert (tmp_path / "judge.safetensors").stat().st_size < 200 * 64 * 2 + 200
    fresh = KNN(k=3, storage=storage)
    fresh.load_state_dict(load_file(tmp_path / "judge.safetensors"))
    assert fresh.bank.dtype == HALVES[storage]
    assert torch.equal(fresh.score(query), judge.score(query))


@IN_HALF
def test_a_stream_of_known_size_is_kept_in_half_precision_too(storage: Any) -> None:
    class Stream(list[tuple[Tensor, None]]):
        total = 40

    bank = drawn(40)
    judge = KNN(k=3, storage=storage).fit(Stream((part, None) for part in bank.split(15)))
    assert torch.equal(judge.bank, KNN(k=3, storage=storage).fit(bank).bank)


@pytest.mark.parametrize("storage", ["float32", *HALVES])
def test_a_bundle_brings_the_bank_back_as_it_was_kept(storage: str, tmp_path: Path) -> None:
    label = np.arange(200) % 4
    known, query = (drawn(200) + 3 * torch.eye(5)[label]).numpy(), drawn(20, 1).numpy()
    bundle = Bundle.fit(known, label, score=f"knn:k=3:storage={storage}", false_alarm_rate=0.2)
    bundle.save(tmp_path)
    loaded = Bundle.load(tmp_path)
    assert loaded.runtime.detector.bank.dtype == getattr(torch, storage)
    assert torch.equal(loaded.runtime.detector.bank, bundle.runtime.detector.bank)
    assert loaded.predict(query) == bundle.predict(query)


def test_a_bank_rounded_to_half_precision_keeps_its_type() -> None:
    for storage in ("float32", *HALVES):
        judge = KNN(k=3, storage=storage).fit(drawn(40))  # type: ignore[arg-type]
        expected = judge.bank.half().to(judge.bank.dtype)
        halve(judge)
        assert torch.equal(judge.bank, expected)
        assert judge.bank.dtype == getattr(torch, storage)


def by_key(label: Tensor, per_class: int, seed: int) -> list[int]:
    """Rows with the smallest keys of each class, one at a time."""
    keys = np.random.default_rng(seed).random(len(label))
    taken: dict[int, int] = {}
    kept = []
    for i in sorted(range(len(label)), key=lambda i: keys[i]):
        taken[int(label[i])] = taken.get(int(label[i]), 0) + 1
        if taken[int(label[i])] <= per_class:
            kept.append(i)
    return sorted(kept)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    per_class=st.integers(1, 12),
    classes=st.integers(1, 5),
    seed=st.integers(0, 99),
)
def test_any_batching_draws_the_rows_with_the_smallest_keys(
    sizes: list[int], per_class: int, classes: int, seed: int
) -> None:
    rows = sum(sizes)
    x = drawn(rows)
    label = torch.randint(classes, (rows,), generator=torch.Generator().manual_seed(seed)) * 3  # some have no row
    judge = KNN(k=1, per_class=per_class, seed=seed).fit(list(zip(x.split(sizes), label.split(sizes), strict=True)))
    assert judge.row.tolist() == by_key(label, per_class, seed)
    assert torch.equal(judge.bank, normalize(x)[judge.row])


def test_every_row_of_a_class_is_drawn_as_often_as_the_others() -> None:
    x, label = drawn(20), torch.arange(20) % 2
    drawn_rows = torch.cat([KNN(k=1, per_class=3, seed=seed).fit(x, label).row for seed in range(400)])
    often = torch.bincount(drawn_rows, minlength=20)  # of 400 times 3 in 10: 120, standard deviation 9.2
    assert 80 < int(often.min()) <= int(often.max()) < 160


def test_a_draw_holds_no_more_than_twice_what_is_kept_and_a_batch() -> None:
    draw = Draw(10, seed=0)
    for _ in range(50):
        draw.add(drawn(64), torch.arange(64) % 4)
        assert len(draw.number) == sum(map(len, draw._parts)) <= 2 * 40 + 64
    assert len(draw.rows()) == len(draw.number) == 40
    assert draw.seen == 3200


@pytest.mark.parametrize("storage", ["float32", *HALVES])
def test_neighbours_are_numbered_as_they_were_fitted(storage: Any) -> None:
    x, label, query = drawn(300), torch.arange(300) % 3, drawn(20, 1)
    judge = KNN(k=3, storage=storage, per_class=20).fit(x, label)
    score, (cosine, row) = judge.score_with_neighbours(query, 5)
    assert len(judge.bank) == 60
    assert set(row.flatten().tolist()) <= set(judge.row.tolist())
    torch.testing.assert_close(cosine, (normalize(query)[:, None] * normalize(x)[row]).sum(dim=2), rtol=0, atol=2**-7)
    assert torch.equal(score, judge.score(query))


def test_a_bundle_of_a_drawn_bank_names_the_right_images(tmp_path: Path) -> None:
    label = np.arange(200) % 4
    feature = drawn(200) + 3 * torch.eye(5)[label]
    known = Rows("known", Outputs(feature), label, tuple("abcd"), [f"{i}.png" for i in range(200)])
    apart = Rows.of_arrays("apart", (drawn(100, 2) + 3 * torch.eye(5)[np.arange(100) % 4]).numpy())
    scores = ("knn:k=3:per_class=10", "combined:scores=[mahalanobis, 'knn:k=3:per_class=10']")
    for number, score in enumerate(scores):
        fitted = fit(Parts(known, None, apart), [score], false_alarm_rate=0.2, half=True)
        bundle = Bundle.of(fitted, half=True)
        bundle.save(tmp_path / f"{number}")
        loaded = Bundle.load(tmp_path / f"{number}")
        judge = next(part for part in loaded.runtime.detector.modules() if isinstance(part, KNN))
        verdicts = loaded.predict(feature[judge.row].numpy())
        assert [verdict.neighbours[0].name for verdict in verdicts] == [f"{i}.png" for i in judge.row.tolist()]
        assert verdicts == bundle.predict(feature[judge.row].numpy())


def test_a_combination_draws_from_its_own_stream() -> None:
    x, label = drawn(120), torch.arange(120) % 3
    scores = ["knn:k=3:per_class=10", "knn:k=3"]
    small, whole = Combined(scores=scores).fit(x, label).members
    assert (len(small.bank), len(whole.bank)) == (30, 120)


def test_a_bank_is_shared_among_k_nn_that_keep_the_same_rows_alone() -> None:
    x, label, query = drawn(90), torch.arange(90) % 3, drawn(20, 1)
    wide = KNN(k=9, per_class=10, seed=1).fit(x, label)
    narrow = KNN(k=2, per_class=10, seed=1).share(wide)
    assert narrow.bank is wide.bank
    assert torch.equal(narrow.score_with_neighbours(query, 2)[1][1], wide.score_with_neighbours(query, 2)[1][1])
    for setting, told in [
        ({"storage": "float16"}, "storage=float16, per_class=None, seed=0"),
        ({"per_class": 10}, "storage=float32, per_class=10, seed=0"),
        ({"per_class": 9, "seed": 1}, "storage=float32, per_class=9, seed=1"),
    ]:
        message = f"KNN: {told} cannot share the bank of storage=float32, per_class=10, seed=1. Fit each on its own."
        with pytest.raises(FitError, match=f"^{re.escape(message)}$"):
            KNN(k=2, **setting).share(wide)  # type: ignore[arg-type]


def test_a_draw_needs_labels_and_k_rows() -> None:
    message = r"^KNN\.fit: per_class needs labels\. Call fit\(feature, label\), or leave per_class out\.$"
    for unlabelled in (drawn(40), [(drawn(40), torch.arange(40) % 2), (drawn(40), None)]):
        with pytest.raises(FitError, match=message):
            KNN(k=3, per_class=5).fit(unlabelled)
    with pytest.raises(FitError, match=r"^KNN: k=11 is larger than the bank of 10 features\. Use k <= 10\.$"):
        KNN(k=11, per_class=5).fit(drawn(40), torch.arange(40) % 2)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"storage": "int8"}, r"storage must be 'float32', 'float16' or 'bfloat16', got 'int8'\."),
        ({"per_class": 0}, r"per_class must be a whole number of at least 1, got 0\. Leave it out for all rows\."),
        ({"per_class": 0.5}, r"per_class must be a whole number of at least 1, got 0\.5\. Leave it out for all rows\."),
        ({"seed": -1}, r"seed must be a whole number of at least 0, got -1\. Try 0\."),
        ({"seed": None}, r"seed must be a whole number of at least 0, got None\. Try 0\."),
    ],
)
def test_what_is_kept_is_checked_when_it_is_said(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^KNN: {message}$"):
        KNN(**setting)
