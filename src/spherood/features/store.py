"""Features on disk: every image goes through a model once; every score, every k and every sweep reads the result.

An entry is a folder named by a hash of the weights, the preprocess, the decoder's version and the content of the image
set, so a stale one cannot be served. It is filled under another name and renamed when whole; an interrupted one goes on
where it stopped. Several processes fill one entry, each its own rows. Inner layers are stored where they are asked for,
in an entry of their own that holds everything else as well: it serves who asks without them, never the reverse.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spherood.data.image_set import ImageSet
from spherood.data.loading import blocks
from spherood.data.preprocess import Preprocess
from spherood.errors import DataError
from spherood.files import write_json
from spherood.models import infer, weights_hash
from spherood.models.custom import source_of
from spherood.outputs import Outputs
from spherood.processes import Processes
from spherood.progress import Advance, progress

FORMAT = 3  # raised when the arithmetic from file to feature changes
BLOCK = 128  # images a forward pass: larger ones leave the CPU's caches and are slower there
FIT_ROWS = 16_384  # rows of a batch for `fit`
SAVE_EVERY = 16  # blocks between two notes of how far it is
PARTS = ("feature", "embedding", "logits")


@dataclass(frozen=True)
class Stored:
    """What a model says about the readable images of a set."""

    images: ImageSet  # the readable ones, in order
    outputs: Outputs  # rows as `images`; memory-mapped
    unreadable: Mapping[str, str]  # name -> reason
    maps: tuple[mmap.mmap, ...] = ()  # the files that `outputs` lies in

    def batches(self) -> Batches:
        """(Outputs, label (B,)) in order, as often as one likes: what a detector's `fit` reads."""
        return Batches(self)


@dataclass(frozen=True)
class Batches:
    """Rows of a stored set, some thousands at a time: those that were read leave memory, unless somebody keeps them."""

    stored: Stored

    @property
    def total(self) -> int:
        """How many there are altogether."""
        return len(self.stored.images)

    def __iter__(self) -> Iterator[tuple[Outputs, NDArray[np.int64]]]:
        for start in range(0, self.total, FIT_ROWS):
            stop = min(start + FIT_ROWS, self.total)
            yield self.stored.outputs.rows(start, stop), self.stored.images.label[start:stop]
            for file in self.stored.maps:  # who still needs a row reads it again; what was written into it is gone
                if hasattr(mmap, "MADV_DONTNEED"):
                    file.madvise(mmap.MADV_DONTNEED)


class FeatureStore:
    """``FeatureStore(folder).read(model, preprocess, images)``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes = Processes.join()

    def read(self, model: nn.Module, preprocess: Preprocess, images: ImageSet, *, layers: bool = False) -> Stored:
        """The stored features, computed now where they are not there yet; layers too, of a model that gives them.

        DataError where no image can be read.
        """
        entry = self.folder / _key(model, preprocess, images)
        layered = entry.with_name(f"{entry.name}-layers")
        layers = layers and _gives_layers(model, preprocess)
        self.processes.wait()  # so that all see the same
        if layers or (layered.exists() and not entry.exists()):
            entry = layered
        if not entry.exists():
            self._fill(entry, model, preprocess, images, layers=layers)
        inner = [f"layer{number}" for number in range(len(list(entry.glob("layer*.npy")))) if layers]
        arrays = {
            part: np.load(entry / f"{part}.npy", mmap_mode="c")
            for part in (*PARTS, *inner)
            if (entry / f"{part}.npy").exists()
        }
        unreadable: dict[str, str] = json.loads((entry / "unreadable.json").read_text(encoding="utf-8"))
        if len(unreadable) == len(images):
            raise DataError(f"{images.name}: none of {len(images)} images can be read. First: {unreadable['0']}")
        if unreadable:
            readable = np.setdiff1d(np.arange(len(images)), np.array([int(row) for row in unreadable]))
            arrays = {part: array[readable] for part, array in arrays.items()}
            names = {images.names[int(row)]: reason for row, reason in unreadable.items()}
            images, unreadable = images.subset(readable), names
        maps = tuple(array.base for array in arrays.values() if isinstance(array.base, mmap.mmap))
        tensors = {part: torch.from_numpy(array) for part, array in arrays.items()}
        among = tuple(tensors[part] for part in inner) or None
        outputs = Outputs(tensors["feature"], tensors.get("embedding"), tensors.get("logits"), among)
        return Stored(images, outputs, unreadable, maps)

    def _fill(self, entry: Path, model: nn.Module, preprocess: Preprocess, images: ImageSet, *, layers: bool) -> None:
        mine, part = self.processes, entry.with_name(f"{entry.name}.part")
        note = part / f"done-{mine.rank}-of-{mine.size}.json"
        if mine.first and not (note.exists() and len(list(part.glob("done-*.json"))) <= mine.size):
            shutil.rmtree(part, ignore_errors=True)  # of another number of processes, or with nothing done yet
            part.mkdir(parents=True)
        mine.wait()
        rows = mine.share(len(images), BLOCK)
        done, unreadable = rows.start, {}
        if note.exists():
            state = json.loads(note.read_text(encoding="utf-8"))
            done, unreadable = state["done"], state["unreadable"]
        arrays: dict[str, NDArray[Any]] = {}

        def save() -> None:
            for array in arrays.values():
                array.flush()  # type: ignore[attr-defined]
            write_json(note, {"done": done, "unreadable": unreadable})

        with self._progress(images.name, rows, done) as advance:
            for number, block in enumerate(blocks(images, preprocess, BLOCK, done, rows.stop), start=1):
                outputs = infer(model, torch.from_numpy(block.pixels), preprocess, layers=layers)
                for name, value in _parts(outputs).items():
                    if name not in arrays:
                        arrays[name] = _array(part / f"{name}.npy", (len(images), value.shape[1]))
                    arrays[name][block.start : block.start + len(value)] = value.numpy()
                unreadable |= {str(row): reason for row, reason in block.unreadable.items()}
                done = block.start + len(block.pixels)
                if number % SAVE_EVERY == 0:
                    save()
                advance(len(block.pixels))
        save()
        mine.wait()
        if mine.first:
            _finish(part, entry)
        mine.wait()

    def _progress(self, name: str, rows: range, done: int) -> AbstractContextManager[Advance]:
        if not self.processes.first:
            return nullcontext(lambda n, note="": None)
        sharing = f", 1 of {self.processes.size} processes" if self.processes.size > 1 else ""
        return progress(f"features of {name}{sharing}", len(rows), done=done - rows.start)


def _parts(outputs: Outputs) -> dict[str, Tensor]:
    """File name -> what it holds of these images; what a model lacks has no file."""
    whole = {name: value for name in PARTS if (value := getattr(outputs, name)) is not None}
    return whole | {f"layer{number}": layer for number, layer in enumerate(outputs.layers or ())}


def _gives_layers(model: nn.Module, preprocess: Preprocess) -> bool:
    """Asked with one black image: another pass over all images would be in vain where it gives none."""
    black = torch.zeros(1, preprocess.size, preprocess.size, 3, dtype=torch.uint8)
    return infer(model, black, preprocess, layers=True).layers is not None


def _finish(part: Path, entry: Path) -> None:
    """Every row is there: one list of what could not be read, then the entry's own name."""
    notes = list(part.glob("done-*.json"))
    unreadable: dict[str, str] = {}
    for note in notes:
        unreadable |= json.loads(note.read_text(encoding="utf-8"))["unreadable"]
    write_json(part / "unreadable.json", dict(sorted(unreadable.items(), key=lambda pair: int(pair[0]))))
    for note in notes:
        note.unlink()
    try:
        part.replace(entry)
    except OSError:
        if not entry.exists():  # else another process was first, with the same numbers
            raise
        shutil.rmtree(part, ignore_errors=True)


def _array(path: Path, shape: tuple[int, int]) -> NDArray[Any]:
    """The file of one part, made by whoever comes first."""
    if not path.exists():
        own = path.with_name(f"{path.name}.{os.getpid()}")
        np.lib.format.open_memmap(own, mode="w+", dtype=np.float32, shape=shape)
        with suppress(FileExistsError):
            os.link(own, path)
        own.unlink()
    return np.lib.format.open_memmap(path, mode="r+")


def _key(model: nn.Module, preprocess: Preprocess, images: ImageSet) -> str:
    drawn = hashlib.sha256(f"{model}{source_of(model)}".encode()).hexdigest()  # strides and paddings have no weights
    parts = [FORMAT, weights_hash(model), drawn, preprocess.model_dump_json(), PIL.__version__, images.fingerprint()]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]
