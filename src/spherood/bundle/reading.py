"""From a path to Rows: a folder of images or an image list through an encoder, or a file of features."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spherood.bundle.encoder import Encoder
from spherood.bundle.rows import Rows
from spherood.data.feature_file import is_feature_file, read_features
from spherood.data.folders import read_folder
from spherood.data.groups import read_groups
from spherood.data.image_set import ImageSet
from spherood.data.lists import read_list
from spherood.errors import ConfigError, DataError
from spherood.features import FeatureStore

LISTS = frozenset({".txt", ".lst"})
SHOWN = 5  # unreadable images that are named


def check_there(path: Path) -> None:
    """DataError where nothing is at `path`."""
    if not path.exists():
        raise DataError(f"{path}: no such file or folder. Check the path.")


def check(path: Path, encoder: Encoder | None) -> None:
    """ConfigError or DataError where `path` is absent or does not go with the encoder, or its lack; before any work."""
    check_there(path)
    if encoder is None:
        if not is_feature_file(path):
            raise ConfigError(
                f"{path}: images need an encoder. Name one: --encoder RUN, FILE or package.module:function."
            )
    elif encoder.preprocess is None:
        if not is_feature_file(path):
            raise ConfigError(f"{path}: {encoder.name} is a head on features, and needs a file of them.")
    elif is_feature_file(path):
        raise ConfigError(f"{path}: features need no encoder. Leave --encoder out, or name a folder of images.")


@dataclass(frozen=True)
class Reader:
    """``Reader(encoder, store).read(path, "known")``; no encoder, or a head alone: features."""

    encoder: Encoder | None
    store: FeatureStore
    root: Path = Path()  # where the paths of an image list start from
    layers: bool = False  # inner layers too

    def read(
        self, path: Path, name: str, *, labels: Path | None = None, group_by: str | None = None
    ) -> tuple[Rows, NDArray[np.int64] | None]:
        """The rows, and the group of each where it was asked for.

        labels: a .npy beside features. group_by: a column of the feature file; for images FILE.csv:COLUMN.
        """
        check(path, self.encoder)
        if self.encoder is None or self.encoder.preprocess is None:
            found = read_features(path, labels=labels, group_by=group_by)
            rows = Rows.of_features(found)
            return rows if self.encoder is None else rows.through(self.encoder.model), found.group
        if labels is not None:
            raise ConfigError(f"{labels}: labels of images are their folders. --labels goes with features.")
        images = self._images(path, name)
        group = None if group_by is None else _groups(group_by, images)
        stored = self.store.read(self.encoder.model, self.encoder.images, images, layers=self.layers)
        for image, why in list(stored.unreadable.items())[:SHOWN]:
            print(f"skipped: {image}: {why}", file=sys.stderr)
        if stored.unreadable:
            print(f"{name}: skipped {len(stored.unreadable)} unreadable images.", file=sys.stderr)
        if group is not None:
            group = group[[image not in stored.unreadable for image in images.names]]
        return Rows.of_images(stored), group

    def _images(self, path: Path, name: str) -> ImageSet:
        if path.suffix.lower() in LISTS:
            return read_list(path, self.root, name)
        return read_folder(path, name)


def _groups(group_by: str, images: ImageSet) -> NDArray[np.int64]:
    """The group of every image, (N,); ConfigError for a text without a column."""
    file, colon, column = group_by.rpartition(":")
    if not colon:
        raise ConfigError(f"--group-by {group_by}: for images write FILE.csv:COLUMN; its column image names them.")
    return read_groups(Path(file), column, images)
