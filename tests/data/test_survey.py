"""Planted copies among real photographs are found, whatever was done to them; and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from spherood.data.folders import read_folder
from spherood.data.survey import survey


@pytest.fixture
def planted(scenes: Path, tmp_path: Path) -> Path:
    """Five scenes: one re-compressed, one resized, one mirrored, one that is none of them, one that cannot be read."""
    known = read_folder(scenes, "scenes")
    place = tmp_path / "planted"
    (place / "a").mkdir(parents=True)
    known.read(3).save(place / "a" / "compressed.jpg", quality=60)
    known.read(50).resize((140, 140), Image.Resampling.BICUBIC).save(place / "a" / "resized.png")
    ImageOps.mirror(known.read(100)).save(place / "a" / "mirrored.jpg", quality=80)
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    Image.fromarray(noise).save(place / "a" / "other.png")
    (place / "a" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return place


def test_a_compressed_a_resized_and_a_mirrored_copy_are_found(scenes: Path, planted: Path) -> None:
    known, found = read_folder(scenes, "scenes"), read_folder(planted, "planted")
    result = survey([found, known])
    (between,) = [one for one in result.copies if (one.first, one.second) == ("planted", "scenes")]
    names = known.names
    assert {(pair.first, pair.second) for pair in between.pairs} == {
        ("a/compressed.jpg", names[3]),
        ("a/resized.png", names[50]),
    }
    assert [(pair.first, pair.second) for pair in between.mirrored] == [("a/mirrored.jpg", names[100])]
    assert between.images == 3


def test_photographs_that_differ_are_no_copies_not_even_mirrored(scenes: Path) -> None:
    (within,) = survey([read_folder(scenes, "scenes")]).copies
    assert within.images == 0


def test_what_is_there_is_counted(scenes: Path, planted: Path) -> None:
    folder, other = survey([read_folder(planted, "planted"), read_folder(scenes, "scenes")]).folders
    assert folder.unreadable == ["a/broken.png"]
    assert folder.classes == {"a": 5}
    assert dict(folder.sizes) == {"100 x 100": 3, "140 x 140": 1}
    assert other.images == sum(other.classes.values()) == 240
