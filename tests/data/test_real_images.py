"""Real photographs and digits of the project's packed sets; skipped where SPHEROOD_SHARED does not point to them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spherood.data import Preprocess, Source
from spherood.data.loading import blocks
from spherood.data.views import Views, apply, plan


@pytest.fixture(scope="session")
def mnist(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("mnist")
    command = [sys.executable, shared_data / "unpack.py", place, "mnist", "--npy", "--no-tree"]
    subprocess.run(command, check=True, capture_output=True)
    return place


def test_240_scenes_in_six_folders_are_all_read(scenes: Path) -> None:
    found = Source(folder="scenes", count=240).load(scenes.parent)
    assert found.classes == ("buildings", "forest", "glacier", "mountain", "sea", "street")
    assert np.bincount(found.label).tolist() == [40] * 6
    read = list(blocks(found, Preprocess(size=32), 100))
    assert not any(block.unreadable for block in read)
    assert len(np.unique(np.concatenate([block.pixels for block in read]).reshape(240, -1), axis=0)) == 240


def test_photographs_of_any_shape_are_prepared_as_pillow_does(scenes: Path) -> None:
    for number, file in enumerate(sorted(scenes.rglob("*.jpg"))[::40]):
        image = Image.open(file).convert("RGB").crop((0, number, 100 - 9 * number, 100))
        width, height = image.size
        short = min(width, height)
        resized = image.resize((32 * width // short, 32 * height // short), Image.Resampling.BILINEAR)
        left, top = round((resized.width - 32) / 2), round((resized.height - 32) / 2)
        expected = np.asarray(resized)[top : top + 32, left : left + 32]
        assert np.array_equal(Preprocess(size=32).pixels(image), expected)


def test_ten_thousand_grey_digits_are_read_from_arrays(mnist: Path) -> None:
    place = Source(arrays="mnist.images.npy", labels="mnist.labels.npy", count=10_000)
    found = place.load(mnist)
    assert np.bincount(found.label).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]  # published
    pixels = np.asarray(found.read(0))
    assert pixels.shape == (28, 28, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_a_crop_of_a_photograph_is_pillows(scenes: Path) -> None:
    files = sorted(scenes.rglob("*.jpg"))[::30]
    stored = np.stack([np.asarray(Image.open(file).convert("RGB").resize((64, 64))) for file in files])
    what = plan(Views(scale=(0.2, 1.0), flip=0.5), 0, 0, np.arange(len(files)), 0, 64, 64)
    found = apply(torch.from_numpy(stored).permute(0, 3, 1, 2), what, 32)
    for row, (top, left, height, width) in enumerate(what.box):
        image = Image.fromarray(stored[row]).crop((left, top, left + width, top + height))
        image = image.resize((32, 32), Image.Resampling.BILINEAR)
        expected = np.asarray(image).astype(float) / 255
        expected = expected[:, ::-1] if what.flip[row] else expected
        assert np.abs(found[row].permute(1, 2, 0).numpy() - expected).max() <= 1.05 / 255
