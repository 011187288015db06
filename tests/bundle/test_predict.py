from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spherood.bundle import Bundle
from spherood.detectors import KNN, Detector, Mahalanobis
from spherood.errors import CalibrationError, ConfigError, ImageError, ShapeError

Pixels = NDArray[np.uint8]


def plain(*colour: int) -> Pixels:
    return np.full((2, 2, 3), colour, dtype=np.uint8)


def with_(bundle: Bundle, detector: Detector, **other: object) -> Bundle:
    return replace(bundle, runtime=replace(bundle.runtime, detector=detector), **other)


def test_the_score_and_the_three_nearest_training_images_are_those_of_the_planted_colours(colours: Bundle) -> None:
    (found,) = colours.predict([plain(0, 100, 10)])
    unit = np.array([0, 100, 10]) / np.hypot(100, 10)
    assert found.score == pytest.approx(((unit - [0, 1, 0]) ** 2).sum(), rel=1e-5)
    assert [near.name for near in found.neighbours] == ["green", "teal", "orange"]
    cosines = [unit @ [0, 1, 0], unit @ [0, 0.8, 0.6], unit @ [0.8, 0.6, 0]]
    assert [near.cosine for near in found.neighbours] == pytest.approx(cosines, rel=1e-5)


@pytest.mark.parametrize(("colour", "name"), [((200, 90, 90), "red"), ((90, 200, 90), "green"), ((9, 9, 10), "blue")])
def test_the_nearest_class_is_that_of_the_nearest_mean(
    colours: Bundle, colour: tuple[int, int, int], name: str
) -> None:
    assert colours.predict([plain(*colour)])[0].nearest_class == name


def test_a_p_value_counts_the_held_out_scores_that_are_at_least_as_high(colours: Bundle) -> None:
    near, far = colours.predict([plain(0, 100, 10), plain(100, 100, 100)])
    assert far.score > near.score > 0
    for found in (near, far):
        at_least = sum(score >= found.score for score in colours.held_out_score.tolist())
        assert found.p_value == (1 + at_least) / 71


def test_an_image_exactly_at_the_threshold_raises_no_alarm_and_one_just_above_does(colours: Bundle) -> None:
    image = plain(100, 100, 100)
    score = colours.predict([image])[0].score
    at = replace(colours, held_out_score=np.full(70, score)).predict([image])[0]
    assert (at.is_ood, at.threshold, at.p_value) == (False, score, 1.0)
    above = replace(colours, held_out_score=np.full(70, np.nextafter(score, 0))).predict([image])[0]
    assert (above.is_ood, above.p_value) == (True, 1 / 71)
    assert above.threshold < above.score == score


def test_the_reason_says_in_one_sentence_where_the_image_lies(colours: Bundle) -> None:
    image = plain(100, 100, 100)
    score = colours.predict([image])[0].score
    inside = replace(colours, held_out_score=np.r_[np.full(10, score / 2), np.full(60, score)]).predict([image])[0]
    assert inside.reason == "within the range of held-out images (14.3 % of them lie nearer); nearest class: red"
    outside = replace(colours, held_out_score=np.full(70, score / 2)).predict([image])[0]
    assert outside.reason == "farther from the training images than every held-out image; nearest class: red"


def test_another_false_alarm_rate_moves_the_threshold_and_nothing_else(colours: Bundle) -> None:
    image = plain(0, 100, 60)
    usual, loose = colours.predict([image])[0], colours.predict([image], false_alarm_rate=0.2)[0]
    assert usual.threshold == 0.69 == colours.threshold()  # of 70 scores, none may lie above it
    assert loose.threshold == 0.61 == colours.threshold(0.2)  # P(Bin(70, .2) <= 8) = .044; <= 9 is .086
    moved = replace(usual, is_ood=loose.is_ood, threshold=loose.threshold, reason=loose.reason)
    assert moved == loose


def test_a_rate_too_strict_for_the_held_out_images_is_refused_before_any_image(colours: Bundle) -> None:
    with pytest.raises(CalibrationError, match=r"rate of 0\.01 needs at least 299 held-out ID scores, got 70"):
        colours.predict(["absent.png"], false_alarm_rate=0.01)
    with pytest.raises(ConfigError, match="false_alarm_rate"):
        colours.predict([], false_alarm_rate=1.5)


def test_files_pictures_and_arrays_of_the_same_pixels_get_the_same_verdict(
    bundle: Bundle, noise: Pixels, tmp_path: Path
) -> None:
    expected = bundle.predict(list(noise))
    for row, pixels in enumerate(noise):
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
    paths = [tmp_path / f"{row}.png" for row in range(len(noise))]
    assert bundle.predict(paths) == expected
    assert bundle.predict([str(path) for path in paths]) == expected
    assert bundle.predict([Image.fromarray(pixels) for pixels in noise]) == expected
    assert bundle.predict(noise) == expected  # type: ignore[arg-type]


def test_grey_palette_and_transparent_pictures_are_read_as_the_colours_they_show(
    bundle: Bundle, tmp_path: Path
) -> None:
    grey = Image.fromarray(np.random.default_rng(5).integers(0, 256, (8, 8), dtype=np.uint8))
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(tmp_path / "palette.gif")
    opaque = grey.convert("RGBA")
    opaque.save(tmp_path / "opaque.png")
    (expected,) = bundle.predict([np.repeat(np.asarray(grey)[..., None], 3, axis=2)])
    files = [tmp_path / name for name in ("grey.png", "opaque.png", "palette.gif")]
    for found in [*bundle.predict(files), *bundle.predict([grey, opaque])]:
        assert found.score == pytest.approx(expected.score, rel=1e-5)


def test_a_large_picture_is_resized_by_the_bundles_own_rule(bundle: Bundle, tmp_path: Path) -> None:
    large = Image.fromarray(np.random.default_rng(6).integers(0, 256, (30, 50, 3), dtype=np.uint8))
    large.save(tmp_path / "large.png")
    by_hand = large.resize((13, 8), Image.Resampling.BILINEAR).crop((2, 0, 10, 8))
    (found,), (expected,) = bundle.predict([tmp_path / "large.png"]), bundle.predict([by_hand])
    assert found == expected
    stretched = replace(
        bundle, runtime=replace(bundle.runtime, preprocess=bundle.preprocess.model_copy(update={"resize": "stretch"}))
    )
    assert stretched.predict([large])[0].score != expected.score


def test_one_image_alone_and_many_in_several_batches_are_judged_alike(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, noise: Pixels
) -> None:
    together = bundle.predict(list(noise))
    assert [found.score for pixels in noise for found in bundle.predict([pixels])] == pytest.approx(
        [found.score for found in together], rel=1e-5
    )
    monkeypatch.setattr("spherood.bundle.bundle.BATCH", 2)
    in_batches = bundle.predict(list(noise))
    assert [found.score for found in in_batches] == pytest.approx([found.score for found in together], rel=1e-5)
    assert [found.nearest_class for found in in_batches] == [found.nearest_class for found in together]


def test_no_image_gives_no_verdict(bundle: Bundle) -> None:
    assert bundle.predict([]) == []


def test_a_file_that_cannot_be_read_is_named(bundle: Bundle, noise: Pixels, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(ImageError, match=r"broken\.png: not an image"):
        bundle.predict([noise[0], tmp_path / "broken.png"])
    with pytest.raises(ImageError, match=r"absent\.png: no such file"):
        bundle.predict([str(tmp_path / "absent.png")])


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 4), np.uint8), np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)),
     np.zeros((0, 8, 3), np.uint8)],
    ids=["grey", "four channels", "channels first", "floats", "no rows"],
)  # fmt: skip
def test_an_array_of_another_shape_or_type_is_refused_with_what_it_is(bundle: Bundle, wrong: Pixels) -> None:
    with pytest.raises(ShapeError) as caught:
        bundle.predict([wrong])
    assert f"expected uint8 RGB arrays (H, W, 3), got {wrong.dtype} {wrong.shape}" in str(caught.value)


def test_one_image_instead_of_a_list_is_told(bundle: Bundle) -> None:
    with pytest.raises(ShapeError, match=r"expected a list of images, got one: cat\.png\. Use predict\(\[image\]\)"):
        bundle.predict("cat.png")


def test_a_score_without_a_bank_has_no_neighbours_and_a_small_bank_has_few(
    colours: Bundle, make_bundle: Callable[..., Bundle]
) -> None:
    feature = (
        np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32) + np.eye(3, dtype=np.float32)[[0, 1] * 30]
    )
    detector = Mahalanobis().fit(feature, np.array([0, 1] * 30))
    assert with_(colours, detector).predict([plain(1, 2, 3)])[0].neighbours == ()
    assert replace(colours, bank_names=[]).predict([plain(1, 2, 3)])[0].neighbours == ()
    small = with_(colours, KNN(k=1).fit(np.eye(3, dtype=np.float32)[:2]), bank_names="ab")
    assert [near.name for near in small.predict([plain(1, 2, 0)])[0].neighbours] == ["b", "a"]
