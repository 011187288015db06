"""Exact nearest neighbours against the bare product's topk, scikit-learn and faiss: 50,000 x 128 float32, by cosine.

    OMP_WAIT_POLICY=PASSIVE python benchmarks/neighbors.py

Prints one line for each k: milliseconds of each way for 2,048 queries, how many times as long as ours the bare product
and scikit-learn take, and ours as a multiple of faiss's time, with what is claimed of them. The plain way is
`(query @ bank.T).topk(k)` in tiles of 1,024 queries; scikit-learn's is NearestNeighbors(algorithm="brute") on the same
unit rows, whose order by distance is the order by cosine; faiss's is IndexFlatIP, built and searched. Times are the
median of 7, taken in turns, on all cores. Then the AUROC of the k-NN score on made-up classes, ours and from
scikit-learn's distances. Exit 1 where a claim is missed; the claims are for a CPU with tiles for bfloat16 (AMX):
without them the plain way is to take 1.25 times as long at k = 50, and no more is claimed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import sklearn
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from spherood.detectors import KNN
from spherood.metrics import auroc
from spherood.sphere import nearest, normalize

QUERIES, ROWS, DIM, REPEATS = 2048, 50_000, 128, 7
QUERY_TILE = 1024  # its product takes 205 MB; without tiles the plain way is slower still
KS = (1, 50, 300)
HAS_TILES = bool(getattr(torch.cpu, "get_capabilities", dict)().get("amx_bf16"))
CLAIM = {1: 2.0, 50: 2.0, 300: 1.8} if HAS_TILES else {50: 1.25}  # times as fast as the plain way
SCIKIT_LEARN_CLAIM = dict.fromkeys(KS, 2.0) if HAS_TILES else {}  # the same
FAISS_CLAIM = dict.fromkeys(KS, 1.3) if HAS_TILES else {}  # ours at most so many times faiss's time
AUROC_CLAIM = 1e-4  # the difference

Way = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


def plain(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    tiles = [(tile @ bank.T).topk(k, dim=1) for tile in query.split(QUERY_TILE)]
    return torch.cat([tile.values for tile in tiles]), torch.cat([tile.indices for tile in tiles])


def scikit_learn(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    distance, index = NearestNeighbors(algorithm="brute").fit(bank.numpy()).kneighbors(query.numpy(), k)
    return (1 - torch.from_numpy(distance).square() / 2).float(), torch.from_numpy(index)


def faiss_flat(query: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    index = importlib.import_module("faiss").IndexFlatIP(bank.shape[1])
    index.add(bank.numpy())
    cosine, rows = index.search(query.numpy(), k)
    return torch.from_numpy(cosine), torch.from_numpy(rows)


WAYS: dict[str, Way] = {"plain": plain, "scikit-learn": scikit_learn, "ours": nearest}
if importlib.util.find_spec("faiss"):
    WAYS["faiss"] = faiss_flat


def unit_rows(rows: int, seed: int) -> Tensor:
    return normalize(torch.randn(rows, DIM, generator=torch.Generator().manual_seed(seed)))


def milliseconds(query: Tensor, bank: Tensor, k: int) -> dict[str, float]:
    """Median of each way, taken in turns; AssertionError where their cosines differ."""
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(1 + REPEATS):
        results = []
        for name, way in WAYS.items():
            begin = time.perf_counter()
            results.append(way(query, bank, k)[0])
            times[name].append(1e3 * (time.perf_counter() - begin))
        for cosine in results[1:]:
            torch.testing.assert_close(cosine, results[0], rtol=0, atol=1e-5)
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}  # the first one warms up


def processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux; elsewhere platform knows less
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def verdict(what: str, ratio: float, claim: float | None, at_least: bool) -> tuple[str, bool]:
    """The ratio with its claim, and whether the claim is missed."""
    if claim is None:
        return f"   {what} {ratio:.3g}", False
    missed = ratio < claim if at_least else ratio > claim
    bound = "at least" if at_least else "at most"
    return f"   {what} {ratio:.3g} ({bound} {claim}: {'missed' if missed else 'holds'})", missed


def speed() -> bool:
    """Whether a claim is missed."""
    query, bank = unit_rows(QUERIES, 0), unit_rows(ROWS, 1)
    any_missed = False
    for k in KS:
        times = milliseconds(query, bank, k)
        ours = times["ours"]
        verdicts = [
            verdict("plain / ours", times["plain"] / ours, CLAIM.get(k), True),
            verdict("scikit-learn / ours", times["scikit-learn"] / ours, SCIKIT_LEARN_CLAIM.get(k), True),
        ]
        if "faiss" in times:
            verdicts.append(verdict("ours / faiss", ours / times["faiss"], FAISS_CLAIM.get(k), False))
        print(f"k = {k:3}:   " + ", ".join(f"{name} {taken:.0f} ms" for name, taken in times.items()))
        print("".join(text for text, _ in verdicts))
        any_missed |= any(missed for _, missed in verdicts)
    return any_missed


def clusters(rows: int, shift: float, seed: int) -> Tensor:
    """Ten classes of overlapping clouds; shifted, they are others."""
    mean = torch.randn(10, DIM, generator=torch.Generator().manual_seed(0)) + shift
    generator = torch.Generator().manual_seed(seed)
    own = mean[torch.randint(10, (rows,), generator=generator)]
    return own + torch.randn(rows, DIM, generator=generator)


def agreement() -> bool:
    """Whether the AUROC of ours and of scikit-learn's k-th distance differ."""
    bank, id_, ood = clusters(ROWS, 0, 1), clusters(QUERIES, 0, 2), clusters(QUERIES, 0.7, 3)
    label = torch.cat([torch.zeros(QUERIES), torch.ones(QUERIES)]).numpy()
    neighbours = NearestNeighbors(algorithm="brute").fit(normalize(bank).numpy())
    any_missed = False
    for k in KS:
        detector = KNN(k=k).fit(bank)
        ours = auroc(detector.score(id_).numpy(), detector.score(ood).numpy())
        distance, _ = neighbours.kneighbors(normalize(torch.cat([id_, ood])).numpy(), k)
        theirs = roc_auc_score(label, distance[:, -1])
        text, missed = verdict("difference", abs(ours - theirs), AUROC_CLAIM, False)
        print(f"k = {k:3}:   AUROC {ours:.6f}, from scikit-learn's distances {theirs:.6f}{text}")
        any_missed |= missed
    return any_missed


def main() -> int:
    print(f"{processor()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}")
    print(f"bfloat16 tiles (AMX): {'yes' if HAS_TILES else 'no'}")
    print(
        f"torch {torch.__version__} on {torch.get_num_threads()} threads, scikit-learn {sklearn.__version__}, ", end=""
    )
    print(
        f"faiss {importlib.import_module('faiss').__version__}"
        if "faiss" in WAYS
        else "no faiss: pip install faiss-cpu"
    )
    print(f"{QUERIES:,} queries, bank {ROWS:,} x {DIM} float32, median of {REPEATS}")
    slow, apart = speed(), agreement()
    return int(slow or apart)


if __name__ == "__main__":
    sys.exit(main())
