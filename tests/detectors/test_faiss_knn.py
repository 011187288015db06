from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from spherood.bundle import Bundle
from spherood.detectors import KNN, FaissKNN
from spherood.detectors.knn import Draw
from spherood.errors import ConfigError, FitError, MissingExtraError, NotFittedError

faiss = pytest.importorskip("faiss", reason="faiss is not installed: pip install 'spherood[faiss]'")
LISTS = 8


def drawn(rows: int, seed: int = 0, dim: int = 8) -> Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))


def scored(index: str, probes: int = LISTS, k: int = 5) -> Tensor:
    return FaissKNN(k=k, index=index, probes=probes).fit(drawn(400)).score(drawn(50, 1))


def test_a_flat_index_of_two_rows_gives_the_distances_worked_out_by_hand() -> None:
    x, y, z = torch.eye(3)
    bank, query = torch.stack([2 * x, 3 * y]), torch.stack([z, -5 * x, x])
    for k, expected in [(1, [2.0, 2.0, 0.0]), (2, [2.0, 4.0, 2.0])]:
        score = FaissKNN(k=k, index="Flat").fit(bank).score(query)
        torch.testing.assert_close(score, torch.tensor(expected))


@pytest.mark.parametrize("index", ["Flat", f"IVF{LISTS},Flat"])
def test_a_look_into_everything_is_the_exact_score(index: str) -> None:
    exact = KNN(k=5).fit(drawn(400)).score(drawn(50, 1))
    torch.testing.assert_close(scored(index), exact, rtol=0, atol=1e-5)


def test_the_scores_of_a_real_network_are_those_of_k_nn(resnet20: Any) -> None:
    exact = KNN(k=10).fit(resnet20.train).score(resnet20.query)
    flat = FaissKNN(k=10, index="Flat").fit(resnet20.train).score(resnet20.query)
    torch.testing.assert_close(flat, exact, rtol=0, atol=1e-5)


def test_fewer_probes_miss_neighbours_and_never_find_nearer_ones() -> None:
    scores = torch.stack([scored(f"IVF{LISTS},Flat", probes) for probes in range(1, LISTS + 1)])
    assert bool((scores.diff(dim=0) <= 1e-6).all())
    assert [bool((a > b + 1e-3).any()) for a, b in pairwise(scores)].count(True) > 1


def test_rows_rounded_to_eight_bits_give_nearly_the_exact_score() -> None:
    error = (scored("SQ8") - scored("Flat")).abs().max()
    assert 1e-5 < float(error) < 0.05


def test_a_feature_whose_lists_hold_fewer_than_k_rows_scores_4() -> None:
    bank = torch.cat([drawn(90, 0, 2) * 0.1 + torch.tensor([1.0, 0.0]), drawn(10, 1, 2) * 0.1 - torch.tensor([1.0, 0])])
    judge = FaissKNN(k=20, index="IVF2,Flat", probes=1).fit(bank)
    score = judge.score(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    assert float(score[0]) < 0.1
    assert float(score[1]) == 4


@pytest.mark.parametrize("index", ["Flat", "SQ8"])
def test_a_score_lies_between_0_and_4(index: str) -> None:
    bank = drawn(400)
    near, far = (FaissKNN(k=1, index=index).fit(bank[:1]).score(sign * 3 * bank[:1]) for sign in (1, -1))
    assert 0 <= float(near) < 1e-2
    assert 4 - 1e-2 < float(far) <= 4
    of_themselves = FaissKNN(k=1, index=index).fit(bank).score(bank)  # products of some exceed 1
    assert float(of_themselves.min()) >= 0


def test_any_batching_and_a_second_fit_give_the_same_index() -> None:
    x = drawn(400)
    judge = FaissKNN(k=5, index=f"IVF{LISTS},SQ8").fit(x)
    again = FaissKNN(k=5, index=f"IVF{LISTS},SQ8").fit(drawn(320, 3, 5))
    assert torch.equal(again.fit([(part, None) for part in x.split([1, 99, 300])]).stored, judge.stored)


def test_the_rows_that_train_the_index_are_drawn_from_all_and_all_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spherood.detectors.faiss_knn.TRAINED_ON", 50)
    monkeypatch.setattr("spherood.detectors.faiss_knn.USUAL", 0)
    x = drawn(400)
    judge = FaissKNN(k=5, index="SQ8").fit(x)  # keeps the least and the largest value of what it was trained on
    draw = Draw(50, seed=0)
    draw.add(torch.nn.functional.normalize(x), torch.zeros(400, dtype=torch.int64))
    assert draw.number[-1] > 300
    by_hand = faiss.index_factory(8, "SQ8", faiss.METRIC_INNER_PRODUCT)
    by_hand.train(draw.rows().numpy())
    index = faiss.deserialize_index(judge.stored.numpy())
    np.testing.assert_array_equal(faiss.vector_to_array(index.sq.trained), faiss.vector_to_array(by_hand.sq.trained))
    assert index.ntotal == 400


def test_more_lists_are_trained_on_more_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spherood.detectors.faiss_knn.TRAINED_ON", 1)
    x = drawn(400)
    few = FaissKNN(k=5, index="IVF2,Flat").fit(x)  # on 128
    monkeypatch.setattr("spherood.detectors.faiss_knn.TRAINED_ON", 128)
    assert torch.equal(FaissKNN(k=5, index="IVF2,Flat").fit(x).stored, few.stored)
    monkeypatch.setattr("spherood.detectors.faiss_knn.TRAINED_ON", 400)
    assert not torch.equal(FaissKNN(k=5, index="IVF2,Flat").fit(x).stored, few.stored)


def test_the_index_travels_as_bytes_and_is_searched_as_the_new_instance_says(tmp_path: Path) -> None:
    judge, query = FaissKNN(k=5, index=f"IVF{LISTS},Flat", probes=LISTS).fit(drawn(400)), drawn(50, 1)
    assert {name: value.dtype for name, value in judge.state_dict().items()} == {"stored": torch.uint8}
    save_file(judge.state_dict(), tmp_path / "judge.safetensors")
    for probes in (LISTS, 1):
        fresh = FaissKNN(k=5, index=f"IVF{LISTS},Flat", probes=probes)
        assert fresh.width == 0
        fresh.load_state_dict(load_file(tmp_path / "judge.safetensors"))
        assert torch.equal(fresh.score(query), scored(f"IVF{LISTS},Flat", probes))
        assert fresh.width == 8
    assert torch.equal(copy.deepcopy(judge).score(query), judge.score(query))


def test_what_is_loaded_over_an_opened_index_is_searched() -> None:
    judge, other, query = FaissKNN(k=5, index="Flat").fit(drawn(400)), KNN(k=5).fit(drawn(300, 2)), drawn(50, 1)
    judge.score(query)
    judge.load_state_dict(FaissKNN(k=5, index="Flat").fit(drawn(300, 2)).state_dict())
    torch.testing.assert_close(judge.score(query), other.score(query), rtol=0, atol=1e-5)


def test_a_bundle_keeps_the_index(tmp_path: Path) -> None:
    bundle = Bundle.fit(drawn(400).numpy(), score='faiss_knn:k=5:index="IVF2,Flat":probes=1')
    bundle.save(tmp_path)
    assert Bundle.load(tmp_path).predict(drawn(20, 1).numpy()) == bundle.predict(drawn(20, 1).numpy())
    assert bundle.predict(drawn(1, 1).numpy())[0].neighbours == ()


def test_too_few_rows_for_the_lists_are_told_with_the_number_that_works() -> None:
    message = (
        r"^FaissKNN\.fit: IVF1024,Flat asks for 39,936 rows, 39 for each list, got 90\. "
        r"Use at most 2 lists, or index='Flat'\.$"
    )
    with pytest.raises(FitError, match=message):
        FaissKNN(k=5).fit(drawn(90))
    assert FaissKNN(k=5, index="PCA4,IVF2,Flat").fit(drawn(78)).score(drawn(3)).shape == (3,)
    with pytest.raises(FitError, match="asks for 78 rows, 39 for each list, got 77"):
        FaissKNN(k=5, index="PCA4,IVF2,Flat").fit(drawn(77))


def test_k_beyond_the_bank_is_told_with_the_largest_that_works() -> None:
    with pytest.raises(FitError, match=r"^FaissKNN: k=41 is larger than the bank of 40 features\. Use k <= 40\.$"):
        FaissKNN(k=41, index="Flat").fit(drawn(40))
    assert FaissKNN(k=40, index="Flat").fit(drawn(40)).score(drawn(2)).shape == (2,)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("IFV3", r"index='IFV3' for 8 columns: could not parse index string IFV3\. Use another index, or 'Flat'\.$"),
        ("PQ3", r"index='PQ3' for 8 columns: .*should be a multiple of the number of subquantizers"),
        ("PQ4", r"index='PQ4' for 100 rows: .*Number of training points \(100\) should be at least"),
    ],
)
def test_what_faiss_refuses_is_told_with_its_reason(index: str, message: str) -> None:
    with pytest.raises(FitError, match=f"^FaissKNN.fit: faiss cannot make {message}"):
        FaissKNN(k=5, index=index).fit(drawn(100))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"k": 0}, r"k must be a whole number of at least 1, got 0\. Try 50\."),
        ({"k": 2.5}, r"k must be a whole number of at least 1, got 2\.5\. Try 50\."),
        ({"probes": 0}, r"probes must be a whole number of at least 1, got 0\. Try 16\."),
        ({"probes": "all"}, r"probes must be a whole number of at least 1, got all\. Try 16\."),
        ({"index": 1024}, r"index must be text for faiss's index factory, got 1024\. Try 'Flat'\."),
    ],
)
def test_settings_are_checked_when_given(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^FaissKNN: {message}$"):
        FaissKNN(**setting)


def test_a_generator_is_refused_and_an_unfitted_one_says_what_to_call() -> None:
    def batches() -> Iterator[tuple[Tensor, None]]:
        yield drawn(90), None

    with pytest.raises(FitError, match=r"^FaissKNN\.fit: reads the batches twice, and a generator gives them once"):
        FaissKNN(k=5, index="Flat").fit(batches())
    with pytest.raises(NotFittedError, match=r"^FaissKNN: not fitted\. Call fit\(feature, label\) first\.$"):
        FaissKNN(k=5, index="Flat").score(drawn(3))


def test_without_faiss_the_class_is_there_and_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    message = r"^FaissKNN: needs faiss, which is not installed\. Install it with: pip install 'spherood\[faiss\]'$"
    with pytest.raises(MissingExtraError, match=message):
        FaissKNN()


def test_torch_and_faiss_work_in_turns_with_several_threads_each() -> None:
    """Each brings an OpenMP of its own."""
    code = """if True:
        import torch
        from spherood.detectors import KNN, FaissKNN
        x = torch.randn(1000, 64)
        exact, index = KNN(k=5).fit(x), FaissKNN(k=5, index="IVF8,Flat", probes=8).fit(x)
        for _ in range(3):
            assert (exact.score(x[:500]) - index.score(x[:500])).abs().max() < 1e-5
        print(torch.get_num_threads())
    """
    environment = {"OMP_NUM_THREADS": "2", "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
