"""The page of `spherood data check`: what is in folders of images, and their copies side by side."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spherood.data.duplicates import Duplicate
from spherood.data.image_set import ImageSet
from spherood.data.survey import Copies, Survey
from spherood.files import write_text
from spherood.report.page import fill, picture

SHOWN = 24  # pairs of two folders


def write_leaks_page(path: Path, found: Survey, sets: Mapping[str, ImageSet]) -> None:
    """Write it, whole or not at all. MissingExtraError without the extra report."""
    spoilt = sum(one.images for one in found.copies)
    lead = f"{spoilt:,} images have a copy." if spoilt else "No image has a copy."
    copies = [_section(one, sets) for one in found.copies if one.images]
    title = f"Copies and unreadable images: {', '.join(folder.name for folder in found.folders)}"
    write_text(path, fill("leaks.html.j2", None, title=title, lead=lead, folders=found.folders, copies=copies))


def _section(one: Copies, sets: Mapping[str, ImageSet]) -> dict[str, Any]:
    where = f"within {one.first}" if one.first == one.second else f"{one.first} in {one.second}"
    pairs = [(pair, "") for pair in one.pairs] + [(pair, "mirrored; ") for pair in one.mirrored]
    more = f" The first {SHOWN}:" if len(pairs) > SHOWN else ""
    return {
        "title": f"Copies {where}",
        "says": f"{one.images:,} images, {len(one.mirrored):,} of them mirrored.{more}",
        "shown": [_pair(pair, told, sets[one.first], sets[one.second]) for pair, told in pairs[:SHOWN]],
    }


def _pair(pair: Duplicate, told: str, first: ImageSet, second: ImageSet) -> dict[str, Any]:
    return {
        "first": _image(first, pair.first),
        "second": _image(second, pair.second),
        "says": f"{told}mean difference {pair.difference:.1f} of 255, at 32 x 32",
    }


def _image(images: ImageSet, name: str) -> dict[str, Any]:
    return {"name": name, "picture": picture(np.asarray(images.read(list(images.names).index(name))))}
