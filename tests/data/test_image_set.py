from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spherood.data import ImageSet
from spherood.data.folders import read_folder
from spherood.data.image_set import PARTS
from spherood.errors import DataError

Picture = Callable[..., Path]


def made(label: list[int], classes: tuple[str, ...] = ("a", "b", "c")) -> ImageSet:
    """Images of 2 x 2 pixels, whose first pixel holds their number."""
    pixels = np.zeros((len(label), 2, 2, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(len(label))
    return ImageSet(
        "made", pixels, np.array(label, dtype=np.int64), [f"no. {row}" for row in range(len(label))], classes
    )


def numbers(images: ImageSet) -> list[int]:
    return [int(np.asarray(images.read(row))[0, 0, 0]) for row in range(len(images))]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-1, 2), min_size=1, max_size=60))
def test_parts_are_disjoint_complete_stratified_and_the_same_at_every_call(label: list[int]) -> None:
    images = made(label)
    parts = {part: images.part(part) for part in PARTS}
    assert sorted(number for part in parts.values() for number in numbers(part)) == list(range(len(label)))
    for part, found in parts.items():
        assert numbers(found) == numbers(images.part(part))
        assert [label[number] for number in numbers(found)] == found.label.tolist()
        assert found.names == [f"no. {number}" for number in numbers(found)]
        share = PARTS[part][1] - PARTS[part][0]
        for class_ in set(label):
            assert abs((found.label == class_).sum() - share * label.count(class_)) <= 1


def test_a_part_is_drawn_not_cut() -> None:
    assert numbers(made([0] * 100).part("train")) != list(range(60))
    assert len(made([0] * 100).part("train")) == 60
    assert len(made([0] * 100).part("validation")) == 20


def test_a_subset_keeps_the_order_asked_for(tmp_path: Path, picture: Picture) -> None:
    assert numbers(made([0, 1, 2]).subset(np.array([2, 0, 2]))) == [2, 0, 2]
    for number in range(3):
        picture(f"{number}.png")
    assert read_folder(tmp_path).subset(np.array([2, 0])).images == [tmp_path / "2.png", tmp_path / "0.png"]


def test_kept_classes_are_numbered_in_the_order_given() -> None:
    kept = made([0, 1, 2, -1, 2, 0]).keep_classes(["c", "a"])
    assert numbers(kept) == [0, 2, 4, 5]  # the order of the images stays; label -1 goes
    assert kept.label.tolist() == [1, 0, 0, 1]
    assert kept.classes == ("c", "a")


def test_an_unknown_class_is_told_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"made: there is no class 'd'\. Classes: a, b, c\."):
        made([0]).keep_classes(["a", "d"])


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (made([0, 0], ("a",)), "training needs at least two classes, found 1. Put the images of each class into a"),
        (made([-1, -1], ()), "training needs at least two classes, found 0"),
        (made([0, 2, 2]), "class 'b' has no image. Add some, or remove the class."),
        (made([0, 1, 3]), "labels run 0..3, expected 0..2."),
        (made([0, -1, 1, 2]), "labels run -1..2, expected 0..2."),
        (made([]), "class 'a' has no image"),
        (made([1]).keep_classes(["a", "c"]).part("train"), "class 'a' has no image"),
    ],
    ids=["one class", "no labels", "a class without image", "too high", "unknown", "empty", "all left out"],
)
def test_classes_that_cannot_be_trained_are_told(images: ImageSet, message: str) -> None:
    with pytest.raises(DataError) as told:
        images.check_classes("training")
    assert str(told.value).startswith(f"made: {message}")


def test_classes_in_order_pass() -> None:
    made([2, 1, 0, 1]).check_classes("training")


def test_the_fingerprint_follows_the_pixels_and_not_the_labels_or_names() -> None:
    images = made([0, 1, 2])
    assert replace(images, label=images.label + 1, names=["x"] * 3, name="y").fingerprint() == images.fingerprint()
    assert made([0, 1]).fingerprint() != images.fingerprint()
    assert images.subset(np.array([1, 0, 2])).fingerprint() != images.fingerprint()
    assert replace(images, images=images.images.reshape(3, 4, 1, 3)).fingerprint() != images.fingerprint()  # type: ignore[union-attr]
    other = images.images.copy()  # type: ignore[union-attr]
    other[2, 1, 1, 2] ^= 1
    assert replace(images, images=other).fingerprint() != images.fingerprint()


def test_the_fingerprint_follows_a_change_of_any_file(tmp_path: Path, picture: Picture) -> None:
    first, second = picture("a.png"), picture("b.png", seed=1)
    prints = [read_folder(tmp_path).fingerprint()]
    assert read_folder(tmp_path).fingerprint() == prints[0]
    second.write_bytes(second.read_bytes()[:-1] + b"x")
    prints.append(read_folder(tmp_path).fingerprint())
    listed = read_folder(tmp_path)
    first.unlink()
    prints.append(listed.fingerprint())  # a file gone since it was listed
    assert len(set(prints)) == 3


def test_the_fingerprint_follows_path_size_and_both_times_of_a_file(
    tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = picture("a.png")
    (tmp_path / "b.png").hardlink_to(file)  # another path, all else alike
    a, b = (read_folder(tmp_path).subset(np.array([row])) for row in range(2))
    assert a.fingerprint() != b.fingerprint()
    prints = set()
    for changed in ("nothing", "st_size", "st_mtime_ns", "st_ctime_ns"):
        status = SimpleNamespace(**{"st_size": 1, "st_mtime_ns": 1, "st_ctime_ns": 1, changed: 2})
        monkeypatch.setattr(Path, "stat", lambda path, status=status, **_: status)
        prints.add(a.fingerprint())
    assert len(prints) == 4


def test_the_first_of_each_class_come_in_the_order_of_the_set() -> None:
    images = made([2, 0, -1, 1, 0, 2, 1, 2, 0])
    found = images.first_of_each_class(2)
    assert numbers(found) == [0, 1, 3, 4, 5, 6]  # label -1 goes
    assert found.label.tolist() == [2, 0, 1, 0, 2, 1]
    assert found.classes == ("a", "b", "c")


def test_a_class_with_fewer_images_is_told_with_their_number() -> None:
    with pytest.raises(DataError, match=r"made: class 'b' has 1 images, expected 2\. Ask for fewer\."):
        made([0, 1, 0, 2, 2]).first_of_each_class(2)
    with pytest.raises(DataError, match=r"made: no classes to take 2 images of each from\. Label them, or use draw\."):
        made([-1, -1], ()).first_of_each_class(2)


def test_a_draw_is_random_without_repeats_in_order_and_the_same_at_every_call() -> None:
    images = made([0] * 100)
    drawn = numbers(images.draw(30))
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 30
    assert drawn != list(range(30))
    assert max(drawn) > 50
    assert numbers(images.draw(30)) == drawn


def test_a_draw_of_as_many_or_more_is_the_whole_set() -> None:
    for n in (3, 4):
        assert numbers(made([0, 1, 2]).draw(n)) == [0, 1, 2]
