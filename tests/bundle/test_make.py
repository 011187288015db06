"""The whole of `spherood fit` short of its printing: from files of features, and from folders of small pictures."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from spherood import calibration, metrics
from spherood.bundle import Bundle
from spherood.bundle.encoder import Encoder, origin_of
from spherood.bundle.make import Wanted, make
from spherood.bundle.manifest import Licences
from spherood.bundle.reading import Reader
from spherood.bundle.rows import Rows
from spherood.data import Preprocess
from spherood.detectors import KNN
from spherood.errors import BundleError, CalibrationError, ConfigError, DataError, ShapeError
from spherood.features import FeatureStore
from spherood.models import ModelSettings, build_model

Array = NDArray[Any]
SETTINGS = ModelSettings(encoder="resnet8", width=2, head="linear", dim=4, classifier=True)


def blobs(n: int, seed: int, dim: int = 6, shift: float = 0.0) -> Array:
    z = np.random.default_rng(seed).normal(size=(n, dim))
    return (np.eye(dim)[np.arange(n) % 3] + 0.2 * z + shift * np.eye(dim)[-1]).astype(np.float32)


@pytest.fixture
def plain(tmp_path: Path) -> Reader:
    return Reader(None, FeatureStore(tmp_path / "store"))


@pytest.fixture
def known(tmp_path: Path) -> Path:
    """300 rows in three classes, with names; five rows to a video."""
    name, label = np.array([f"k{row}" for row in range(300)]), np.array(["cat", "cow", "dog"] * 100)
    np.savez(tmp_path / "known.npz", feature=blobs(300, 0), name=name, label=label, video=np.arange(300) // 5)
    return tmp_path / "known.npz"


def saved(path: Path, feature: Array) -> Path:
    np.savez(path, feature=feature, name=np.array([f"{path.stem}{row}" for row in range(len(feature))]))
    return path


def test_a_file_of_features_becomes_a_bundle_whose_parts_share_no_row(known: Path, plain: Reader) -> None:
    made = make(Wanted(known), plain)
    parts = made.fitted.parts
    assert parts.choose is not None
    names = [set(part.names) for part in (parts.fit, parts.choose, parts.calibrate)]
    assert len(set.union(*names)) == sum(map(len, names)) == 300
    assert len(names[2]) == made.bundle.promise.held_out == 90
    assert (made.bundle.classes, made.bundle.runtime.model, made.test, dict(made.ood)) == (
        ("cat", "cow", "dog"),
        None,
        None,
        {},
    )
    assert (made.bundle.results.ood, made.bundle.results.notes) == ((), ())
    told = made.bundle.provenance
    assert told["known"] == str(known)
    sizes = f"fit {len(parts.fit)}, choose {len(parts.choose)}, calibrate 90"
    assert told["parts"] == f"{sizes} (seed 0)"
    assert re.fullmatch(r"AUROC against hidden classes: combined [01]\.\d{4}, knn:k=10 .*", told["score chosen by"])
    assert set(told) == {"known", "parts", "score chosen by"}
    assert list(made.bundle.bank_names) == list(parts.fit.names)
    assert made.bundle.predict(blobs(3, 9))[0].neighbours[0].name in names[0]


def test_everything_that_is_asked_for_reaches_the_bundle(known: Path, plain: Reader, tmp_path: Path) -> None:
    wanted = Wanted(
        known,
        held_out=saved(tmp_path / "new.npz", blobs(400, 1)),
        scores=["knn:k=2"],
        false_alarm_rate=0.02,
        confidence=0.9,
        review_rate=0.1,
        by_class=True,
        licences=Licences(data="CC BY 4.0"),
        seed=3,
    )
    made = make(wanted, plain)
    promise = made.bundle.promise
    assert (promise.false_alarm_rate, promise.confidence, promise.held_out) == (0.02, 0.9, 400)
    assert (promise.review_rate, promise.by_class, promise.pooled) == (0.1, True, ("cat", "cow", "dog"))  # 149 needed
    assert made.bundle.licences == wanted.licences
    assert len(made.bundle.runtime.detector.bank) == 300  # held-out rows come apart, and nothing is chosen
    assert made.bundle.provenance == {
        "known": str(known),
        "held-out": str(wanted.held_out),
        "parts": "fit 300, choose 0, calibrate 400 (seed 3)",
    }
    made.bundle.save(tmp_path / "bundle")
    assert Bundle.load(tmp_path / "bundle").predict(blobs(9, 5)) == made.bundle.predict(blobs(9, 5))


def test_without_labels_k_nn_is_taken(plain: Reader, tmp_path: Path) -> None:
    made = make(Wanted(saved(tmp_path / "bare.npz", blobs(200, 0))), plain)
    assert made.fitted.choice.chosen == "knn:k=10"
    assert made.bundle.provenance["parts"] == "fit 140, choose 0, calibrate 60 (seed 0)"
    other = make(Wanted(tmp_path / "bare.npz", seed=1), plain)
    assert set(other.fitted.parts.fit.names) != set(made.fitted.parts.fit.names)


def test_labels_may_lie_beside(plain: Reader, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", blobs(200, 0))
    np.save(tmp_path / "y.npy", np.arange(200) % 3)
    made = make(Wanted(tmp_path / "x.npy", labels=tmp_path / "y.npy", scores=["mahalanobis"]), plain)
    assert made.bundle.classes == ("0", "1", "2")


def test_the_table_is_that_of_the_bundle_and_copies_are_told(known: Path, plain: Reader, tmp_path: Path) -> None:
    fitted = blobs(300, 0)
    test = saved(tmp_path / "test.npz", blobs(150, 7))
    ood = {
        "far": saved(tmp_path / "far.npz", blobs(60, 3, shift=2)),
        "leak": saved(tmp_path / "leak.npz", np.concatenate([fitted[:300:10], blobs(5, 4, shift=2)])),
    }
    made = make(Wanted(known, scores=["knn:k=3"], test=test, ood=ood), plain)
    results = made.bundle.results
    assert made.test is not None
    assert (len(made.test), [len(rows) for rows in made.ood.values()]) == (150, [60, 35])
    for found, path in zip(results.ood, ood.values(), strict=True):
        verdicts = made.bundle.predict(np.load(path)["feature"])
        assert found.caught.value == np.mean([verdict.is_ood for verdict in verdicts])
    assert results.ood[0].caught.value == 1
    assert results.false_alarms is not None
    assert results.false_alarms.of == 150
    assert len(results.notes) == 2  # in the part to fit by, and in the one that calibrates
    counts = [re.match(r"(\d+) rows of the OOD source leak are copies of known ones \(leak\d+ = k\d+", note)
              for note in results.notes]  # fmt: skip
    assert sum(int(count[1]) for count in counts if count) == 30


def test_held_out_copies_of_fitted_rows_do_not_calibrate(known: Path, plain: Reader, tmp_path: Path) -> None:
    fresh = blobs(80, 1)
    leaked = saved(tmp_path / "new.npz", np.concatenate([fresh, blobs(300, 0)[:4]]))
    made = make(Wanted(known, held_out=leaked, scores=["knn:k=3"]), plain)
    expected = KNN(k=3).fit(blobs(300, 0)).score(fresh).double().numpy()
    np.testing.assert_allclose(made.bundle.held_out_score, expected, rtol=1e-6)
    assert made.bundle.promise.held_out == 80
    assert made.bundle.results.notes == (
        "4 held-out rows are copies of rows to fit by: taken out (new80 = k0, new81 = k1, new82 = k2, …).",
    )
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"would be told if it were read: too few are told first")
    few = saved(tmp_path / "few.npz", np.concatenate([fresh[:55], blobs(300, 0)[:10]]))
    with pytest.raises(CalibrationError, match=r"needs at least 59 held-out ID scores, got 55\. Collect 4 more"):
        make(Wanted(known, held_out=few, scores=["knn:k=3"], ood={"broken": broken}), plain)


@pytest.mark.parametrize("where", ["held_out", "test", "ood", "validation_ood"])
def test_features_of_another_width_are_refused_with_the_file_that_has_them(
    known: Path, plain: Reader, tmp_path: Path, where: str
) -> None:
    wide = saved(tmp_path / "wide.npz", blobs(80, 1, dim=7))
    given: Any = {where: {"wide": wide} if where.endswith("ood") else wide}
    with pytest.raises(
        ShapeError, match=f"^{wide}: features have 7 columns, the known ones 6. Use one encoder for both"
    ):
        make(Wanted(known, scores=["knn:k=3", "knn:k=4"], **given), plain)


def test_groups_stay_together_and_a_note_says_what_that_costs(known: Path, plain: Reader) -> None:
    made = make(Wanted(known, group_by="video", scores=["knn:k=3"]), plain)
    videos = [
        {int(name[1:]) // 5 for name in part.names} for part in (made.fitted.parts.fit, made.fitted.parts.calibrate)
    ]
    assert videos[0].isdisjoint(videos[1])
    assert made.bundle.results.notes == (
        "Groups were kept in one part. Images of one group are alike, and the confidence counts them as independent: "
        "it is too high for new groups, the more so the fewer there are.",
    )
    assert made.bundle.provenance["groups"] == "video"


def test_a_coreset_in_half_precision_tells_what_it_costs(known: Path, plain: Reader, tmp_path: Path) -> None:
    ood = {"far": saved(tmp_path / "far.npz", blobs(60, 3, shift=0.3))}
    whole, small = (make(Wanted(known, scores=["knn:k=3"], ood=ood, coreset=size, half=bool(size)), plain)
                    for size in (None, 21))  # fmt: skip
    bank = small.bundle.runtime.detector.bank
    assert (len(whole.bundle.runtime.detector.bank), len(bank), small.bundle.runtime.half) == (210, 21, True)
    assert (bank == bank.half().float()).all()
    score = small.fitted.parts.calibrate.scored(small.bundle.runtime.detector)
    np.testing.assert_array_equal(small.bundle.held_out_score, score)
    assert small.fitted.parts.fit.label is not None
    proportion = np.bincount(whole.fitted.parts.fit.label) / 10  # type: ignore[arg-type]
    assert (abs(np.bincount(small.fitted.parts.fit.label) - proportion) < 1).all()
    before, after = (100 * (one.bundle.results.ood[0].auroc or 0) for one in (whole, small))
    assert small.bundle.results.notes == (
        f"The smaller bank of 21 rows changes the AUROC: far {before:.2f} to {after:.2f}.",
    )
    assert whole.bundle.results.notes == ()
    unmeasured = make(Wanted(known, scores=["knn:k=3"], half=True), plain).bundle.results.notes
    assert unmeasured == ("What the smaller bank costs was not measured: give --ood sources.",)


def test_validation_ood_chooses_and_is_named(known: Path, plain: Reader, tmp_path: Path) -> None:
    ood = {"dusk": saved(tmp_path / "dusk.npz", blobs(60, 3, shift=1))}
    made = make(Wanted(known, scores=["knn:k=1", "mahalanobis"], validation_ood=ood), plain)
    auroc = made.fitted.choice.auroc
    assert made.fitted.choice.chosen == max(auroc, key=lambda name: auroc[name])
    assert made.bundle.provenance["score chosen by"].startswith("AUROC against dusk: knn:k=1 ")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"false_alarm_rate": 5}, r"spherood fit: false_alarm_rate must lie strictly between 0 and 1, got 5\."),
        ({"confidence": 1.0}, r"spherood fit: confidence must lie strictly between 0 and 1, got 1\."),
        (
            {"review_rate": 0.05},
            r"spherood fit: the review rate 0\.05 must be larger than the false-alarm rate 0\.05\.",
        ),
        ({"review_rate": 1.5}, r"spherood fit: review_rate must lie strictly between 0 and 1"),
    ],
)
def test_a_wrong_setting_is_told_before_a_path_is_looked_at(plain: Reader, settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(Wanted(Path("absent.npz"), **settings), plain)


@pytest.mark.parametrize("where", ["held_out", "test", "ood", "validation_ood"])
def test_a_path_that_is_not_there_is_told_before_any_work(plain: Reader, tmp_path: Path, where: str) -> None:
    broken, gone = tmp_path / "broken.npz", tmp_path / "gone.npz"
    broken.write_bytes(b"would be told if it were read")
    given: Any = {where: {"gone": gone} if where.endswith("ood") else gone}
    with pytest.raises(DataError, match=f"^{gone}: no such file or folder"):
        make(Wanted(broken, **given), plain)


def test_too_few_for_two_thresholds_are_counted_for_both(plain: Reader, tmp_path: Path) -> None:
    """Each threshold gets half of the doubt: 72 held-out rows instead of 59."""
    assert [calibration.least_held_out(0.05, confidence) for confidence in (0.95, 0.975)] == [59, 72]
    path = saved(tmp_path / "some.npz", blobs(220, 0))
    assert make(Wanted(path), plain).bundle.promise.held_out == 66
    with pytest.raises(CalibrationError, match=r"with confidence 0\.975 needs 72\. Give 240 rows or more"):
        make(Wanted(path, review_rate=0.2), plain)


def picture(kind: int, seed: int) -> Image.Image:
    """Stripes of one of two directions in random colours, 60 px; kind 2: a checkerboard."""
    rng = np.random.default_rng(1000 * kind + seed)
    fore, back = rng.integers(0, 256, (2, 3))
    x, y = np.meshgrid(np.arange(60), np.arange(60))
    on = [x // 12 % 2, y // 12 % 2, (x // 12 + y // 12) % 2][kind]
    noise = rng.integers(-9, 9, (60, 60, 3))
    return Image.fromarray(np.clip(np.where(on[..., None], fore, back) + noise, 0, 255).astype(np.uint8))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """known: 100 across, 100 along; boards: 20."""
    place = tmp_path_factory.mktemp("photos")
    for folder, kind, count in (("known/across", 0, 100), ("known/along", 1, 100), ("boards", 2, 20)):
        (place / folder).mkdir(parents=True)
        for seed in range(count):
            picture(kind, seed).save(place / folder / f"{seed}.png")
    return place


@pytest.fixture
def images(tmp_path: Path) -> Reader:
    model = build_model(SETTINGS, 2)
    encoder = Encoder("tiny", model, Preprocess(size=8), None, origin_of(SETTINGS, 2))
    return Reader(encoder, FeatureStore(tmp_path / "store"), tmp_path)


def test_folders_of_images_become_a_bundle_that_says_of_a_file_what_was_measured(
    photos: Path, images: Reader, tmp_path: Path
) -> None:
    wanted = Wanted(photos / "known", ood={"boards": photos / "boards"}, scores=["knn:k=2"], thumbnails=True)
    made = make(wanted, images)
    made.bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    (found,) = made.bundle.results.ood
    verdicts = loaded.predict(sorted((photos / "boards").glob("*.png")))
    assert (found.caught.of, found.caught.value) == (20, np.mean([verdict.is_ood for verdict in verdicts]))
    assert made.bundle.results == loaded.results
    assert loaded.classes == ("across", "along")
    assert loaded.provenance["model"] == "tiny"

    calibrating = made.fitted.parts.calibrate
    paths = [photos / "known" / name for name in calibrating.names]
    score = [verdict.score for verdict in loaded.predict(paths)]
    np.testing.assert_allclose(score, loaded.held_out_score, rtol=1e-4, atol=1e-6)
    assert len(paths) == 60

    (verdict,) = loaded.predict([photos / "known" / made.fitted.parts.fit.names[5]])
    nearest = verdict.neighbours[0]
    assert (nearest.name, nearest.row) == (made.fitted.parts.fit.names[5], 5)
    small, whole = loaded.thumbnail(nearest), Image.open(photos / "known" / nearest.name).resize((48, 48))
    assert small.size == (48, 48)
    assert abs(np.asarray(small).astype(int) - np.asarray(whole)).mean() < 15  # JPEG


def test_maximum_softmax_stands_beside_where_the_network_has_a_classifier(photos: Path, images: Reader) -> None:
    made = make(Wanted(photos / "known", ood={"boards": photos / "boards"}, scores=["knn:k=2"]), images)
    assert made.fitted.msp is not None
    msp = made.bundle.results.ood[0].msp
    assert msp is not None
    logits = made.ood["boards"].outputs.logits
    assert logits is not None
    score = -logits.double().softmax(dim=1).amax(dim=1).numpy()
    assert msp.value == np.mean(score > calibration.threshold(made.fitted.msp))


def test_a_saved_again_copy_among_the_held_out_images_is_taken_out(
    photos: Path, images: Reader, tmp_path: Path
) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for seed in range(60):
        picture(seed % 2, 500 + seed).save(new / f"{seed}.png")
    picture(0, 7).save(new / "copy.jpg", quality=90)
    made = make(Wanted(photos / "known", held_out=new, scores=["knn:k=2"]), images)
    assert made.bundle.promise.held_out == 60
    assert made.bundle.results.notes == (
        "1 held-out rows are copies of rows to fit by: taken out (copy.jpg = across/7.png).",
    )


def test_the_classifier_reaches_the_score_and_a_score_of_logits_reads_them(
    photos: Path, images: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert images.encoder is not None
    seen: list[Any] = []
    fit = KNN.fit

    def look(self: KNN, x: Any, label: Any = None, classifier: Any = None) -> KNN:
        seen.append(classifier)
        return fit(self, x, label, classifier)

    monkeypatch.setattr(KNN, "fit", look)
    make(Wanted(photos / "known", scores=["knn:k=2"]), images)
    assert seen == [images.encoder.model.classifier]
    made = make(Wanted(photos / "known", scores=["msp"], ood={"boards": photos / "boards"}), images)
    assert (made.bundle.runtime.detector.reads, made.bundle.runtime.detector.width) == ("logits", None)
    (found,) = made.bundle.results.ood
    assert found.msp == found.caught


def test_the_auroc_of_the_table_is_against_the_images_that_calibrate(photos: Path, images: Reader) -> None:
    made = make(Wanted(photos / "known", ood={"boards": photos / "boards"}, scores=["knn:k=2"]), images)
    boards: Rows = made.ood["boards"]
    expected = metrics.auroc(made.bundle.held_out_score, boards.scored(made.bundle.runtime.detector))
    assert made.bundle.results.ood[0].auroc == expected


def test_images_without_an_encoder_and_features_with_one_are_refused(
    photos: Path, known: Path, images: Reader, plain: Reader
) -> None:
    with pytest.raises(ConfigError, match="images need an encoder"):
        make(Wanted(photos / "known"), plain)
    with pytest.raises(ConfigError, match="features need no encoder"):
        make(Wanted(known), images)


def test_a_bundle_made_of_a_network_without_a_way_back_cannot_be_saved(
    photos: Path, images: Reader, tmp_path: Path
) -> None:
    assert images.encoder is not None
    bare = Reader(Encoder("mine", images.encoder.model, images.encoder.preprocess), images.store, images.root)
    made = make(Wanted(photos / "known", scores=["knn:k=2"]), bare)

    with pytest.raises(BundleError, match="the network came as an object"):
        made.bundle.save(tmp_path / "bundle")


def test_a_score_of_layers_is_chosen_fitted_and_shipped_as_any_other(
    photos: Path, images: Reader, tmp_path: Path
) -> None:
    wanted = Wanted(photos / "known", ood={"boards": photos / "boards"}, scores=["layers", "knn:k=2"])
    made = make(wanted, images)
    assert list(made.fitted.choice.auroc) == ["layers", "knn:k=2"]
    alone = make(Wanted(photos / "known", scores=["layers"]), images)
    alone.bundle.save(tmp_path / "bundle")
    loaded = Bundle.load(tmp_path / "bundle")
    calibrating = alone.fitted.parts.calibrate
    score = [one.score for one in loaded.predict([photos / "known" / name for name in calibrating.names])]
    np.testing.assert_allclose(score, loaded.held_out_score, rtol=1e-3, atol=1e-4)
    assert "on the layers" in (tmp_path / "bundle" / "README.md").read_text(encoding="utf-8")


def test_a_file_of_features_has_no_layers(known: Path, plain: Reader) -> None:
    with pytest.raises(ConfigError, match=r"Layers\.fit: reads layers, which this model does not have"):
        make(Wanted(known, scores=["layers"]), plain)
