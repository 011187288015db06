"""Training sets that stay in their files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from spherood.data import ImageSet, Preprocess
from spherood.data.decode import read_rgb
from spherood.data.folders import read_folder
from spherood.errors import DataError
from spherood.training import Recipe, engine, reading, train
from spherood.training.log import read_log
from spherood.training.on_disk import OnDisk

PREPROCESS = Preprocess(size=28)


@pytest.fixture
def pictures(tmp_path: Path) -> ImageSet:
    """Five smooth JPEGs of 200 x 160 in each of two classes."""
    for class_, hue in (("red", 0), ("green", 1)):
        (tmp_path / "set" / class_).mkdir(parents=True)
        for number in range(5):
            ramp = np.zeros((160, 200, 3), dtype=np.uint8)
            ramp[..., hue] = np.linspace(40 * number, 40 * number + 80, 200).astype(np.uint8)
            Image.fromarray(ramp).save(tmp_path / "set" / class_ / f"{number}.jpg", quality=95)
    return read_folder(tmp_path / "set", "pictures")


def test_rows_come_as_evaluation_sees_them_and_larger_for_views(pictures: ImageSet) -> None:
    found = OnDisk(pictures, PREPROCESS)
    rows = np.array([7, 0])
    expected = np.stack([PREPROCESS.pixels(pictures.read(row)) for row in rows])
    assert np.array_equal(found.take(rows).numpy(), expected)
    large = found.on(torch.device("cpu"))[torch.from_numpy(rows)]
    assert large.shape == (2, 3, 32, 32)  # 8/7 of 28
    exact = np.stack([Preprocess(size=32).pixels(pictures.read(row)) for row in rows])
    assert np.abs(large.permute(0, 2, 3, 1).numpy().astype(int) - exact).max() <= 8  # decoded at a quarter of its size
    assert found.label.tolist() == [0] * 5 + [1] * 5
    assert found.classes == ("green", "red")


def test_a_jpeg_is_decoded_small_but_no_smaller_than_asked_for(pictures: ImageSet) -> None:
    path = pictures.images[0]
    assert isinstance(path, Path)
    assert read_rgb(path).size == (200, 160)
    assert read_rgb(path, 100).size == (200, 160)
    assert read_rgb(path, 80).size == (100, 80)
    assert read_rgb(path, 1).size == (25, 20)


def test_unreadable_files_are_found_before_the_first_step(
    pictures: ImageSet, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = pictures.images[3]
    assert isinstance(broken, Path)
    broken.write_bytes(b"text")
    assert len(OnDisk(pictures, PREPROCESS).label) == 9
    assert capsys.readouterr().err.splitlines() == [
        f"skipped: {broken}: not an image that Pillow can read.",
        "pictures: skipped 1 of 10 unreadable images.",
    ]
    for path in pictures.images[:5]:
        assert isinstance(path, Path)
        path.write_bytes(b"text")
    with pytest.raises(DataError, match=r"^pictures: class 'green' has no image"):
        OnDisk(pictures, PREPROCESS)


def test_a_set_too_large_for_memory_trains_from_its_files_and_resumes_to_the_same_bits(
    pictures: ImageSet,
    tmp_path: Path,
    recipe: Callable[..., Recipe],
    monkeypatch: pytest.MonkeyPatch,
    assert_same_run: Callable[[Path, Path], None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(reading, "MEMORY", 0.0)
    ours = recipe(
        data={"folder": "set"}, preprocess={"size": 28}, training={"epochs": 2, "batch": 4}, validation={"images": 3}
    )
    train(ours, tmp_path / "whole", tmp_path)
    assert "note: set: 0.0 GB of pixels stay on disk, decoded as they are needed." in capsys.readouterr().err
    assert [row["step"] for row in read_log(tmp_path / "whole", "validation.jsonl")] == [3, 6]
    plain, number = engine.one_step, iter(range(100))

    def step(*args: object) -> object:
        if next(number) == 4:
            raise KeyboardInterrupt
        return plain(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "one_step", step)
    with pytest.raises(KeyboardInterrupt):
        train(ours, tmp_path / "run", tmp_path)
    train(ours, tmp_path / "run", tmp_path, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "run")
