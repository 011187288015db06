"""How a recipe or a protocol says where images come from."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from spherood.data.arrays import read_arrays
from spherood.data.cifar import Split, cifar_present, read_cifar
from spherood.data.folders import read_folder
from spherood.data.image_set import ImageSet, Part
from spherood.data.lists import any_on_disk, read_list
from spherood.data.samples import read_sample
from spherood.data.svhn import read_svhn
from spherood.data.tables import read_table
from spherood.errors import DataError
from spherood.schema import Strict

PLACES = ("folder", "list", "table", "arrays", "cifar", "svhn", "sample", "one_of", "features")


class Source(Strict):
    """One of several places, with relative paths against the data root; then, optionally, a choice of its images.

    folder: images, one folder per class. list: an image list, its paths against `root`, or against the first of several
    roots that holds one of them. table: CSV or Parquet with a column of paths, against `root` (data/tables.py). arrays:
    a .npy of images, with `labels`. cifar: an unpacked archive, or the folder around it, with its `split`. svhn: a .mat
    file. sample: digits, photographs or noise. one_of: places of the same images, of which the first that is there is
    read. features: no images, but a file of features (data/feature_file.py) with `labels` where it has none of its own;
    they train a head.

    The choice, in this order: some `classes`; the first `per_class` images of each; the train / validation / test
    `part` (60 / 20 / 20 %); a seeded `draw` of so many where there are more. `count` is the number that must be left.
    """

    folder: str | None = None
    list_: str | None = Field(default=None, alias="list")
    root: str | Annotated[tuple[str, ...], Field(min_length=1)] = "."
    table: str | None = None
    arrays: str | None = None
    labels: str | None = None
    sample: str | None = None
    cifar: str | None = None
    split: Split | None = None
    svhn: str | None = None
    one_of: Annotated[tuple[Source, ...], Field(min_length=1)] | None = None
    features: str | None = None
    classes: tuple[str, ...] | None = None
    per_class: int | None = Field(default=None, ge=1)
    part: Part | None = None
    draw: int | None = Field(default=None, ge=1)
    count: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        places = (self.folder, self.list_, self.table, self.arrays, self.cifar, self.svhn, self.sample, self.one_of)
        if sum(place is not None for place in (*places, self.features)) != 1:
            raise ValueError(f"give exactly one of {', '.join(PLACES)}.")
        if self.cifar is not None and self.split is None:
            raise ValueError("cifar needs its split: train or test.")
        if self.cifar is None and self.split is not None:
            raise ValueError("split goes with cifar only. Leave it out, or use part.")
        choice = (self.classes, self.per_class, self.part, self.draw, self.count)
        if self.features is not None and any(one is not None for one in choice):
            raise ValueError("features are taken as they are. Choose rows before you save them.")
        return self

    def where(self, data: Path) -> Path | None:
        """The file or folder it needs, of `one_of` the one that is read; None for a sample."""
        if self.one_of is not None:
            return next((place for place in self.one_of if place.present(data)), self.one_of[0]).where(data)
        files = (self.list_, self.table, self.arrays, self.cifar, self.svhn, self.features)
        place = self.folder or next((file for file in files if file is not None), None)
        return data / place if place else None

    def present(self, data: Path) -> bool:
        """Whether its images are on disk: of a list at least one (a list of which some are missing is an error)."""
        if self.one_of is not None:
            return any(place.present(data) for place in self.one_of)
        if self.cifar is not None:
            return cifar_present(data / self.cifar)
        place = self.where(data)
        if place is None or not place.exists():
            return place is None
        return self.list_ is None or any(any_on_disk(place, root) for root in self._roots(data))

    def load(self, data: Path, name: str | None = None) -> ImageSet:
        """The images; DataError where they are absent, fewer than `per_class`, or more or fewer than `count`."""
        images = self._read(data, name)
        if self.classes is not None:
            images = images.keep_classes(self.classes)
        if self.per_class is not None:
            images = images.first_of_each_class(self.per_class)
        if self.part is not None:
            images = images.part(self.part)
        if self.draw is not None:
            images = images.draw(self.draw)
        if self.count is not None and len(images) != self.count:
            raise DataError(
                f"{self.where(data) or images.name}: holds {len(images):,} images, expected {self.count:,}."
            )
        return images

    def _read(self, data: Path, name: str | None) -> ImageSet:
        if self.folder is not None:
            return read_folder(data / self.folder, name)
        if self.list_ is not None:
            path, roots = data / self.list_, self._roots(data)
            if len(roots) > 1:
                roots = [root for root in roots if any_on_disk(path, root)] or roots
            return read_list(path, roots[0], name)
        if self.table is not None:
            roots = self._roots(data)
            return read_table(data / self.table, next((root for root in roots if root.is_dir()), roots[0]), name)
        if self.arrays is not None:
            return read_arrays(data / self.arrays, data / self.labels if self.labels else None, name)
        if self.cifar is not None and self.split is not None:
            return read_cifar(data / self.cifar, self.split, name)
        if self.svhn is not None:
            return read_svhn(data / self.svhn, name)
        if self.one_of is not None:
            return self._first_present(self.one_of, data, name)
        if self.features is not None:
            raise DataError(
                f"{self.features}: features are no images. A recipe with model.encoder: none trains on them."
            )
        return read_sample(self.sample or "")

    def _first_present(self, places: tuple[Source, ...], data: Path, name: str | None) -> ImageSet:
        there: dict[Hashable, Source] = {}
        for place in places:
            if place.present(data):
                there.setdefault(place._identity(data), place)
        if not there:
            looked = ", ".join(line for place in places for line in place._looked_at(data))
            raise DataError(
                f"{name or 'one_of'}: none of its places is there. Looked at {looked}. "
                "Put the images at one of them (spherood data list), or check where --data points."
            )
        first, *others = there.values()
        images = first.load(data, name)
        for other in others:
            again = other.load(data, name)
            if len(again) != len(images):
                raise DataError(
                    f"{first.where(data) or images.name} holds {len(images):,} images, "
                    f"{other.where(data) or again.name} {len(again):,}. They should be the same: remove one."
                )
        return images

    def _identity(self, data: Path) -> Hashable:
        """Equal for two spellings of one place (links, or a file system that ignores case)."""
        place = self.where(data)
        if place is None:
            return self.sample
        status = place.stat()
        return status.st_dev, status.st_ino, self.root if self.list_ or self.table else None, self.split

    def _roots(self, data: Path) -> list[Path]:
        return [data / root for root in ([self.root] if isinstance(self.root, str) else self.root)]

    def _looked_at(self, data: Path) -> list[str]:
        if self.one_of is not None:
            return [line for place in self.one_of for line in place._looked_at(data)]
        if self.list_ is not None:
            return [f"{self.where(data)} (its images under {' or '.join(str(root) for root in self._roots(data))})"]
        return [str(self.where(data))]
