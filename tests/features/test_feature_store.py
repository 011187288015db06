from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from spherood.data import ImageSet, Preprocess
from spherood.data.folders import read_folder
from spherood.errors import DataError
from spherood.features import FeatureStore, Stored, store
from spherood.models import Model, ModelSettings, build_model, infer

PREPROCESS = Preprocess(size=8)
ROWS = 23


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BLOCK", 2)
    monkeypatch.setattr(store, "SAVE_EVERY", 3)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the images read so far."""
    names: list[str] = []
    plain = ImageSet.read

    def read(images: ImageSet, index: int) -> Image.Image:
        names.append(images.names[index])
        return plain(images, index)

    monkeypatch.setattr(ImageSet, "read", read)
    return names


def model(seed: int = 0, **settings: Any) -> Model:
    return build_model(ModelSettings(encoder="resnet8", width=2, **{"head": "linear", "dim": 4, **settings}), 3, seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    for number in range(ROWS):
        pixels = draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "set" / f"{number:02}.png")
    return tmp_path / "set"


def entries(cache: Path) -> set[str]:
    return {entry.name for entry in cache.iterdir()}


def test_it_holds_what_the_model_says_row_by_row(tmp_path: Path, folder: Path) -> None:
    images = read_folder(folder)
    found = FeatureStore(tmp_path / "cache").read(model(classifier=True), PREPROCESS, images)
    pixels = np.stack([np.asarray(images.read(row)) for row in range(ROWS)])
    plain = infer(model(classifier=True), torch.from_numpy(pixels), PREPROCESS)
    for ours, theirs in zip(found.outputs[:3], plain[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert (found.images, found.unreadable) == (images, {})


def test_every_image_is_decoded_once_and_never_again(tmp_path: Path, folder: Path, decoded: list[str]) -> None:
    images = read_folder(folder)
    first = FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images)
    assert sorted(decoded) == images.names
    decoded.clear()
    second = FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images)
    assert decoded == []
    assert torch.equal(second.outputs.feature, first.outputs.feature)


def test_labels_and_names_need_no_new_entry(tmp_path: Path, folder: Path, decoded: list[str]) -> None:
    images = read_folder(folder)
    FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images)
    decoded.clear()
    renamed = replace(images, label=images.label + 1, name="other", classes=("a",))
    found = FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, renamed)
    assert decoded == []
    assert found.images.name == "other"


def test_another_weight_preprocess_or_content_is_another_entry(tmp_path: Path, folder: Path) -> None:
    cache, images = tmp_path / "cache", read_folder(folder)
    features = []

    def read(images: ImageSet, preprocess: Preprocess, net: Model) -> None:
        features.append(FeatureStore(cache).read(net, preprocess, images).outputs.feature)
        assert len(entries(cache)) == len(features)

    read(images, PREPROCESS, model())
    read(images, PREPROCESS, model(seed=1))
    nudged = model()
    with torch.no_grad():
        nudged.get_submodule("encoder.bn1").bias[0] += 1e-3  # type: ignore[operator, union-attr]
    read(images, PREPROCESS, nudged)
    read(images, PREPROCESS.model_copy(update={"mean": (0.4, 0.5, 0.5)}), model())
    read(images, PREPROCESS.model_copy(update={"resize": "stretch"}), model())
    read(images.subset(np.arange(5)), PREPROCESS, model())
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(folder / "00.png")
    read(images, PREPROCESS, model())
    assert not torch.equal(features[0][0], features[-1][0])
    assert torch.equal(features[0][1:], features[-1][1:])


def test_what_a_model_lacks_is_not_stored(tmp_path: Path, folder: Path) -> None:
    found = FeatureStore(tmp_path / "cache").read(model(head=None), PREPROCESS, read_folder(folder))
    assert (found.outputs.embedding, found.outputs.logits) == (None, None)


def test_unreadable_images_are_skipped_named_and_counted(tmp_path: Path, folder: Path, decoded: list[str]) -> None:
    whole = FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, read_folder(folder)).outputs.feature
    for number in (0, 7, 22):
        (folder / f"{number:02}.png").write_bytes(b"text")
    images = replace(read_folder(folder), label=np.arange(ROWS))
    kept = [row for row in range(ROWS) if row not in (0, 7, 22)]
    for _ in range(2):  # computed, then from the store
        found = FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images)
        assert list(found.unreadable) == ["00.png", "07.png", "22.png"]
        assert found.unreadable["07.png"] == f"{folder / '07.png'}: not an image that Pillow can read."
        assert found.images.label.tolist() == kept
        assert found.images.names == [f"{row:02}.png" for row in kept]
        assert torch.equal(found.outputs.feature, whole[kept])
        assert found.outputs.embedding is not None
        assert len(found.outputs.embedding) == len(kept)
    assert len(decoded) == 2 * ROWS


def test_a_set_without_a_readable_image_says_so_every_time(tmp_path: Path, folder: Path) -> None:
    for file in folder.iterdir():
        file.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(DataError, match=r"set: none of 23 images can be read\. First: .*00\.png: not an image"):
            FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, read_folder(folder))


class Cut(Exception):
    """Stands for a kill."""


def cut_short(
    monkeypatch: pytest.MonkeyPatch, cache: Path, images: ImageSet, after: int, *, layers: bool = False
) -> None:
    """Start to fill an entry and break off before block number `after`."""
    plain = store.blocks

    def broken(*args: Any, **settings: Any) -> Iterator[Any]:
        for number, block in enumerate(plain(*args, **settings)):
            if number == after:
                raise Cut
            yield block

    with monkeypatch.context() as patch:
        patch.setattr(store, "blocks", broken)
        with pytest.raises(Cut):
            FeatureStore(cache).read(model(), PREPROCESS, images, layers=layers)


@pytest.mark.parametrize("after", [0, 2, 3, 5, 11])
def test_an_interrupted_one_goes_on_behind_its_last_note(
    tmp_path: Path, folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    (folder / "03.png").write_bytes(b"")  # unreadable, and noted before the interruption
    images = read_folder(folder)
    whole = FeatureStore(tmp_path / "whole").read(model(), PREPROCESS, images)
    cut_short(monkeypatch, tmp_path / "cache", images, after)
    assert entries(tmp_path / "cache") == {f"{name}.part" for name in entries(tmp_path / "whole")}
    decoded.clear()
    found = FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images)
    noted = after // 3 * 3 * 2  # three blocks of two images between two notes
    assert sorted(decoded) == images.names[noted:]
    assert_equal(found, whole)
    assert entries(tmp_path / "cache") == entries(tmp_path / "whole")


def assert_equal(found: Stored, whole: Stored) -> None:
    assert torch.equal(found.outputs.feature, whole.outputs.feature)
    assert found.outputs.embedding is not None
    assert whole.outputs.embedding is not None
    assert torch.equal(found.outputs.embedding, whole.outputs.embedding)
    assert (found.unreadable, found.images.names) == (whole.unreadable, whole.images.names)


def test_interrupted_twice_is_as_good_as_once(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_folder(folder)
    cut_short(monkeypatch, tmp_path / "cache", images, 4)
    cut_short(monkeypatch, tmp_path / "cache", images, 5)
    whole = FeatureStore(tmp_path / "whole").read(model(), PREPROCESS, images)
    assert_equal(FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images), whole)


def test_what_a_kill_leaves_behind_does_no_harm(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = read_folder(folder)
    whole = FeatureStore(tmp_path / "whole").read(model(), PREPROCESS, images)
    (name,) = entries(tmp_path / "whole")
    part = tmp_path / "cache" / f"{name}.part"

    part.mkdir(parents=True)  # killed before the first note: nothing in it counts
    (part / "feature.npy").write_bytes(b"half an array")
    assert_equal(FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images), whole)

    finished = tmp_path / "cache" / name
    finished.rename(tmp_path / "away")
    cut_short(monkeypatch, tmp_path / "cache", images, 4)  # killed while writing a note
    (part / f".done-0-of-1.json.{os.getpid()}.part").write_text('{"done": 99')
    assert json.loads((part / "done-0-of-1.json").read_text())["done"] == 6
    assert_equal(FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images), whole)


def test_layers_are_stored_where_they_are_asked_for(tmp_path: Path, folder: Path, decoded: list[str]) -> None:
    images, cache = read_folder(folder), tmp_path / "cache"
    found = FeatureStore(cache).read(model(classifier=True), PREPROCESS, images, layers=True)
    pixels = np.stack([np.asarray(images.read(row)) for row in range(ROWS)])
    plain = infer(model(classifier=True), torch.from_numpy(pixels), PREPROCESS, layers=True)
    for ours, theirs in zip(layers_of(found), plain.layers or (), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(found.outputs[:3], plain[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    decoded.clear()
    again = FeatureStore(cache).read(model(classifier=True), PREPROCESS, images, layers=True)
    assert decoded == []
    assert_layers_equal(again, found)
    (batch, _), *_ = found.batches()
    assert batch.layers is not None
    assert torch.equal(batch.layers[1], layers_of(found)[1])


def layers_of(stored: Stored) -> tuple[torch.Tensor, ...]:
    assert stored.outputs.layers is not None
    return stored.outputs.layers


def assert_layers_equal(found: Stored, whole: Stored) -> None:
    assert_equal(found, whole)
    assert all(torch.equal(a, b) for a, b in zip(layers_of(found), layers_of(whole), strict=True))


def test_an_entry_without_layers_does_not_serve_who_asks_for_them_nor_is_it_touched(
    tmp_path: Path, folder: Path, decoded: list[str]
) -> None:
    images, cache = read_folder(folder), tmp_path / "cache"
    first = FeatureStore(cache).read(model(), PREPROCESS, images)
    (plain,) = entries(cache)
    before = {file.name: file.read_bytes() for file in (cache / plain).iterdir()}
    assert set(before) == {"feature.npy", "embedding.npy", "unreadable.json"}
    layered = FeatureStore(cache).read(model(), PREPROCESS, images, layers=True)
    assert [layer.shape for layer in layers_of(layered)] == [(ROWS, 2), (ROWS, 4), (ROWS, 8)]
    assert entries(cache) == {plain, f"{plain}-layers"}
    assert {file.name: file.read_bytes() for file in (cache / plain).iterdir()} == before
    decoded.clear()
    third = FeatureStore(cache).read(model(), PREPROCESS, images)
    assert (decoded, third.outputs.layers) == ([], None)
    assert_equal(third, first)


def test_an_entry_with_layers_serves_who_asks_without_them(tmp_path: Path, folder: Path, decoded: list[str]) -> None:
    images, cache = read_folder(folder), tmp_path / "cache"
    layered = FeatureStore(cache).read(model(), PREPROCESS, images, layers=True)
    decoded.clear()
    found = FeatureStore(cache).read(model(), PREPROCESS, images)
    assert (decoded, found.outputs.layers, len(entries(cache))) == ([], None, 1)
    assert_equal(found, layered)


def test_a_model_without_layers_is_not_run_again_for_them(tmp_path: Path, folder: Path, decoded: list[str]) -> None:
    images, cache = read_folder(folder), tmp_path / "cache"
    bare = Model(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3)), None, None)
    FeatureStore(cache).read(bare, PREPROCESS, images)
    decoded.clear()
    found = FeatureStore(cache).read(bare, PREPROCESS, images, layers=True)
    assert (decoded, found.outputs.layers, len(entries(cache))) == ([], None, 1)


def test_layers_go_on_where_they_were_interrupted_and_skip_what_cannot_be_read(
    tmp_path: Path, folder: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "03.png").write_bytes(b"")
    images = read_folder(folder)
    whole = FeatureStore(tmp_path / "whole").read(model(), PREPROCESS, images, layers=True)
    assert [len(layer) for layer in layers_of(whole)] == [ROWS - 1] * 3
    cut_short(monkeypatch, tmp_path / "cache", images, 5, layers=True)
    decoded.clear()
    found = FeatureStore(tmp_path / "cache").read(model(), PREPROCESS, images, layers=True)
    assert sorted(decoded) == images.names[6:]
    assert_layers_equal(found, whole)
