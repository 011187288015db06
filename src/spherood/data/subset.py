"""A folder with some classes of a large one, by links: ImageNet-100, or ImageNet-200 by the classes of ImageNet-R.

The classes come from a list (a line each, or the names in another folder), or are drawn with a seed. Labels are the
ranks of the sorted names, as `read_folder` and OpenOOD number them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spherood.errors import ConfigError, DataError, nearest

SYNSET = re.compile(r"n\d{8}")


def classes_of(source: Path) -> list[str]:
    """Class names of a file with one a line (the first word, or the synset in it), or of the folders in a folder."""
    if source.is_dir():
        return sorted(folder.name for folder in source.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    if not source.is_file():
        raise DataError(f"{source}: no such list or folder of classes. Check the path.")
    lines = [line.split("#")[0].strip() for line in source.read_text(encoding="utf-8").splitlines()]
    return [found[0] if (found := SYNSET.findall(line)) else line.split()[0] for line in lines if line]


def draw_classes(folder: Path, count: int, seed: int) -> list[str]:
    """So many of a folder's classes, the same ones for the same seed; ConfigError where it has fewer."""
    known = classes_of(folder)
    if not 0 < count <= len(known):
        raise ConfigError(f"{folder}: has {len(known):,} classes, asked for {count:,}.")
    return sorted(known[row] for row in np.random.default_rng(seed).permutation(len(known))[:count])


def link_classes(folder: Path, classes: Sequence[str], into: Path) -> int:
    """Links into a folder, whole or not at all; how many classes. DataError for one that is not there."""
    known = set(classes_of(folder))
    for name in classes:
        if name not in known:
            raise DataError(
                f"{folder}: there is no class '{name}'. {nearest(name, known) if len(known) < 2000 else ''}"
            )
    if into.exists():
        raise DataError(f"{into}: is there already. Choose another place, or remove it.")
    aside = into.with_name(f".{into.name}.linking")
    aside.mkdir(parents=True)
    for name in sorted(set(classes)):
        (aside / name).symlink_to((folder / name).resolve(), target_is_directory=True)
    aside.replace(into)
    return len(set(classes))
