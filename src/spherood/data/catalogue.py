"""Every image set of both papers' benchmarks, from catalogue.yaml: what it is, where from, and where it goes.

All paths are below the data root, where recipes and protocols look: CIDER's datasets/, OpenOOD's images_classic/ and
images_largescale/, or plain folders.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, model_validator

from spherood.data.source import Source
from spherood.errors import ConfigError, nearest
from spherood.schema import Strict, parse

State = Literal["there", "incomplete", "absent"]


class File(Strict):
    """What is downloaded: mirrors in the order in which they are tried; md5, or how its SHA-256 begins."""

    name: str
    urls: tuple[str, ...] = Field(min_length=1)
    md5: str | None = None
    sha256: str | None = None


class Unpack(Strict):
    """The members of an archive whose names begin with `below`, without that."""

    unpack: str
    below: str
    into: str


class Put(Strict):
    """The file as it is."""

    put: str
    into: str


class Link(Strict):
    """A second name for what is there already."""

    link: str
    into: str


class FirstOfEach(Strict):
    """The first so many images of each class of one of SVHN's files, in its order, as CIDER chooses them."""

    first_of_each: int
    of: str
    into: str


class Draw(Strict):
    """So many images of an archive, drawn with seed 0 from their names in order."""

    draw: int
    of: str
    into: str


class Idx(Strict):
    """Images and labels in MNIST's format, as a folder of PNG files for each label."""

    idx: str
    labels: str
    into: str


class Safetensors(Strict):
    """The weights of a .pth file, in a format that runs no code."""

    safetensors: str
    into: str


Step = Unpack | Put | Link | FirstOfEach | Draw | Idx | Safetensors


class Entry(Strict):
    """One set. `place`: where it goes, and what --from links to. `gives`: what must be there in the end, with counts.

    manual: why nobody can fetch it for you, and what to do. pictures: folders that --openood writes PNG files into, for
    OpenOOD's lists, of a set that lies in an archive of its own.
    """

    name: str
    what: str
    images: int
    size: str
    licence: str
    commercial: bool = True
    home: str
    place: str
    files: tuple[File, ...] = ()
    steps: tuple[Step, ...] = ()
    manual: str | None = None
    gives: dict[str, Source] = Field(default_factory=dict)
    pictures: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fetched_or_told(self) -> Entry:
        if bool(self.files) == bool(self.manual):
            raise ValueError("either files, or manual: how to get it.")
        return self

    @property
    def places(self) -> tuple[str, ...]:
        """Everywhere that it may lie."""
        return (self.place, *(step.into for step in self.steps), *self.pictures.values())

    def state(self, data: Path) -> State:
        """By what is on disk, without looking at an image."""
        there = [source.present(data) for source in self.gives.values()] or [(data / self.place).exists()]
        if all(there):
            return "there"
        return "incomplete" if any(there) or (data / self.place).exists() else "absent"

    def holds(self, path: str) -> bool:
        """Whether a path that a protocol looks at lies in one of its places."""
        return any(f"{path}/".startswith(f"{place.rstrip('/')}/") for place in self.places)


@cache
def catalogue() -> dict[str, Entry]:
    """All of them by name, in the order of the file."""
    text = files("spherood.data").joinpath("catalogue.yaml").read_text(encoding="utf-8")
    found = [parse(Entry, entry, "catalogue.yaml") for entry in yaml.safe_load(text)]
    return {entry.name: entry for entry in found}


def entry_of(name: str) -> Entry:
    """ConfigError for an unknown name, with the nearest."""
    known = catalogue()
    if name not in known:
        raise ConfigError(f"there is no set '{name}'. {nearest(name, known)} All: spherood data list.")
    return known[name]
