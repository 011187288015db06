"""Bundles that read features: made from arrays, asked in every form that features come in, saved and loaded."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file
from sklearn.ensemble import IsolationForest

import spherood.bundle.bundle as module
from spherood import calibration
from spherood.bundle import Bundle, Promise, Score, read_manifest
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data.image_set import ImageSet
from spherood.detectors import KNN, MSP, Combined, Layers
from spherood.errors import BundleError, CalibrationError, ConfigError, ShapeError
from spherood.outputs import Outputs

Array = NDArray[Any]


def blobs(n: int, seed: int, dim: int = 5, classes: int = 3) -> tuple[Array, Array]:
    """Feature (n, dim) and label (n,), float32."""
    label = np.arange(n) % classes
    noise = np.random.default_rng(seed).normal(size=(n, dim))
    return (2 * np.eye(dim)[label] + 0.4 * noise).astype(np.float32), label


NEW = blobs(9, 5)[0] + np.float32(0.5) * np.arange(9, dtype=np.float32)[:, None]  # the last ones are far away


@pytest.fixture(scope="module")
def fitted() -> Bundle:
    return Bundle.fit(*blobs(300, 0), score="knn:k=5")


def test_three_tenths_calibrate_and_the_rest_is_the_bank(fitted: Bundle) -> None:
    assert (len(fitted.held_out_score), len(fitted.runtime.detector.bank)) == (90, 210)
    assert fitted.promise == Promise(false_alarm_rate=0.05, confidence=0.95, held_out=90)
    assert fitted.threshold() == calibration.threshold(fitted.held_out_score, 0.05, 0.95)
    assert (fitted.classes, fitted.runtime.model, fitted.preprocess, fitted.runtime.origin) == (
        ("0", "1", "2"),
        None,
        None,
        None,
    )


def test_held_out_features_calibrate_and_every_other_row_is_fitted() -> None:
    feature, held_out = blobs(40, 0)[0], blobs(299, 1)[0]
    found = Bundle.fit(feature, score="knn:k=3", held_out=held_out, false_alarm_rate=0.02, confidence=0.9)
    assert len(found.runtime.detector.bank) == 40
    np.testing.assert_array_equal(found.held_out_score, KNN(k=3).fit(feature).score(held_out).double().numpy())
    assert found.promise == Promise(false_alarm_rate=0.02, confidence=0.9, held_out=299)
    assert (found.classes, found.class_mean) == ((), None)
    assert {verdict.nearest_class for verdict in found.predict(NEW)} == {None}


def test_without_a_score_one_is_chosen_by_what_there_is() -> None:
    assert isinstance(Bundle.fit(*blobs(300, 0)).runtime.detector, Combined)
    plain = Bundle.fit(blobs(300, 0)[0])
    assert plain.score == Score.model_validate({"use": "knn", "with": {"k": 10}})


def test_another_seed_draws_other_parts() -> None:
    one, same, other = (Bundle.fit(blobs(200, 0)[0], score="knn:k=1", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.held_out_score, same.held_out_score)
    assert (one.held_out_score != other.held_out_score).any()


def test_too_few_features_are_refused_with_the_number_that_would_do() -> None:
    with pytest.raises(CalibrationError, match=r"known: of 100 rows 30 \(30 %\) would calibrate.* Give 197 rows or mo"):
        Bundle.fit(*blobs(100, 0))
    assert Bundle.fit(*blobs(197, 0), score="knn:k=1").promise.held_out >= 59


def test_a_score_and_a_verdict_are_those_of_the_detector_and_the_threshold(fitted: Bundle) -> None:
    found = fitted.predict(NEW)
    score = fitted.runtime.detector.score(NEW).double().numpy()
    np.testing.assert_allclose([verdict.score for verdict in found], score, rtol=1e-6)
    assert [verdict.is_ood for verdict in found] == (score > fitted.threshold()).tolist()
    assert len({verdict.is_ood for verdict in found}) == 2
    p = [(1 + np.count_nonzero(fitted.held_out_score >= one)) / 91 for one in score]
    assert [verdict.p_value for verdict in found] == pytest.approx(p)
    assert [verdict.nearest_class for verdict in found[:3]] == ["0", "1", "2"]


FORMS: dict[str, Callable[[Array], Any]] = {
    "tensor": torch.from_numpy,
    "outputs": lambda x: Outputs(torch.from_numpy(x)),
    "float64": lambda x: x.astype(np.float64),
    "float64 tensor": lambda x: torch.from_numpy(x).double(),
    "part of a graph": lambda x: torch.from_numpy(x).requires_grad_(),
    "column order": np.asfortranarray,
    "reversed twice": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.filterwarnings("error")
def test_features_in_any_form_get_the_same_verdicts(fitted: Bundle, form: Callable[[Array], Any]) -> None:
    expected, found = fitted.predict(NEW), fitted.predict(form(NEW))
    assert [verdict.score for verdict in found] == pytest.approx([verdict.score for verdict in expected], rel=1e-5)
    for one, other in zip(found, expected, strict=True):
        assert (one.is_ood, one.nearest_class, one.p_value) == (other.is_ood, other.nearest_class, other.p_value)


@pytest.mark.parametrize("name", sorted(set(FORMS) - {"outputs"}))
@pytest.mark.filterwarnings("error")
def test_features_in_any_form_are_fitted_alike(name: str) -> None:
    feature, label = blobs(300, 0)
    form = FORMS[name]
    expected, found = (Bundle.fit(x, label, score="knn:k=5") for x in (feature, form(feature)))
    np.testing.assert_allclose(found.held_out_score, expected.held_out_score, rtol=1e-5)


def test_half_precision_features_are_taken(fitted: Bundle) -> None:
    found = fitted.predict(NEW.astype(np.float16))
    assert [verdict.score for verdict in found] == pytest.approx([v.score for v in fitted.predict(NEW)], rel=0.02)


def test_verdicts_do_not_depend_on_how_rows_are_batched(fitted: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    together = fitted.predict(NEW)
    monkeypatch.setattr(module, "FEATURE_BATCH", 2)
    for x in (NEW, Outputs(torch.from_numpy(NEW))):
        found = fitted.predict(x)
        assert [verdict.score for verdict in found] == pytest.approx([it.score for it in together], rel=1e-5)
        assert [verdict.nearest_class for verdict in found] == [it.nearest_class for it in together]
    assert fitted.predict(NEW[:0]) == []
    assert fitted.predict(Outputs(torch.from_numpy(NEW[:0]))) == []


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (
            np.zeros((2, 4), np.float32),
            r"features have 4 columns, the fitted ones had 5\. Was it fitted on another enco",
        ),
        (np.full((2, 5), np.nan), r"2 of 2 rows hold NaN or infinity, the first is row 0"),
        (np.zeros((2, 5), np.int64), r"expected floating features \(B, D\), got torch\.int64 of shape \(2, 5\)"),
        (np.zeros(5), r"expected floating features \(B, D\), got torch\.float64 of shape \(5,\)"),
        (np.zeros((2, 3, 5)), r"expected floating features \(B, D\), got torch\.float64 of shape \(2, 3, 5\)"),
        (torch.zeros(2, 8, 8, 3, dtype=torch.uint8), r"expected floating features \(B, D\), got torch\.uint8"),
    ],
)
def test_features_of_another_kind_are_refused(fitted: Bundle, x: Any, message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        fitted.predict(x)


def test_images_given_to_a_bundle_of_features_are_told_the_way_out(fitted: Bundle, noise: Array) -> None:
    message = (
        "the bundle holds no network: it reads features. Pass features (N, 5), or wrap your network: "
        "spherood.Guard(model, bundle)."
    )
    for ask in (
        lambda: fitted.predict(list(noise)),
        lambda: fitted.predict(noise),
        lambda: fitted.runtime.outputs(noise),
        lambda: fitted.pixels(Image.fromarray(noise[0])),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
            ask()


def test_a_stack_of_pixels_is_as_good_as_a_list_and_one_picture_is_no_stack(bundle: Bundle, noise: Array) -> None:
    assert bundle.predict(noise) == bundle.predict(list(noise))
    with pytest.raises(ShapeError, match=r"expected uint8 RGB arrays \(H, W, 3\), got uint8 \(8, 3\)"):
        bundle.predict(noise[0])


def test_a_bundle_with_a_network_takes_features_too(bundle: Bundle, noise: Array) -> None:
    pixels = np.stack([bundle.pixels(Image.fromarray(one)) for one in noise])
    outputs = bundle.runtime.outputs(pixels)
    assert bundle.predict(outputs) == bundle.predict(list(noise)) == bundle.predict(outputs.feature.numpy())


def reading_logits(**kwargs: Any) -> Bundle:
    """Maximum softmax; held-out scores run from -1 to -.4."""
    settings: dict[str, Any] = {
        "runtime": TorchRuntime(MSP()),
        "classes": ("a", "b"),
        "score": Score.model_validate({"use": "msp"}),
        "class_mean": np.eye(2, dtype=np.float32),
        "held_out_score": np.linspace(-1, -0.4, 61),
        "promise": Promise(false_alarm_rate=0.05, confidence=0.95, held_out=61),
    }
    return Bundle(**(settings | kwargs))


def test_a_bundle_of_logits_reads_a_bare_array_as_logits_and_then_knows_no_class() -> None:
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.0]])
    bare = reading_logits().predict(logits)
    assert [verdict.score for verdict in bare] == pytest.approx([-1 / (1 + np.exp(-9)), -0.5])
    assert [verdict.nearest_class for verdict in bare] == [None, None]
    feature = torch.tensor([[0.0, 2.0], [3.0, 1.0]])
    whole = reading_logits().predict(Outputs(feature, logits=logits))
    assert [(verdict.score, verdict.nearest_class) for verdict in whole] == [(bare[0].score, "b"), (bare[1].score, "a")]
    with pytest.raises(ConfigError, match=r"it reads logits\. Pass logits \(N, C\), or wrap"):
        reading_logits().runtime.outputs(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="reads logits, which this model does not have"):
        reading_logits().predict(Outputs(feature))


def test_between_two_thresholds_a_person_looks(fitted: Bundle) -> None:
    promise = fitted.promise.model_copy(update={"review_rate": 0.2})
    two = replace(fitted, promise=promise, held_out_score=np.arange(90) / 100)
    reject, review = calibration.two_thresholds(two.held_out_score, 0.05, 0.2, 0.95)
    assert review < reject
    rule = two.decision()
    score = np.array([review, np.nextafter(review, 1), reject, np.nextafter(reject, 1)])
    none = np.full(4, -1)
    assert rule.needs_review(score, none).tolist() == [False, True, True, False]
    found = two.predict(np.random.default_rng(0).normal(size=(300, 5)) + 2 * np.eye(5)[0])
    for verdict in found:
        assert verdict.is_ood == (verdict.score > reject)
        assert verdict.needs_review == (review < verdict.score <= reject)
        assert ("a person should look" in verdict.reason) == verdict.needs_review
    assert len({(verdict.is_ood, verdict.needs_review) for verdict in found}) == 3
    with pytest.raises(ConfigError, match=r"a false-alarm rate of 0\.2 must be below the review rate of 0\.2"):
        two.predict(NEW, 0.2)


def test_what_is_loaded_gives_the_verdicts_of_what_was_saved(fitted: Bundle, tmp_path: Path) -> None:
    chosen = Bundle.fit(*blobs(300, 0))
    by_class = replace(
        fitted,
        promise=fitted.promise.model_copy(update={"by_class": True, "pooled": ("2",), "false_alarm_rate": 0.1}),
        held_out_class=np.repeat([0, 1, 2], [40, 40, 10]),
    )
    for number, one in enumerate((fitted, chosen, by_class, replace(fitted, bank_names=[f"{i}" for i in range(210)]))):
        one.save(tmp_path / str(number))
        loaded = Bundle.load(tmp_path / str(number))
        assert loaded.predict(NEW) == one.predict(NEW)
        assert (loaded.runtime.model, loaded.runtime.origin, loaded.preprocess) == (None, None, None)
        assert not loaded.runtime.half
        assert loaded.promise == one.promise
        assert loaded.threshold(0.2) == one.threshold(0.2)
    assert loaded.predict(NEW)[0].neighbours[0].name
    again = Bundle.load(tmp_path / "2").held_out_class
    np.testing.assert_array_equal(again, by_class.held_out_class)
    manifest = read_manifest(tmp_path / "0")
    assert (manifest.model, manifest.reads, manifest.width, set(manifest.files)) == (
        None,
        "feature",
        5,
        {"detector", "bank"},
    )


def test_half_of_the_bank_is_half_of_the_file_and_comes_back_as_it_was(fitted: Bundle, tmp_path: Path) -> None:
    detector = KNN(k=5).fit(blobs(300, 0)[0])
    detector.bank = detector.bank.half().float()
    half = replace(fitted, runtime=TorchRuntime(detector, half=True))
    half.save(tmp_path)
    (file,) = tmp_path.glob("detector-*")
    stored = load_file(file)
    assert (stored["detector.bank"].dtype, stored["class_mean"].dtype) == (torch.float16, torch.float32)
    loaded = Bundle.load(tmp_path)
    assert loaded.runtime.half
    torch.testing.assert_close(loaded.runtime.detector.bank, detector.bank, rtol=0, atol=0)
    assert loaded.predict(NEW) == half.predict(NEW)
    loaded.save(tmp_path / "again")
    assert next((tmp_path / "again").glob("detector-*")).read_bytes() == file.read_bytes()


def test_small_images_are_kept_and_are_those_of_the_neighbours(fitted: Bundle, tmp_path: Path) -> None:
    assert fitted.thumbnails is None
    plain = fitted.predict(NEW)[0]
    assert plain.neighbours == ()
    rows = len(fitted.runtime.detector.bank)
    names = [f"{row}.png" for row in range(rows)]
    colours = np.repeat(np.arange(rows, dtype=np.uint8), 12 * 20 * 3).reshape(rows, 12, 20, 3)
    images = ImageSet("bank", colours, np.full(rows, -1), names)
    kept = replace(fitted, bank_names=names, thumbnails=images.thumbnails(10))
    kept.save(tmp_path)
    loaded = Bundle.load(tmp_path)
    for neighbour in loaded.predict(NEW)[4].neighbours:
        small = loaded.thumbnail(neighbour)
        assert small.size == (10, 6)
        assert neighbour.name == f"{neighbour.row}.png"
        assert abs(np.asarray(small).astype(int) - neighbour.row).max() <= 2
    with pytest.raises(ConfigError, match=r"keeps no small images\. Make it with: spherood fit \.\.\. --thumbnails"):
        fitted.thumbnail(kept.predict(NEW)[0].neighbours[0])


def test_an_object_of_another_library_works_here_and_cannot_be_saved(tmp_path: Path) -> None:
    feature, _ = blobs(300, 0)
    forest = IsolationForest(n_estimators=20, random_state=0).fit(feature)
    found = Bundle.fit(blobs(200, 1)[0], score=forest)
    score = -forest.score_samples(NEW)
    assert [verdict.is_ood for verdict in found.predict(NEW)] == (score > found.threshold()).tolist()
    with pytest.raises(BundleError, match=r"^IsolationForest: its state is no tensors, so it cannot be bundled"):
        found.save(tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_score_or_a_network_without_a_name_is_refused_before_anything_is_written(
    fitted: Bundle, bundle: Bundle, tmp_path: Path
) -> None:
    nameless = Bundle.fit(blobs(200, 1)[0], score=KNN(k=3))
    assert nameless.predict(NEW)[0].score > 0
    for one, message in (
        (nameless, r"^KNN: a bundle keeps a score by its name\. Give it as 'name:setting=value'"),
        (
            replace(bundle, runtime=replace(bundle.runtime, origin=None)),
            r"^the network came as an object, .* Name it as package\.module:function",
        ),
    ):
        with pytest.raises(BundleError, match=message):
            one.save(tmp_path / "bundle")
        assert not (tmp_path / "bundle").exists()


OWN_SCORE = """
from pathlib import Path
import torch
from spherood.detectors import KNN
Path(__file__).with_suffix(".imported").touch()

class Mine(KNN):
    pass
"""


@pytest.fixture
def own_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of a user's own score whose import leaves a file; its path, and a way to forget the import."""
    (tmp_path / "their_score.py").write_text(OWN_SCORE)
    monkeypatch.syspath_prepend(tmp_path)

    def forget() -> Path:
        sys.modules.pop("their_score", None)
        mark = tmp_path / "their_score.imported"
        mark.unlink(missing_ok=True)
        return mark

    yield forget
    forget()


def test_a_score_of_ones_own_is_imported_only_where_it_is_trusted(own_score: Any, tmp_path: Path) -> None:
    made = Bundle.fit(*blobs(300, 0), score="their_score:Mine:k=4")
    made.save(tmp_path / "bundle")
    mark = own_score()
    for trust in ((), ["their_score"], ["other:Mine"]):
        with pytest.raises(
            BundleError, match=r"its score is their_score:Mine, which is no part of spherood\. If you tr"
        ):
            Bundle.load(tmp_path / "bundle", trust=trust)
    assert not mark.exists()
    assert "their_score" not in sys.modules
    loaded = Bundle.load(tmp_path / "bundle", trust=["their_score:Mine"])
    assert mark.exists()
    assert type(loaded.runtime.detector).__name__ == "Mine"
    assert loaded.predict(NEW) == made.predict(NEW)


def test_a_score_of_ones_own_inside_a_combination_is_imported_only_where_it_is_trusted(
    own_score: Any, fitted: Bundle, tmp_path: Path
) -> None:
    settings = {"scores": ["knn:k=2", "their_score:Mine:k=4"]}
    detector = Combined(**settings).fit(*blobs(300, 0))
    score = Score.model_validate({"use": "combined", "with": settings})
    made = replace(fitted, runtime=TorchRuntime(detector), score=score)
    made.save(tmp_path / "bundle")
    mark = own_score()
    with pytest.raises(BundleError, match=r"its score is their_score:Mine, which is no part of spherood"):
        Bundle.load(tmp_path / "bundle")
    assert not mark.exists()
    assert Bundle.load(tmp_path / "bundle", trust=["their_score:Mine"]).predict(NEW) == made.predict(NEW)
    assert mark.exists()


@pytest.mark.parametrize("inside", ["their_score:Mine:k=4", "combined:scores=['their_score:Mine:k=4', 'knn:k=2']"])
def test_a_score_of_ones_own_inside_a_score_of_layers_is_imported_only_where_it_is_trusted(
    own_score: Any, fitted: Bundle, tmp_path: Path, inside: str
) -> None:
    (feature, label), settings = blobs(300, 0), {"score": inside}
    rows = torch.as_tensor(feature)
    detector = Layers(**settings).fit(Outputs(rows, layers=(rows[:, :2], rows)), label)
    made = replace(
        fitted, runtime=TorchRuntime(detector), score=Score.model_validate({"use": "layers", "with": settings})
    )
    made.save(tmp_path / "bundle")
    mark = own_score()
    with pytest.raises(BundleError, match=r"its score is their_score:Mine, which is no part of spherood"):
        Bundle.load(tmp_path / "bundle")
    assert not mark.exists()
    loaded, new = Bundle.load(tmp_path / "bundle", trust=["their_score:Mine"]), torch.as_tensor(NEW)
    query = Outputs(new, layers=(new[:, :2], new))
    assert loaded.code == ["their_score:Mine"]
    assert torch.equal(loaded.runtime.detector.score(query), detector.score(query))


def test_a_local_folder_needs_no_hub(
    fitted: Bundle, own_score: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    fitted.save(tmp_path / "anna" / "pets")
    monkeypatch.chdir(tmp_path)
    assert Bundle.from_pretrained("anna/pets").predict(NEW) == fitted.predict(NEW)
    Bundle.fit(blobs(200, 0)[0], score="their_score:Mine:k=4").save("own")
    with pytest.raises(BundleError, match="trust"):
        Bundle.from_pretrained("own")
    assert Bundle.from_pretrained("own", trust=["their_score:Mine"]).score is not None


def test_a_bundle_of_the_first_format_says_to_make_it_anew(fitted: Bundle, tmp_path: Path) -> None:
    fitted.save(tmp_path)
    path = tmp_path / "bundle.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for seal in (False, True):
        del content["sha256"]
        content["format"] = 1
        content["sha256"] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest() if seal else ""
        path.write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(BundleError, match=r"bundle format 1, this version reads 3\. Make it anew\.$"):
            Bundle.load(tmp_path)


def test_a_card_that_cannot_be_written_leaves_a_whole_bundle(
    fitted: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = Bundle.fit(*blobs(300, 7), score="knn:k=2")
    older.save(tmp_path)
    written = module.write_text

    def full(path: Path, text: str) -> None:
        if path.name == "README.md":
            raise OSError(28, "No space left on device")
        written(path, text)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            fitted.save(tmp_path)
    assert Bundle.load(tmp_path).predict(NEW) == fitted.predict(NEW) != older.predict(NEW)
    fitted.save(tmp_path)
    assert "90 held-out images" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 4
