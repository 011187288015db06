"""`spherood data` as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

Command = Callable[..., Any]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders of blurred noise; `b` has a mirrored copy of one in `a`, and a file that is no image."""
    monkeypatch.chdir(tmp_path)
    for folder, seeds in (("a", range(4)), ("b", range(4, 7))):
        (tmp_path / folder).mkdir()
        for seed in seeds:
            small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(small).resize((48, 48), Image.Resampling.BICUBIC).save(f"{folder}/{seed}.png")
    ImageOps.mirror(Image.open("a/1.png")).save("b/copy.png")
    Path("b/broken.png").write_bytes(b"none")
    return tmp_path


def test_every_set_is_listed_with_its_licence_and_whether_it_is_there(spherood: Command, tmp_path: Path) -> None:
    (tmp_path / "datasets" / "small_OOD_dataset" / "iSUN").mkdir(parents=True)
    told = spherood("data", "list", "--data", tmp_path, "--json")
    rows = {row["name"]: row for row in json.loads(told.out)}
    assert len(rows) >= 20
    assert rows["isun"]["state"] == "there"
    assert rows["svhn"]["commercial"] is False
    assert rows["textures"]["protocols"] == [
        *("cider/cifar10", "cider/cifar100", "cider/imagenet100"),
        *("openood/cifar10", "openood/cifar100", "openood/imagenet1k", "openood/imagenet200"),
    ]
    told = spherood("data", "list", "--data", tmp_path)
    assert "by hand" in told.out
    assert "ufldl.stanford.edu" in told.out
    assert "(!)" in told.out


def test_copies_and_what_cannot_be_read_are_told_and_drawn(spherood: Command, folders: Path) -> None:
    pytest.importorskip("jinja2")
    told = spherood("data", "check", "b", "a", "--page", "leaks.html")
    assert told.code == 0, told.err
    assert told.out.splitlines() == [
        "b: 5 images; 48 x 48: 4",
        "  unreadable: 1, first broken.png",
        "a: 4 images; 48 x 48: 4",
        "copies within b: 0 images, mirrored 0",
        "copies within a: 0 images, mirrored 0",
        "copies b in a: 0 images, mirrored 1",
        "  copy.png = 1.png",
        "page: leaks.html",
    ]
    page = Path("leaks.html").read_text()
    assert "1 images, 1 of them mirrored." in page
    assert page.count("<img ") == 2
    assert "<script" not in page
    told = spherood("data", "check", "b", "a", "--json")
    assert json.loads(told.out)["copies"][2]["mirrored"][0]["second"] == "1.png"


def test_one_folder_named_twice_is_refused(spherood: Command, folders: Path) -> None:
    told = spherood("data", "check", "a", "a")
    assert (told.code, told.err) == (
        2,
        "spherood data check: one folder is named twice. Name every one once.\n",
    )


def test_what_is_fetched_by_hand_says_how(spherood: Command, tmp_path: Path) -> None:
    told = spherood("data", "prepare", "ssb-hard", "--data", tmp_path)
    assert told.code == 1
    assert "Part of ImageNet-21k, which asks for a registration" in told.err
    assert "licence: that of ImageNet, non-commercial research." in told.err


def test_a_folder_of_ones_own_is_verified_and_linked(spherood: Command, folders: Path) -> None:
    (folders / "b" / "broken.png").unlink()
    told = spherood("data", "prepare", "ssb-hard", "--from", "b", "--data", "data")
    assert told.out == "ssb-hard: data/images_largescale/ssb_hard (a link to b)\n"
    assert spherood("data", "prepare", "ssb-hard", "--data", "data").out == "ssb-hard: there already\n"
    assert spherood("data", "verify", "--data", "data").out == "ssb-hard: complete\n"
    told = spherood("data", "verify", "ninco", "--data", "data")
    assert told.code == 1
    assert told.out == "ninco, all: nothing at data/images_largescale/ninco.\n"


def test_a_subset_is_named_by_its_list_or_drawn(spherood: Command, tmp_path: Path) -> None:
    for name in ("n1", "n2", "n3"):
        (tmp_path / "imagenet" / name).mkdir(parents=True)
    told = spherood("data", "subset", tmp_path / "imagenet", "-o", tmp_path / "two", "--draw", "2")
    assert told.out == f"{tmp_path / 'two'}: 2 classes, drawn with seed 0\n"
    told = spherood("data", "subset", tmp_path / "imagenet", "-o", tmp_path / "x")
    assert (told.code, "say which classes, by --classes FILE or --draw N" in told.err) == (2, True)


def test_a_protocol_is_verified_set_by_set(spherood: Command, folders: Path) -> None:
    (folders / "own.yaml").write_text(
        "name: own\nabout: x\nversion: '1'\nid: {train: {folder: a}, test: {folder: b, count: 9}}\n"
        "far: {gone: {folder: gone}}\n"
    )
    told = spherood("data", "verify", "--protocol", "own.yaml", "--data", ".")
    assert told.code == 1
    first, second, third = told.out.splitlines()
    assert first == "ID train: 4 images"
    assert second == "ID test: b: holds 5 images, expected 9."
    assert third.startswith("gone (far): gone: no such folder of images.")
    assert told.err == "own: 2 of 3 sets are missing or incomplete, see above.\n"


def test_pictures_are_of_cifar_alone(spherood: Command, tmp_path: Path) -> None:
    told = spherood("data", "prepare", "svhn", "--openood", "--data", tmp_path)
    assert told.code == 2
    assert told.err.startswith("svhn: --openood writes PNG files of cifar10 and cifar100 alone.")
