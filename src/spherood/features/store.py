"""Features on disk: every image goes through a model once; every score, every k and every sweep reads the result.

An entry is a folder named by a hash of the weights, the preprocess, the decoder's version and the content of the image
set, so a stale one cannot be served. It is filled under another name and renamed when whole; an interrupted one goes on
where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from torch import nn

from spherood.data.image_set import ImageSet
from spherood.data.loading import blocks
from spherood.data.preprocess import Preprocess
from spherood.errors import DataError
from spherood.files import write_json
from spherood.models import infer, weights_hash
from spherood.outputs import Outputs
from spherood.progress import progress

FORMAT = 1  # raised when the arithmetic from file to feature changes
BLOCK = 128  # images a forward pass: larger ones leave the CPU's caches and are slower there
SAVE_EVERY = 16  # blocks between two notes of how far it is
PARTS = ("feature", "embedding", "logits")


@dataclass(frozen=True)
class Stored:
    """What a model says about the readable images of a set."""

    images: ImageSet  # the readable ones, in order
    outputs: Outputs  # rows as `images`; memory-mapped
    unreadable: Mapping[str, str]  # name -> reason


class FeatureStore:
    """``FeatureStore(folder).read(model, preprocess, images)``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, model: nn.Module, preprocess: Preprocess, images: ImageSet) -> Stored:
        """The stored features, computed now where they are not there yet. DataError where no image can be read."""
        entry = self.folder / _key(model, preprocess, images)
        if not entry.exists():
            self._fill(entry, model, preprocess, images)
        arrays = {
            part: np.load(entry / f"{part}.npy", mmap_mode="c") for part in PARTS if (entry / f"{part}.npy").exists()
        }
        unreadable: dict[str, str] = json.loads((entry / "unreadable.json").read_text(encoding="utf-8"))
        if len(unreadable) == len(images):
            raise DataError(f"{images.name}: none of {len(images)} images can be read. First: {unreadable['0']}")
        if unreadable:
            readable = np.setdiff1d(np.arange(len(images)), np.array([int(row) for row in unreadable]))
            arrays = {part: array[readable] for part, array in arrays.items()}
            names = {images.names[int(row)]: reason for row, reason in unreadable.items()}
            images, unreadable = images.subset(readable), names
        tensors = {part: torch.from_numpy(array) for part, array in arrays.items()}
        outputs = Outputs(tensors["feature"], tensors.get("embedding"), tensors.get("logits"))
        return Stored(images, outputs, unreadable)

    def _fill(self, entry: Path, model: nn.Module, preprocess: Preprocess, images: ImageSet) -> None:
        part = entry.with_name(f"{entry.name}.part")
        note = part / "done.json"
        done, unreadable = 0, {}
        if note.exists():
            state = json.loads(note.read_text(encoding="utf-8"))
            done, unreadable = state["done"], state["unreadable"]
        else:
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir(parents=True)
        arrays: dict[str, NDArray[Any]] = {}

        def save() -> None:
            for array in arrays.values():
                array.flush()  # type: ignore[attr-defined]
            write_json(note, {"done": done, "unreadable": unreadable})

        with progress(f"features of {images.name}", len(images), done=done) as advance:
            for number, block in enumerate(blocks(images, preprocess, BLOCK, start=done), start=1):
                outputs = infer(model, torch.from_numpy(block.pixels), preprocess)
                for name in PARTS:
                    value = getattr(outputs, name)
                    if value is None:
                        continue
                    if name not in arrays:
                        arrays[name] = _array(part / f"{name}.npy", (len(images), value.shape[1]))
                    arrays[name][block.start : block.start + len(value)] = value.numpy()
                unreadable |= {str(row): reason for row, reason in block.unreadable.items()}
                done = block.start + len(block.pixels)
                if number % SAVE_EVERY == 0:
                    save()
                advance(len(block.pixels))
        save()
        write_json(part / "unreadable.json", unreadable)
        note.unlink(missing_ok=True)
        try:
            part.replace(entry)
        except OSError:
            if not entry.exists():  # else another process was first, with the same numbers
                raise
            shutil.rmtree(part, ignore_errors=True)


def _array(path: Path, shape: tuple[int, int]) -> NDArray[Any]:
    if path.exists():
        return np.lib.format.open_memmap(path, mode="r+")
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)


def _key(model: nn.Module, preprocess: Preprocess, images: ImageSet) -> str:
    parts = [FORMAT, weights_hash(model), preprocess.model_dump_json(), PIL.__version__, images.fingerprint()]
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]
