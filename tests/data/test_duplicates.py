from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from math import cos, pi
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from spherood.data import ImageSet, Source, duplicates
from spherood.data.duplicates import Duplicate, _candidates, _pieces, near_duplicates, perceptual_hash
from spherood.data.folders import read_folder

Pixels = NDArray[np.uint8]


def held(pixels: Pixels, name: str = "held") -> ImageSet:
    """Pixels in memory, named by their number."""
    return ImageSet(name, pixels, np.zeros(len(pixels), dtype=np.int64), [f"no. {row}" for row in range(len(pixels))])


def scenery(n: int, side: int = 32, seed: int = 0) -> Pixels:
    """Pictures as smooth as photographs: 6 x 6 random colours, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack([np.asarray(Image.fromarray(x).resize((side, side), Image.Resampling.BICUBIC)) for x in coarse])


def as_jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def resized(image: Image.Image, factor: float) -> Image.Image:
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def test_the_bits_are_the_signs_of_the_cosine_sums_written_out() -> None:
    pixels = scenery(3)
    for picture, found in zip(pixels, perceptual_hash(pixels).tolist(), strict=True):
        grey = picture @ [0.299, 0.587, 0.114]
        for u in range(8):
            for v in range(8):
                total = sum(
                    grey[x, y] * cos(pi * u * (2 * x + 1) / 64) * cos(pi * v * (2 * y + 1) / 64)
                    for x in range(32)
                    for y in range(32)
                )
                bit = found >> (63 - 8 * u - v) & 1
                assert bit == (total > 1 and (u, v) != (0, 0))


def test_a_picture_without_contrast_has_no_bit_and_brightness_changes_none() -> None:
    plain = np.full((256, 32, 32, 3), np.arange(256, dtype=np.uint8)[:, None, None, None])
    assert not perceptual_hash(plain).any()
    pixels = scenery(20) // 2
    assert np.array_equal(perceptual_hash(pixels + 100), perceptual_hash(pixels))


@pytest.mark.parametrize("before", [False, True])
@given(data=st.data())
@settings(max_examples=20)
def test_candidates_are_all_pairs_within_seven_bits_once(before: bool, data: st.DataObject) -> None:
    """Against every pair counted one by one; hashes at 0 to 16 bits from a few, so that many pairs lie at the limit."""
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    centre = draw.integers(0, 2**64, 3, dtype=np.uint64)

    def hashes(n: int) -> NDArray[np.uint64]:
        flips = [sum(1 << int(bit) for bit in draw.permutation(64)[: draw.integers(0, 9)]) for _ in range(n)]
        return centre[draw.integers(0, 3, n)] ^ np.array(flips, dtype=np.uint64)

    ours = hashes(data.draw(st.integers(0, 40)))
    theirs = ours if before else hashes(data.draw(st.integers(0, 40)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "CANDIDATES", data.draw(st.sampled_from([1, 7, 1000])))
        parts = list(_candidates(ours, theirs, np.zeros(len(ours), dtype=np.bool_), before))
    found = [(i, j) for first, second in parts for i, j in zip(first.tolist(), second.tolist(), strict=True)]
    assert sorted(found) == [
        (i, j)
        for i, x in enumerate(ours.tolist())
        for j, y in enumerate(theirs.tolist())
        if (x ^ y).bit_count() <= 7 and (j < i or not before)
    ]


def test_rows_that_are_done_have_no_candidates() -> None:
    same, done = np.zeros(3, dtype=np.uint64), np.array([True, False, True])
    pairs = [(first.tolist(), second.tolist()) for first, second in _candidates(same, same, done, before=False)]
    assert [pair for pair in pairs if pair[0]] == [([1, 1, 1], [0, 1, 2])]


@given(st.lists(st.integers(0, 9)), st.integers(1, 20))
def test_pieces_hold_as_many_candidates_as_are_allowed_and_no_more(count: list[int], most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicates, "CANDIDATES", most)
        pieces = list(_pieces(np.array(count, dtype=np.int64)))
    assert [row for piece in pieces for row in range(piece.start, piece.stop)] == list(range(len(count)))
    for piece in pieces:
        assert sum(count[piece]) <= most or piece.stop - piece.start == 1
        assert piece.stop == len(count) or sum(count[piece.start : piece.stop + 1]) > most


def test_the_closest_is_named_with_the_mean_difference_worked_out_by_hand() -> None:
    """Of 3,072 values, 512 differ by 12: 2.0; all by 3: 3.0. The order is that of the first set."""
    pixels = scenery(5) // 2 + 60
    closer, farther = pixels[[3]].copy(), pixels[[3]] + np.uint8(3)
    closer.reshape(-1)[::6] += 12
    shown = held(np.concatenate([farther, closer, pixels[[1]]]))
    assert near_duplicates(held(pixels), shown) == [
        Duplicate("no. 1", "no. 2", 0.0),
        Duplicate("no. 3", "no. 1", 2.0),
    ]
    assert near_duplicates(shown, held(pixels)) == [
        Duplicate("no. 0", "no. 3", 3.0),
        Duplicate("no. 1", "no. 3", 2.0),
        Duplicate("no. 2", "no. 1", 0.0),
    ]


def test_the_closest_wins_wherever_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "CONFIRMED", 1)  # pair after pair
    pixels = scenery(1) // 2 + 60
    others = pixels + np.array([5, 3, 2, 4], dtype=np.uint8)[:, None, None, None]
    assert near_duplicates(held(pixels), held(others)) == [Duplicate("no. 0", "no. 2", 2.0)]


def test_within_a_set_each_is_compared_with_those_before_it() -> None:
    pixels = scenery(4) // 2 + 60
    copy = pixels[[2]] + np.uint8(2)
    found = near_duplicates(held(np.concatenate([pixels, copy, pixels[[0]]])))
    assert found == [Duplicate("no. 4", "no. 2", 2.0), Duplicate("no. 5", "no. 0", 0.0)]
    left = np.delete(np.concatenate([pixels, copy, pixels[[0]]]), [4, 5], axis=0)
    assert near_duplicates(held(left)) == []


@pytest.mark.parametrize(
    ("amplitude", "step", "near"), [(100, 16, True), (100, 17, False), (10, 5, True), (10, 6, False)]
)
def test_the_difference_may_be_sixteen_and_half_of_the_contrast(amplitude: int, step: int, near: bool) -> None:
    """A left half at 128 - amplitude, a right one at 128 + amplitude: the contrast is the amplitude. The other is
    brighter by `step`, which changes neither bits nor contrast."""
    dark = np.full((1, 32, 32, 3), 128 - amplitude, dtype=np.uint8)
    dark[:, :, 16:] = 128 + amplitude
    found = near_duplicates(held(dark), held(dark + np.uint8(step)))
    assert found == ([Duplicate("no. 0", "no. 0", float(step))] if near else [])


def test_the_flatter_of_two_sets_the_limit() -> None:
    """Contrasts 20 and 12, and 8 apart on every pixel: less than half of 20, more than half of 12."""
    steep, flat = np.full((2, 1, 32, 32, 3), 100, dtype=np.uint8)
    steep[:, :, 16:] = 140
    flat[:, :, :16], flat[:, :, 16:] = 108, 132
    assert perceptual_hash(steep) == perceptual_hash(flat)
    assert near_duplicates(held(steep), held(flat)) == near_duplicates(held(flat), held(steep)) == []


def test_plain_pictures_a_grey_level_apart_are_one_and_two_levels_apart_are_two() -> None:
    plain = np.full((1, 32, 32, 3), 90, dtype=np.uint8)
    assert near_duplicates(held(plain), held(plain + np.uint8(1))) == [Duplicate("no. 0", "no. 0", 1.0)]
    assert near_duplicates(held(plain), held(plain + np.uint8(2))) == []


def test_surfaces_of_little_contrast_are_not_paired_though_their_hashes_collide() -> None:
    """One faint shape of 8 grey levels under grain of +-4, finer than any coefficient sees: in each block of 2 x 2 a
    chessboard or its negative. Half of the blocks of two pictures differ, by 8: on average by 4, with a contrast of 4.
    """
    sign = np.random.default_rng(0).choice([-4, 4], (400, 16, 1, 16, 1, 1))
    grain = (sign * np.array([[1, -1], [-1, 1]])[:, None, :, None]).reshape(400, 32, 32, 1)
    surfaces = (100 + scenery(1) // 32 + grain).astype(np.uint8)
    hashes = perceptual_hash(surfaces)
    assert np.mean(np.bitwise_count(hashes[:, None] ^ hashes) <= 7) > 0.5
    assert near_duplicates(held(surfaces)) == []


def test_two_thousand_copies_of_one_picture_are_not_all_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared, plain = [], duplicates._difference
    monkeypatch.setattr(duplicates, "_difference", lambda x, y: (compared.append(len(x)), plain(x, y))[1])
    found = near_duplicates(held(np.repeat(scenery(1), 2000, axis=0)))
    assert [pair.first for pair in found] == [f"no. {row}" for row in range(1, 2000)]
    assert {pair.difference for pair in found} == {0.0}
    assert sum(compared) < 20_000  # of 2 million pairs


def test_the_sides_of_a_wide_picture_count_too() -> None:
    wide = np.concatenate([scenery(1, seed=seed) for seed in range(3)], axis=2)  # (1, 32, 96, 3)
    other = wide.copy()
    other[:, :, :32] = scenery(1, seed=9)
    assert len(near_duplicates(held(wide), held(wide))) == 1
    assert near_duplicates(held(wide), held(other)) == []


def test_a_set_without_images_has_no_duplicates() -> None:
    some, none = held(scenery(2)), held(scenery(2)[:0])
    assert near_duplicates(none) == near_duplicates(none, some) == near_duplicates(some, none) == []


def test_files_are_read_with_progress_and_unreadable_ones_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("spherood.progress.QUIET_SECONDS", 0.0)
    for name in ("train", "test"):
        (tmp_path / name).mkdir()
    for number, pixels in enumerate(scenery(4, side=90)):
        Image.fromarray(pixels).save(tmp_path / "train" / f"{number}.png")
    Image.fromarray(scenery(4, side=90)[2]).save(tmp_path / "test" / "a.jpg", quality=75)
    for broken in ("train/00.png", "test/0.png", "test/b.png"):
        (tmp_path / broken).write_bytes(b"")
    found = near_duplicates(read_folder(tmp_path / "test"), read_folder(tmp_path / "train"))
    assert [(pair.first, pair.second) for pair in found] == [("a.jpg", "2.png")]
    assert 0 < found[0].difference < 5
    told = capsys.readouterr()
    assert told.out == ""
    assert "reading test: 3/3 images" in told.err
    assert "reading train: 5/5 images" in told.err
    assert "comparing: 68/68 look-ups" in told.err  # 4 chunks x (itself and 16 flips) for one readable picture


COPIES: tuple[Callable[[Image.Image], Image.Image], ...] = (
    as_jpeg,
    lambda image: image,
    lambda image: resized(image, 0.9),
    lambda image: resized(image, 1.1),
    lambda image: as_jpeg(resized(image, 0.9)),
)


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("real")
    command = [sys.executable, shared_data / "unpack.py", place, "scenes", "steel", "flowers"]
    subprocess.run(command, check=True, capture_output=True)
    return place


@pytest.mark.parametrize("name", ["scenes", "steel", "flowers"])
def test_of_real_pictures_every_copy_is_found_and_no_two_are_paired(real: Path, name: str) -> None:
    images = Source(folder=name).load(real)
    assert near_duplicates(images) == []
    place = real / f"copies of {name}"
    place.mkdir()
    chosen = np.linspace(0, len(images) - 1, 40).astype(int)
    for row, copy in zip(chosen, 8 * COPIES, strict=True):
        copy(images.read(row)).save(place / f"{row:05}.png")
    found = near_duplicates(read_folder(place), images)
    assert [pair.second for pair in found] == [images.names[row] for row in chosen]
