"""A set of the catalogue made ready: fetched or taken from a folder, laid out, verified.

Downloads lie in .downloads below the data root. What the user has already is used where it is: an archive of that name
is read from the folder, and a folder of images gets a link.
"""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from spherood.data.catalogue import Entry
from spherood.data.cifar import read_cifar
from spherood.data.download import fetch, wrong
from spherood.data.lay_out import lay_out, write_pictures
from spherood.errors import DataError

DOWNLOADS = Path(".downloads")


def prepare(entry: Entry, data: Path, source: Path | None = None, *, pictures: bool = False) -> list[str]:
    """What was made, in words. source: a folder of what the user has. pictures: PNG files for OpenOOD's lists as well.

    DataError where it cannot be fetched or is not what it should be; the places of before stay.
    """
    downloads = data / DOWNLOADS
    downloads.mkdir(parents=True, exist_ok=True)
    made: list[str] = []
    with FileLock(downloads / f".{entry.name.replace('/', '-')}.prepare.lock"):
        if entry.state(data) != "there":
            if source is not None and not any((source / file.name).is_file() for file in entry.files):
                made.append(_linked(entry, data, source))
            elif entry.manual:
                raise DataError(
                    f"{entry.name}: cannot be fetched for you. {entry.manual} Page: {entry.home}. Put it at "
                    f"{data / entry.place}, or pass the folder that you have: --from FOLDER"
                )
            else:
                found = {file.name: _file(entry, number, source, downloads) for number, file in enumerate(entry.files)}
                made += lay_out(entry, data, found)
        if pictures:
            made += _pictures(entry, data)
    if missing := verify(entry, data):
        raise DataError("\n".join(missing))
    return made


def verify(entry: Entry, data: Path) -> list[str]:
    """What is missing or other than it should be, a line each; nothing where all is there."""
    if not entry.gives:
        place = data / entry.place
        return [] if place.exists() else [f"{entry.name}: nothing at {place}."]
    found = []
    for part, source in entry.gives.items():
        if not source.present(data):
            found.append(f"{entry.name}, {part}: nothing at {source.where(data)}.")
            continue
        try:
            source.load(data, f"{entry.name}, {part}")
        except DataError as error:
            found.append(f"{entry.name}, {part}: {error}")
    return found


def _file(entry: Entry, number: int, source: Path | None, downloads: Path) -> Path:
    file = entry.files[number]
    if source is None:
        return fetch(file, downloads, entry.home)
    path = source / file.name
    if not path.is_file():
        raise DataError(f"{path}: no such file, though others of {entry.name} are there. Put it beside them.")
    if why := wrong(path, file):
        raise DataError(f"{path}: {why}. Fetch it again from {entry.home}.")
    return path


def _linked(entry: Entry, data: Path, source: Path) -> str:
    """A link to a folder that the user has; taken away again where that is not what it should be."""
    place = data / entry.place
    if not source.exists():
        raise DataError(f"{source}: no such folder. Check the path behind --from.")
    if place.exists():
        raise DataError(f"{place}: is there already, and incomplete. Move it away, or complete it.")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(source.resolve(), target_is_directory=source.is_dir())
    if missing := verify(entry, data):
        place.unlink()
        raise DataError(
            "\n".join([*missing, f"So {source} is not {entry.name} as it is looked for; nothing was linked."])
        )
    return f"{place} (a link to {source})"


def _pictures(entry: Entry, data: Path) -> list[str]:
    made = []
    for split, folder in entry.pictures.items():
        into = data / folder
        if not into.exists():
            images = read_cifar(data / entry.place, "train" if split == "train" else "test")
            made.append(write_pictures(images.images, [f"{name}.png" for name in images.names], into))  # type: ignore[arg-type]
    return made
