"""How a recipe or a protocol says where images come from."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from spherood.data.arrays import read_arrays
from spherood.data.folders import read_folder
from spherood.data.image_set import ImageSet, Part
from spherood.data.lists import any_on_disk, read_list
from spherood.data.samples import read_sample
from spherood.errors import DataError
from spherood.schema import Strict


class Source(Strict):
    """One of four places, with relative paths against the data root; then, optionally, some classes and one part.

    folder: images, one folder per class. list: an image list, its paths against `root`. arrays: a .npy of images, with
    `labels`. sample: digits, photographs or noise. `part` takes the train / validation / test share (60 / 20 / 20 %).
    `count` is the number of images that must be there.
    """

    folder: str | None = None
    list_: str | None = Field(default=None, alias="list")
    root: str = "."
    arrays: str | None = None
    labels: str | None = None
    sample: str | None = None
    classes: tuple[str, ...] | None = None
    part: Part | None = None
    count: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_place(self) -> Source:
        if sum(place is not None for place in (self.folder, self.list_, self.arrays, self.sample)) != 1:
            raise ValueError("give exactly one of folder, list, arrays, sample.")
        return self

    def where(self, data: Path) -> Path | None:
        """The file or folder it needs; None for a sample."""
        place = self.folder or self.list_ or self.arrays
        return data / place if place else None

    def present(self, data: Path) -> bool:
        """Whether its images are on disk: of a list at least one (a list of which some are missing is an error)."""
        place = self.where(data)
        if place is None or not place.exists():
            return place is None
        return self.list_ is None or any_on_disk(place, data / self.root)

    def load(self, data: Path, name: str | None = None) -> ImageSet:
        """The images; DataError where they are absent, or more or fewer than `count`."""
        if self.folder is not None:
            images = read_folder(data / self.folder, name)
        elif self.list_ is not None:
            images = read_list(data / self.list_, data / self.root, name)
        elif self.arrays is not None:
            images = read_arrays(data / self.arrays, data / self.labels if self.labels else None, name)
        else:
            images = read_sample(self.sample or "")
        if self.classes is not None:
            images = images.keep_classes(self.classes)
        if self.part is not None:
            images = images.part(self.part)
        if self.count is not None and len(images) != self.count:
            raise DataError(
                f"{self.where(data) or images.name}: holds {len(images):,} images, expected {self.count:,}."
            )
        return images
