from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spherood.bundle.encoder import Encoder
from spherood.bundle.fit import Parts
from spherood.bundle.hygiene import check_unseen, copied, copies_in_ood, without_copies
from spherood.bundle.rows import Rows
from spherood.data import Preprocess
from spherood.data.folders import read_folder
from spherood.data.source import Source
from spherood.errors import DataError
from spherood.outputs import Outputs

Array = NDArray[Any]


def features(n: int, seed: int, dim: int = 6) -> Array:
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def rows(feature: Array, names: Sequence[str] = ()) -> Rows:
    return Rows("rows", Outputs(torch.from_numpy(feature)), names=names)


def named(letter: str, n: int) -> list[str]:
    return [f"{letter}{row}" for row in range(n)]


FIT, CHOOSE, HELD_OUT = features(20, 0), features(10, 1), features(60, 2)


def test_held_out_features_that_equal_fitted_ones_are_taken_out_and_named() -> None:
    held_out = HELD_OUT.copy()
    held_out[[3, 7]] = FIT[[11, 2]]
    held_out[5] = CHOOSE[4]
    parts = Parts(rows(FIT, named("f", 20)), rows(CHOOSE, named("c", 10)), rows(held_out, named("h", 60)))
    found, notes = without_copies(parts)
    assert list(found.calibrate.names) == [f"h{row}" for row in range(60) if row not in (3, 5, 7)]
    assert (found.fit, found.choose) == (parts.fit, parts.choose)
    assert notes == [
        "2 held-out rows are copies of rows to fit by: taken out (h3 = f11, h7 = f2).",
        "1 held-out rows are copies of rows to choose by: taken out (h5 = c4).",
    ]


def test_without_copies_nothing_is_taken_out_and_nothing_told() -> None:
    parts = Parts(rows(FIT), None, rows(HELD_OUT))
    found, notes = without_copies(parts)
    assert found.calibrate is parts.calibrate
    assert notes == []


@pytest.mark.parametrize(("relative", "same"), [(0.0, True), (0.9e-4, True), (1.1e-4, False)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_copy_differs_by_at_most_a_ten_thousandth_of_its_length(relative: float, same: bool, scale: float) -> None:
    feature = scale * FIT[:1].astype(np.float64)
    turned = np.roll(feature, 1)
    across = turned - feature * (turned @ feature.T) / (feature @ feature.T)  # at a right angle
    moved = feature + relative * across * np.linalg.norm(feature) / np.linalg.norm(across)
    beside = rows(np.concatenate([moved, 1e3 * scale * CHOOSE]))  # longer rows do not blur it
    assert copied(beside, rows(np.concatenate([scale * CHOOSE, feature])))[0].tolist() == [same, *[False] * 10]
    assert copied(rows((1 + relative) * feature), rows(feature))[0].tolist() == [same]


def test_the_same_direction_at_another_length_is_no_copy() -> None:
    assert not copied(rows(2 * FIT), rows(FIT))[0].any()


def test_names_are_shown_where_both_sides_have_them() -> None:
    for ours, theirs in ((named("a", 20), []), ([], named("b", 20)), ([], [])):
        same, pairs = copied(rows(FIT, ours), rows(FIT, theirs))
        assert same.all()
        assert pairs == []


def test_of_many_copies_three_are_named() -> None:
    parts = Parts(rows(FIT, named("f", 20)), None, rows(FIT[:4], named("h", 4)))
    found, notes = without_copies(parts)
    assert len(found.calibrate) == 0
    assert notes[0] == "4 held-out rows are copies of rows to fit by: taken out (h0 = f0, h1 = f1, h2 = f2, …)."
    three = Parts(rows(FIT, named("f", 20)), None, rows(FIT[:3], named("h", 3)))
    assert without_copies(three)[1][0].endswith("(h0 = f0, h1 = f1, h2 = f2).")


@pytest.mark.parametrize(("copies", "many"), [(3, False), (4, True)])
def test_where_more_than_one_in_twenty_is_taken_out_it_is_asked_whether_they_are_copies(
    copies: int, many: bool
) -> None:
    held_out = rows(np.concatenate([FIT[:copies], features(60 - copies, 3)]))
    _, notes = without_copies(Parts(rows(FIT), None, held_out))
    assert len(notes) == 1 + many
    assert notes[-1].startswith("So many are rarely copies: ") == many


def test_ood_that_is_a_copy_of_anything_known_is_told() -> None:
    parts = Parts(rows(FIT, named("f", 20)), rows(CHOOSE, named("c", 10)), rows(HELD_OUT, named("h", 60)))
    ood = {
        "clean": rows(features(9, 4)),
        "night": rows(np.concatenate([features(3, 5), FIT[:2]]), named("n", 5)),
        "fog": rows(np.concatenate([HELD_OUT[:1], features(3, 6)])),
        "rain": rows(CHOOSE[:3]),
    }
    rest = ": they cannot be told apart, and count as missed."
    assert copies_in_ood(parts, ood) == [
        f"2 rows of the OOD source night are copies of known ones (n3 = f0, n4 = f1){rest}",
        f"1 rows of the OOD source fog are copies of known ones{rest}",
        f"3 rows of the OOD source rain are copies of known ones{rest}",
    ]


def picture(seed: int) -> Image.Image:
    """A smooth picture of 32 px, unlike that of any other seed."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((32, 32), Image.Resampling.BICUBIC)


def photos(folder: Path, pictures: dict[str, Image.Image], **kwargs: Any) -> Rows:
    for name, image in pictures.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name, **kwargs)
    images = read_folder(folder)
    return Rows(folder.name, Outputs(torch.from_numpy(features(len(images), 9))), names=images.names, images=images)


def test_a_saved_again_and_a_resized_copy_of_an_image_are_found_by_what_they_show(tmp_path: Path) -> None:
    known = photos(tmp_path / "fit", {f"{seed}.png": picture(seed) for seed in range(8)})
    held_out = {f"x{seed}.jpg": picture(seed) for seed in range(20, 26)}
    held_out |= {"saved.jpg": picture(3), "large.jpg": picture(5).resize((64, 64))}
    parts, notes = without_copies(Parts(known, None, photos(tmp_path / "new", held_out, quality=85)))
    assert list(parts.calibrate.names) == [f"x{seed}.jpg" for seed in range(20, 26)]
    assert parts.calibrate.images is not None
    assert len(parts.calibrate.images) == len(parts.calibrate.outputs.feature) == 6
    assert notes[0] == "2 held-out rows are copies of rows to fit by: taken out (large.jpg = 5.png, saved.jpg = 3.png)."
    ood = {"moon": photos(tmp_path / "moon", {"m.jpg": picture(0), "other.jpg": picture(30)}, quality=85)}
    assert copies_in_ood(parts, ood) == [
        "1 rows of the OOD source moon are copies of known ones (m.jpg = 0.png): they cannot be told apart, and count "
        "as missed."
    ]


def test_images_that_trained_the_encoder_calibrate_nothing(tmp_path: Path) -> None:
    photos(tmp_path / "train", {f"cat/{seed}.png": picture(seed) for seed in range(4)})
    seen = photos(tmp_path / "train", {"new/a.png": picture(30)})
    source = Source.model_validate({"folder": "train", "classes": ["cat"]})
    fresh = photos(tmp_path / "fresh", {f"{seed}.png": picture(seed) for seed in range(40, 44)})
    encoder = Encoder("mine", torch.nn.Identity(), Preprocess(), None, None, source)
    with pytest.raises(DataError, match=r"^4 of 5 held-out images trained mine, first cat/0\.png: it knows them too "):
        check_unseen(seen, encoder, tmp_path)
    check_unseen(fresh, encoder, tmp_path)
    check_unseen(seen, encoder, tmp_path / "elsewhere")  # what trained it is not there
    check_unseen(seen, Encoder("other", torch.nn.Identity(), Preprocess()), tmp_path)
    check_unseen(rows(FIT), encoder, tmp_path)
    check_unseen(seen, None, tmp_path)
