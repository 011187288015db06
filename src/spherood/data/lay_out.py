"""From downloaded files to folders that protocols and recipes find, one step of the catalogue after the other.

A step whose place is there already is not made again. Places come whole or not at all.
"""

from __future__ import annotations

import gzip
import os
import shutil
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from spherood.data.catalogue import Draw, Entry, FirstOfEach, Idx, Link, Put, Safetensors, Step, Unpack
from spherood.data.decode import SUFFIXES
from spherood.data.unpack import names, unpack
from spherood.errors import DataError, optional
from spherood.files import written_aside
from spherood.progress import progress


def lay_out(entry: Entry, data: Path, found: dict[str, Path]) -> list[str]:
    """Make every place of a set; found: its files by name. What was made, in words. DataError as the steps."""
    return [told for step in entry.steps if (told := _made(step, data, found))]


def _made(step: Step, data: Path, found: dict[str, Path]) -> str:
    into = data / step.into
    if into.exists():
        return ""
    into.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(step, Unpack):
        return f"{unpack(found[step.unpack], step.below, into):,} files in {into}"
    if isinstance(step, Put):
        with written_aside(into) as aside:
            shutil.copyfile(found[step.put], aside)
        return str(into)
    if isinstance(step, Link):
        into.unlink(missing_ok=True)  # a link to nothing
        into.symlink_to(os.path.relpath(data / step.link, into.parent), target_is_directory=True)
        return f"{into} (a link)"
    if isinstance(step, FirstOfEach):
        return first_of_each(found[step.of], step.first_of_each, into)
    if isinstance(step, Draw):
        return draw(found[step.of], step.draw, into)
    if isinstance(step, Idx):
        return idx_pictures(found[step.idx], found[step.labels], into)
    return safetensors(step, found[step.safetensors], into)


def first_of_each(mat: Path, most: int, into: Path) -> str:
    """CIDER's choice of SVHN: in the order of the file, an image is kept while its label has fewer than `most`."""
    io = optional("scipy.io", "svhn", "SVHN")
    content = io.loadmat(str(mat), variable_names=["X", "y"])
    label = content["y"][:, 0]
    rank = np.zeros(len(label), dtype=np.int64)
    for value in np.unique(label):
        rows = np.flatnonzero(label == value)
        rank[rows] = np.arange(len(rows))
    kept = np.flatnonzero(rank < most)
    with written_aside(into) as aside, aside.open("wb") as file:
        io.savemat(file, {"X": content["X"][..., kept], "y": content["y"][kept]})
    return f"{into} ({len(kept):,} of {len(label):,} images)"


def draw(archive: Path, count: int, into: Path, seed: int = 0) -> str:
    """So many images of an archive; the same ones whatever the order in which it holds them."""
    images = sorted(name for name in names(archive) if Path(name).suffix.lower() in SUFFIXES)
    if len(images) < count:
        raise DataError(f"{archive}: holds {len(images):,} images, expected {count:,} or more. Is it another archive?")
    chosen = {images[row] for row in np.random.default_rng(seed).permutation(len(images))[:count]}
    unpack(archive, "", into, keep=chosen.__contains__)
    return f"{into} ({count:,} of {len(images):,} images, drawn with seed {seed})"


def idx_pictures(images: Path, labels: Path, into: Path) -> str:
    """MNIST's two files as PNG files, LABEL/NUMBER.png."""
    pixels, label = read_idx(images, 3), read_idx(labels, 1)
    if len(pixels) != len(label):
        raise DataError(f"{images}: {len(pixels):,} images, and {len(label):,} labels in {labels}. Fetch both again.")
    names = [f"{number}/{row:05}.png" for row, number in enumerate(label.tolist())]
    return write_pictures(pixels, names, into)


def write_pictures(pixels: NDArray[np.uint8], names: list[str], into: Path) -> str:
    """PNG files of pixels (N, H, W) or (N, H, W, 3) below a folder, which comes whole or not at all."""
    aside = into.with_name(f".{into.name}.writing")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        with progress(f"writing {into}", len(names)) as advance:
            for row, name in enumerate(names):
                place = aside / name
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels[row]).save(place, compress_level=1)
                advance(1)
        into.parent.mkdir(parents=True, exist_ok=True)
        aside.replace(into)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return f"{len(names):,} images in {into}"


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """A file in MNIST's format: 0, 0, 8, the number of dimensions, their sizes, bytes. DataError for another."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path}: damaged ({error}). Remove it and fetch it again.") from None
    head = 4 + 4 * dimensions
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) < head:
        raise DataError(f"{path}: not in MNIST's format, of {dimensions} dimensions. Remove it and fetch it again.")
    shape = struct.unpack(f">{dimensions}I", content[4:head])
    if len(content) != head + int(np.prod(shape)):
        raise DataError(f"{path}: holds {len(content):,} bytes, {shape} needs {head + int(np.prod(shape)):,}.")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def safetensors(step: Safetensors, file: Path, into: Path) -> str:
    """Read without running code, kept without."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(file, map_location="cpu", weights_only=True)
    with written_aside(into) as aside:
        save_file({name: value.contiguous() for name, value in state.items()}, aside)
    return str(into)
