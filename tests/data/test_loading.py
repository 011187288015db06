from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from spherood.data import ImageSet, Preprocess
from spherood.data.folders import read_folder
from spherood.data.loading import AHEAD, blocks

Picture = Callable[..., Path]
PREPROCESS = Preprocess(size=4)


@pytest.fixture
def eleven(tmp_path: Path, picture: Picture) -> ImageSet:
    for number in range(11):
        picture(f"{number:02}.png", (7, 5), seed=number)
    return read_folder(tmp_path)


@pytest.mark.parametrize("size", [1, 3, 11, 20])
@pytest.mark.parametrize("start", [0, 4])
def test_blocks_hold_every_image_once_and_in_order(eleven: ImageSet, size: int, start: int) -> None:
    found = list(blocks(eleven, PREPROCESS, size, start=start))
    assert [block.start for block in found] == list(range(start, 11, size))
    assert {len(block.pixels) for block in found[:-1]} <= {size}
    expected = np.stack([PREPROCESS.pixels(eleven.read(row)) for row in range(start, 11)])
    assert np.array_equal(np.concatenate([block.pixels for block in found]), expected)
    assert not any(block.unreadable for block in found)


def test_an_unreadable_image_holds_zeros_and_is_listed_with_its_reason(eleven: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "04.png").write_bytes(b"")
    (tmp_path / "09.png").unlink()
    found = list(blocks(eleven, PREPROCESS, 3))
    assert [list(block.unreadable) for block in found] == [[], [4], [], [9]]
    assert found[1].unreadable[4] == f"{tmp_path / '04.png'}: not an image that Pillow can read."
    assert not found[1].pixels[1].any()
    assert np.array_equal(found[1].pixels[2], PREPROCESS.pixels(eleven.read(5)))


def test_decoding_runs_ahead_by_a_few_blocks_and_not_through_the_whole_set(
    eleven: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, plain = [], ImageSet.read
    monkeypatch.setattr(ImageSet, "read", lambda images, row: (read.append(row), plain(images, row))[1])
    stream = blocks(eleven, PREPROCESS, 1)
    next(stream)
    stream.close()
    assert 1 <= len(read) <= AHEAD + 1


def test_a_bug_while_reading_is_not_swallowed(eleven: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageSet, "read", lambda images, row: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(blocks(eleven, PREPROCESS, 3))
