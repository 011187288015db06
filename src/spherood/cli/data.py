"""spherood data list, prepare, verify, check, subset."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from spherood.cli.options import Data, Json
from spherood.errors import ConfigError, DataError

if TYPE_CHECKING:
    from spherood.data.catalogue import Entry
    from spherood.data.survey import Survey

SHOWN = 5  # pairs and unreadable files that are printed

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="The papers' image sets: what they are, fetched, verified, checked for leaks.\n\n"
    "Example: **spherood data list**",
)

Names = Annotated[list[str], typer.Argument(help="Sets by name: spherood data list.")]


@app.command("list")
def list_(data: Data = Path("data"), as_json: Json = False) -> None:
    """Print every set: what, how many images, licence, which protocols use it, and whether it is there.

    Example: **spherood data list --data ~/data**
    """
    from rich.console import Console
    from rich.table import Table

    from spherood.data.catalogue import catalogue
    from spherood.data.download import named_hosts

    rows: list[dict[str, Any]] = [
        {
            "name": entry.name,
            "what": entry.what,
            "images": entry.images,
            "size": entry.size,
            "licence": entry.licence,
            "commercial": entry.commercial,
            "home": entry.home,
            "from": ", ".join(named_hosts(entry.files)) or "by hand",
            "fetched": entry.manual is None,
            "protocols": _protocols(entry),
            "state": entry.state(data),
        }
        for entry in catalogue().values()
    ]
    if as_json:
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    console = Console()
    console = Console(width=None if console.is_terminal else 200, markup=False, emoji=False, highlight=False)
    table = Table(title=f"image sets below {data}", title_justify="left")
    for column in ("name", "what", "images", "size", "licence", "from", "protocols", ""):
        table.add_column(column, justify="right" if column == "images" else "left", overflow="fold")
    for row in rows:
        licence = f"{row['licence']}{'' if row['commercial'] else ' (!)'}"
        images = f"{row['images']:,}" if row["images"] else "–"
        protocols = ", ".join(row["protocols"])
        cells = [row["name"], row["what"], images, row["size"], licence, row["from"], protocols, row["state"]]
        table.add_row(*map(str, cells))
    console.print(table)
    print("(!): not for commercial use, by its page or that of its source. by hand: prepare says where to get it.")
    print("next: spherood data prepare NAME")


@app.command()
def prepare(
    names: Names,
    from_: Annotated[
        Path | None,
        typer.Option("--from", help="A folder of what you have: the archives, or the unpacked set, which gets a link."),
    ] = None,
    openood: Annotated[
        bool, typer.Option("--openood", help="Of CIFAR also PNG files as OpenOOD's lists name them (images_classic).")
    ] = False,
    data: Data = Path("data"),
) -> None:
    """Fetch sets, unpack them, and lay them out where protocols and recipes look.

    Example: **spherood data prepare cifar10 svhn textures --data ~/data**

    Example: **spherood data prepare imagenet --from /datasets/imagenet**

    A cut download goes on, a wrong checksum is refused, mirrors are tried in turn. Only the hosts of the sets that you
    name are asked. What is there already is left alone.
    """
    from spherood.data.catalogue import entry_of
    from spherood.data.download import named_hosts
    from spherood.data.prepare import prepare as prepare_set

    entries = [entry_of(name) for name in names]
    if from_ is not None and len(entries) > 1 and any(entry.manual for entry in entries):
        raise ConfigError("spherood data prepare: --from links one set at a time. Name one.")
    failed = []
    for entry in entries:
        if openood and not entry.pictures:
            raise ConfigError(f"{entry.name}: --openood writes PNG files of cifar10 and cifar100 alone. Leave it out.")
        if not entry.commercial:
            print(f"{entry.name}: licence: {entry.licence}.", file=sys.stderr)
        if from_ is None and entry.files and entry.state(data) != "there":
            print(f"{entry.name}: from {', '.join(named_hosts(entry.files))}", file=sys.stderr)
        try:
            made = prepare_set(entry, data, from_, pictures=openood)
        except DataError as error:
            if len(entries) == 1:
                raise
            failed.append(str(error))
            print(error, file=sys.stderr)
        else:
            for line in made or ["there already"]:
                print(f"{entry.name}: {line}")
    if failed:
        raise DataError(f"{len(failed)} of {len(entries)} sets could not be prepared, see above.")


@app.command()
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Sets by name. Default: those that are there.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="Instead every set of this protocol, as it will be read: lists, counts, labels.")
    ] = None,
    data: Data = Path("data"),
) -> None:
    """Count images and labels, and look at the checksums of archives that were kept; say exactly what is missing.

    Example: **spherood data verify cifar10 svhn --data ~/data**

    Example: **spherood data verify --protocol openood/cifar10 --data ./data**
    """
    if protocol is not None:
        _verify_protocol(protocol, data)
        return
    from spherood.data.catalogue import catalogue, entry_of
    from spherood.data.download import wrong
    from spherood.data.prepare import DOWNLOADS
    from spherood.data.prepare import verify as verify_set

    there = [entry for entry in catalogue().values() if entry.state(data) != "absent"]
    entries = [entry_of(name) for name in names] if names else there
    if not entries:
        raise DataError(f"{data}: none of the sets is there. See: spherood data list")
    bad = 0
    for entry in entries:
        missing = verify_set(entry, data)
        for file in entry.files:
            path = data / DOWNLOADS / file.name
            if path.is_file() and (why := wrong(path, file)):
                missing.append(f"{path}: {why}. Remove it.")
        bad += bool(missing)
        counted = ", ".join(f"{part} {source.count:,}" for part, source in entry.gives.items() if source.count)
        print("\n".join(missing) if missing else f"{entry.name}: complete{f' ({counted})' if counted else ''}")
    if bad:
        raise DataError(f"{bad} of {len(entries)} sets are incomplete, see above.")


@app.command()
def check(
    folders: Annotated[list[Path], typer.Argument(help="Folders of images, or image lists (.txt).")],
    page: Annotated[Path | None, typer.Option(help="Also a page with the pairs side by side: FILE.html.")] = None,
    data: Data = Path(),
    as_json: Json = False,
) -> None:
    """Look for what spoils a benchmark: images that cannot be read, and copies within and between folders.

    Example: **spherood data check cifar10/test textures --page leaks.html**

    Copies are found re-compressed, resized and mirrored, by a perceptual hash, and confirmed on their pixels.
    """
    from spherood.data.folders import read_folder
    from spherood.data.lists import read_list
    from spherood.data.survey import survey

    names = _short(folders)
    sets = [
        read_list(folder, data, name) if folder.suffix == ".txt" else read_folder(folder, name)
        for folder, name in zip(folders, names, strict=True)
    ]
    found = survey(sets)
    if page is not None:
        from spherood.report.leaks import write_leaks_page

        write_leaks_page(page, found, {images.name: images for images in sets})
    if as_json:
        print(json.dumps(_record(found), indent=2, ensure_ascii=False))
        return
    _tell(found)
    if page is not None:
        print(f"page: {page}")


@app.command()
def subset(
    folder: Annotated[Path, typer.Argument(help="A folder with one folder per class, as ImageNet's train or val.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder, of links.")],
    classes: Annotated[
        Path | None, typer.Option(help="A list of classes, one a line, or a folder that has them (ImageNet-R).")
    ] = None,
    draw: Annotated[int | None, typer.Option(min=1, help="So many classes at random instead.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draw.")] = 0,
) -> None:
    """Choose classes out of a large set, by links: ImageNet-100 by its published list, or ImageNet-200.

    Example: **spherood data subset imagenet/train -o data/datasets/ImageNet100/train --classes class_list.txt**

    Example: **spherood data subset imagenet/val -o data/imagenet200/val --classes data/images_largescale/imagenet_r**

    Labels are the ranks of the sorted class names.
    """
    from spherood.data.subset import classes_of, draw_classes, link_classes

    if (classes is None) == (draw is None):
        raise ConfigError("spherood data subset: say which classes, by --classes FILE or --draw N.")
    chosen = classes_of(classes) if classes is not None else draw_classes(folder, draw or 0, seed)
    count = link_classes(folder, chosen, out)
    print(f"{out}: {count:,} classes" + (f", drawn with seed {seed}" if draw else ""))


def _verify_protocol(name: str, data: Path) -> None:
    """Every source of a protocol, loaded; DataError, after all were looked at, where some cannot be."""
    from spherood.benchmark.protocol import load_protocol

    protocol = load_protocol(name)
    sources = {"ID train": protocol.id.train, "ID test": protocol.id.test}
    sources |= {} if protocol.id.validation is None else {"ID validation": protocol.id.validation}
    sources |= {f"{name} ({kind})": source for name, (kind, source) in protocol.ood.items()}
    sources |= {f"{name} (covariate shift)": source for name, source in protocol.csid.items()}
    sources |= {f"{name} (validation OOD)": source for name, source in protocol.validation_ood.items()}
    bad = 0
    for part, source in sources.items():
        try:
            print(f"{part}: {len(source.load(data, part)):,} images")
        except DataError as error:
            bad += 1
            print(f"{part}: {error}")
    if bad:
        raise DataError(f"{protocol.name}: {bad} of {len(sources)} sets are missing or incomplete, see above.")


def _protocols(entry: Entry) -> list[str]:
    from spherood.benchmark.protocol import load_protocol, protocol_names
    from spherood.data.source import Source

    def places(source: Source) -> list[str]:
        if source.one_of is not None:
            return [path for one in source.one_of for path in places(one)]
        roots = [source.root] if isinstance(source.root, str) else list(source.root)
        inside = next((one for one in (source.folder, source.arrays, source.cifar, source.svhn) if one), None)
        return [inside] if inside else [f"{root}/{_list_folder(source.list_)}" for root in roots if source.list_]

    found = []
    for name in protocol_names():
        protocol = load_protocol(name)
        sources = [protocol.id.train, protocol.id.test, *(source for _, source in protocol.ood.values())]
        sources += list(protocol.csid.values())
        if any(entry.holds(path) for source in sources for path in places(source)):
            found.append(name)
    return found


def _list_folder(path: str | None) -> str:
    """Where the images of one of OpenOOD's lists lie: `test_ssb_hard.txt` names those in ssb_hard/."""
    stem = Path(path or "").stem.partition("_")[2]
    known = {"imagenet": "imagenet_1k", "imagenet200": "imagenet_1k", "textures": "texture"}
    return known.get(stem, stem)


def _short(folders: list[Path]) -> list[str]:
    """The last part of each path that tells them apart."""
    for parts in range(1, 8):
        names = ["/".join(folder.absolute().parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise ConfigError("spherood data check: one folder is named twice. Name every one once.")


def _record(found: Survey) -> dict[str, Any]:
    """As `asdict`, with pairs by their fields."""
    copies = [
        {
            "first": one.first,
            "second": one.second,
            "pairs": [pair._asdict() for pair in one.pairs],
            "mirrored": [pair._asdict() for pair in one.mirrored],
        }
        for one in found.copies
    ]
    return {"folders": [asdict(folder) for folder in found.folders], "copies": copies}


def _tell(found: Survey) -> None:
    for folder in found.folders:
        counts = list(folder.classes.values())
        span = f", {len(counts)} classes of {min(counts):,} to {max(counts):,}" if counts else ""
        sizes = "; ".join(f"{size}: {n:,}" for size, n in folder.sizes)
        print(f"{folder.name}: {folder.images:,} images{span}; {sizes}")
        if folder.unreadable:
            print(f"  unreadable: {len(folder.unreadable):,}, first {', '.join(folder.unreadable[:SHOWN])}")
    for one in found.copies:
        where = f"within {one.first}" if one.first == one.second else f"{one.first} in {one.second}"
        print(f"copies {where}: {len(one.pairs):,} images, mirrored {len(one.mirrored):,}")
        for pair in [*one.pairs[:SHOWN], *one.mirrored[:SHOWN]]:
            print(f"  {pair.first} = {pair.second}")
