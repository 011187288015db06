"""k-th nearest neighbour from a faiss index: for banks with too many rows to keep as they are, or to search one by one.

    s(u) = 2 - 2 u . u_(k)          higher = more OOD; clamped to [0, 4]

u: unit feature; u_(k): the k-th nearest that the index finds, by its own product. Approximate as the index is: an IVF
looks into `probes` of its lists and misses what lies in others, PQ and SQ round the rows. "Flat" is exact but for the
digits that 2 - 2 cos loses, which KNN keeps. A feature whose lists hold fewer than k rows scores 4: use more probes.
Points of AUROC lost against KNN, ResNet-20 on CIFAR-10, 50,000 rows of 64, mean of five OOD sets, k = 10 and 50, with
16 probes: IVF1024,Flat 0.06 and 0.09, IVF1024,SQ8 0.07 and 0.09 in 0.30 of the memory, IVF1024,PQ16 0.23 and 0.17 in
0.12 of it, each in 0.1 of the time. With k = 50 and one probe, IVF1024,Flat lost 20: its lists hold 49 rows on average.
index: any string of faiss's index factory: "Flat", "IVF1024,Flat", "IVF1024,PQ16", "IVF1024,SQ8". In one string it
stands in quotes: faiss_knn:index="IVF1024,PQ16":probes=32. An IVF asks for 39 training rows a list, as faiss does.
Shapes: B batch, N bank, D dimension, M bytes of the index. Fit: two passes, the first for the rows that train the
index, so `x` must be re-iterable. Memory: twice the index, as bytes and opened. Labels are not needed.
Source: Sun et al., ICML 2022, arXiv:2204.06507, for the score; Douze et al., arXiv:2401.08281, for the index.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from types import ModuleType
from typing import Any, Self

import torch
from numpy.typing import NDArray
from torch import Tensor

from spherood.detectors.detector import Array, Classifier, Detector, Features
from spherood.detectors.knn import Draw
from spherood.detectors.two_passes import refuse_generator
from spherood.errors import ConfigError, FitError, optional
from spherood.sphere import normalize

TRAINED_ON = 65_536  # rows at most, drawn from all; more where there are more than 1,024 lists
LEAST, USUAL = 39, 64  # training rows for each list of an IVF


class FaissKNN(Detector):
    """``FaissKNN(k=50, index="IVF1024,Flat", probes=16).fit(feature).score(feature)``."""

    laws = ("scale",)  # which rows train the index depends on their order, and the codes of PQ and SQ on the axes
    stored: Tensor  # (M,), the index as faiss serialises it, uint8

    def __init__(self, *, k: int = 50, index: str = "IVF1024,Flat", probes: int = 16) -> None:
        super().__init__()
        if not isinstance(k, Integral) or k < 1:
            raise ConfigError(f"FaissKNN: k must be a whole number of at least 1, got {k}. Try 50.")
        if not isinstance(index, str):
            raise ConfigError(f"FaissKNN: index must be text for faiss's index factory, got {index}. Try 'Flat'.")
        if not isinstance(probes, Integral) or probes < 1:
            raise ConfigError(f"FaissKNN: probes must be a whole number of at least 1, got {probes}. Try 16.")
        _faiss()  # absent: told before any work
        self.k: int = k
        self.index: str = index
        self.probes: int = probes
        self._opened: tuple[Tensor | None, Any] = (None, None)  # the bytes, and the index they hold
        self.declare("stored")

    @torch.no_grad()
    def fit(self, x: Features, label: Array | None = None, classifier: Classifier = None) -> Self:
        """Train the index on some of feature (N, D), add all of them. FitError for too few, or as faiss says."""
        refuse_generator(self, x)
        index = self._trained(x, label)
        for rows, _ in self.batches(x, label):
            index.add(_unit(rows))
        self.stored = torch.from_numpy(_faiss().serialize_index(index))
        return self

    def _trained(self, x: Features, label: Array | None) -> Any:
        index: Any = None
        draw = Draw(TRAINED_ON, seed=0)
        for rows, _ in self.batches(x, label):
            if index is None:
                with _told(f"index='{self.index}' for {rows.shape[1]} columns"):
                    index = _faiss().index_factory(rows.shape[1], self.index, _faiss().METRIC_INNER_PRODUCT)
                draw.per_class = max(TRAINED_ON, USUAL * _lists(index))
            draw.add(rows, torch.zeros(len(rows), dtype=torch.int64))
        if draw.seen < self.k:
            raise FitError(
                f"FaissKNN: k={self.k} is larger than the bank of {draw.seen} features. Use k <= {draw.seen}."
            )
        if LEAST * _lists(index) > draw.seen:
            raise FitError(
                f"FaissKNN.fit: {self.index} asks for {LEAST * _lists(index):,} rows, {LEAST} for each list, got "
                f"{draw.seen:,}. Use at most {draw.seen // LEAST} lists, or index='Flat'."
            )
        with _told(f"index='{self.index}' for {draw.seen:,} rows"):
            index.train(_unit(draw.rows()))
        return index

    def forward(self, x: Tensor) -> Tensor:
        """Feature (B, D) to squared distance (B,), float32."""
        cosine, _ = self._open().search(_unit(x), self.k)  # (B, k), falling; the lowest float32 where a row is missing
        return (2 - 2 * torch.from_numpy(cosine[:, -1])).clamp(0, 4).to(x.device)

    @property
    def no_graph(self) -> str:
        """The index is faiss's own."""
        return "its search runs in faiss, which no runtime of graphs has"

    def _open(self) -> Any:
        """The index; opened anew after a fit, a load or a move."""
        if self._opened[0] is not self.stored:
            index = _faiss().deserialize_index(self.stored.cpu().numpy())
            lists = _faiss().try_extract_index_ivf(index)
            if lists is not None:
                lists.nprobe = self.probes
            self._opened = self.stored, index
        return self._opened[1]

    @property
    def width(self) -> int:
        """Columns of the rows in the index."""
        return int(self._open().d) if len(self.stored) else 0


def _faiss() -> ModuleType:
    return optional("faiss", "faiss", "FaissKNN")


def _unit(rows: Tensor) -> NDArray[Any]:
    array: NDArray[Any] = normalize(rows).float().cpu().contiguous().numpy()
    return array


def _lists(index: Any) -> int:
    """Lists of an IVF, also of one behind a rotation; 0 of any other index."""
    found = _faiss().try_extract_index_ivf(index)
    return 0 if found is None else int(found.nlist)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """FitError with faiss's reason, without its place in faiss's source."""
    try:
        yield
    except RuntimeError as error:
        reason = re.sub(r"^Error in .*? at \S+:\d+: ", "", str(error), flags=re.DOTALL)
        raise FitError(f"FaissKNN.fit: faiss cannot make {what}: {reason}. Use another index, or 'Flat'.") from None
