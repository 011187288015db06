from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spherood.bundle import Bundle
from spherood.bundle.encoder import Encoder
from spherood.bundle.reading import Reader, check
from spherood.errors import ConfigError, DataError
from spherood.features import FeatureStore
from spherood.models import infer

FEATURE = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
Array = NDArray[Any]


def pixels(seed: int) -> Array:
    return np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two cats and a dog, 8 px."""
    for seed, name in enumerate(("cat/a.png", "cat/b.png", "dog/c.png")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    path = tmp_path / "f.npz"
    label, video = np.array(list("bbabaa")), np.array([3, 3, 8, 3, 1, 1])
    np.savez(path, feature=FEATURE, label=label, video=video, name=np.array([f"{row}.png" for row in range(6)]))
    return path


@pytest.fixture
def reader(tmp_path: Path, make_bundle: Callable[..., Bundle]) -> Reader:
    made = make_bundle()
    assert made.runtime.model is not None
    assert made.preprocess is not None
    encoder = Encoder("tiny", made.runtime.model, made.preprocess)
    return Reader(encoder, FeatureStore(tmp_path / "store"), tmp_path)


@pytest.fixture
def plain(tmp_path: Path) -> Reader:
    return Reader(None, FeatureStore(tmp_path / "store"))


def test_a_feature_file_is_read_with_labels_names_and_groups(plain: Reader, features: Path) -> None:
    rows, group = plain.read(features, "known", group_by="video")
    assert rows.label is not None
    assert group is not None
    np.testing.assert_array_equal(rows.outputs.feature.numpy(), FEATURE)
    assert (rows.label.tolist(), rows.classes, list(rows.names)[:2]) == (
        [1, 1, 0, 1, 0, 0],
        ("a", "b"),
        ["0.png", "1.png"],
    )
    assert group.tolist() == [0, 0, 1, 0, 2, 2]
    assert plain.read(features, "known")[1] is None


def test_labels_may_lie_beside_a_bare_array(plain: Reader, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", FEATURE)
    np.save(tmp_path / "y.npy", np.array([0, 2, 1, 0, 2, 1]))
    rows, _ = plain.read(tmp_path / "x.npy", "known", labels=tmp_path / "y.npy")
    assert rows.label is not None
    assert rows.label.tolist() == [0, 2, 1, 0, 2, 1]
    assert plain.read(tmp_path / "x.npy", "known")[0].label is None


def test_a_folder_goes_through_the_encoder(reader: Reader, photos: Path) -> None:
    rows, group = reader.read(photos, "held-out")
    assert reader.encoder is not None
    assert rows.label is not None
    expected = infer(
        reader.encoder.model, torch.from_numpy(np.stack([pixels(seed) for seed in range(3)])), reader.encoder.preprocess
    )
    torch.testing.assert_close(rows.outputs.feature, expected.feature)
    assert expected.logits is not None
    torch.testing.assert_close(rows.outputs.logits, expected.logits)
    assert (rows.name, rows.label.tolist(), rows.classes) == ("held-out", [0, 0, 1], ("cat", "dog"))
    assert (list(rows.names), group) == (["cat/a.png", "cat/b.png", "dog/c.png"], None)
    assert rows.images is not None


def test_an_image_list_starts_at_the_root(reader: Reader, photos: Path, tmp_path: Path) -> None:
    for name in ("some.txt", "some.LST"):
        (tmp_path / name).write_text("photos/dog/c.png 1\nphotos/cat/a.png 0\n")
        rows, _ = reader.read(tmp_path / name, "known")
        assert rows.label is not None
        assert (list(rows.names), rows.label.tolist()) == (["photos/dog/c.png", "photos/cat/a.png"], [1, 0])


def test_groups_of_images_come_from_a_table(reader: Reader, photos: Path, tmp_path: Path) -> None:
    table = tmp_path / "patients.csv"
    table.write_text("image,patient\ndog/c.png,x\ncat/b.png,y\ncat/a.png,x\n")
    _, group = reader.read(photos, "known", group_by=f"{table}:patient")
    assert group is not None
    assert group.tolist() == [0, 1, 0]
    (photos / "cat" / "b.png").write_text("no image")
    rows, group = reader.read(photos, "known", group_by=f"{table}:patient")
    assert (list(rows.names), None if group is None else group.tolist()) == (["cat/a.png", "dog/c.png"], [0, 0])
    with pytest.raises(
        ConfigError, match=r"^--group-by patient: for images write FILE\.csv:COLUMN; its column image na"
    ):
        reader.read(photos, "known", group_by="patient")
    with pytest.raises(ConfigError, match=r"there is no column 'patien'"):
        reader.read(photos, "known", group_by=f"{table}:patien")


def test_unreadable_images_are_left_out_and_told(
    reader: Reader, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for row in range(7):
        (photos / "cat" / f"x{row}.png").write_text("no image")
    rows, _ = reader.read(photos, "known")
    told = capsys.readouterr()
    assert (len(rows), told.out) == (3, "")
    lines = [line for line in told.err.splitlines() if "skipped" in line]
    assert [line.partition(":")[2].partition(":")[0] for line in lines[:5]] == [f" cat/x{row}.png" for row in range(5)]
    assert lines[5:] == ["known: skipped 7 unreadable images."]


def test_labels_do_not_go_with_images(reader: Reader, photos: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^y\.npy: labels of images are their folders\. --labels goes with features\.$"
    ):
        reader.read(photos, "known", labels=Path("y.npy"))


def test_what_is_not_there_or_does_not_go_with_the_encoder_is_told_before_any_work(
    reader: Reader, plain: Reader, photos: Path, features: Path, tmp_path: Path
) -> None:
    cases = [
        (
            plain,
            photos,
            ConfigError,
            "images need an encoder. Name one: --encoder RUN, FILE or package.module:function.",
        ),
        (reader, features, ConfigError, "features need no encoder. Leave --encoder out, or name a folder of images."),
        (plain, tmp_path / "gone.npy", DataError, "no such file or folder. Check the path."),
        (reader, tmp_path / "gone", DataError, "no such file or folder. Check the path."),
    ]
    for one, path, kind, message in cases:
        for ask in (
            lambda one=one, path=path: one.read(path, "known"),
            lambda one=one, path=path: check(path, one.encoder),
        ):
            with pytest.raises(kind, match=f"^{re.escape(f'{path}: {message}')}$"):
                ask()
    assert not (tmp_path / "store").exists()
    check(photos, reader.encoder)
    check(features, None)
