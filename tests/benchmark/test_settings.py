"""Full spectrum, sweeps, protocols without a validation set, extra sets, sets that are left out or overlap."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import spherood as so
from spherood.benchmark.evaluation import Evaluated, _result, evaluate
from spherood.benchmark.protocol import Protocol, load_protocol
from spherood.benchmark.result import Evaluation
from spherood.benchmark.shipping import make_bundle, why_no_bundle
from spherood.benchmark.subject import Subject
from spherood.bundle.encoder import origin_of
from spherood.errors import CalibrationError, ConfigError, DataError
from spherood.features import FeatureStore
from spherood.models import ModelSettings

Toy = Callable[..., Protocol]
SHIFTED = {"csid": {"dim": {"arrays": "dim.npy", "labels": "test.labels.npy"}}}
OOD_VALIDATION = {"validation_ood": {"murky": {"arrays": "murky.npy"}}}


@pytest.fixture(scope="module")
def wider(world: Path) -> Path:
    """The world, with the test images at 80 % brightness, and other olive ones to choose by."""
    test = np.load(world / "test.npy")
    np.save(world / "dim.npy", (test * 0.8).astype(np.uint8))
    np.save(world / "murky.npy", np.load(world / "olive.npy")[:, ::-1] // 2 + 60)
    return world


@pytest.fixture
def run(wider: Path, subject: Subject, tmp_path: Path, protocol: Toy) -> Callable[..., Evaluated]:
    def evaluated(
        *scores: str, full_spectrum: bool = False, without: tuple[str, ...] = (), **changes: Any
    ) -> Evaluated:
        store = FeatureStore(tmp_path / "store")
        known = protocol(**changes)
        return evaluate(subject, known, wider, store, scores, full_spectrum=full_spectrum, without=without)

    return evaluated


def test_on_the_full_spectrum_id_is_the_test_set_and_what_shifted_pooled(
    run: Callable[..., Evaluated],
) -> None:
    plain, full = run("knn:k=3", **SHIFTED), run("knn:k=3", full_spectrum=True, **SHIFTED)
    one, other = plain.evaluation.scores["knn:k=3"], full.evaluation.scores["knn:k=3"]
    assert (plain.evaluation.setting, full.evaluation.setting) == ("ood", "fsood")
    assert len(other.id_score) == 100
    np.testing.assert_array_equal(other.id_score[:50], one.id_score)
    for name in ("olive", "teal", "blue"):
        np.testing.assert_array_equal(other.ood_score[name], one.ood_score[name])
        assert other.metrics[name].auroc == so.metrics.auroc(other.id_score, other.ood_score[name])
    assert other.metrics["near"].auroc < one.metrics["near"].auroc  # dim images look less familiar
    assert len(full.test.images) == 100
    assert full.test.images.names[50] == "dim.npy[0]"
    assert full.test.images.read(50).size == (4, 4)


def test_the_promise_stays_one_about_the_plain_test_set(run: Callable[..., Evaluated]) -> None:
    plain, full = run("knn:k=3", **SHIFTED), run("knn:k=3", full_spectrum=True, **SHIFTED)
    assert full.evaluation.scores["knn:k=3"].achieved == plain.evaluation.scores["knn:k=3"].achieved
    assert full.evaluation.scores["knn:k=3"].threshold == plain.evaluation.scores["knn:k=3"].threshold
    assert any("Full spectrum: ID is the test set and dim" in note for note in full.evaluation.notes)


def test_accuracy_of_the_full_spectrum_counts_every_image_once(run: Callable[..., Evaluated]) -> None:
    full = run("msp", full_spectrum=True, **SHIFTED)
    logits = full.test.outputs.logits
    assert logits is not None
    right = (logits.argmax(dim=1).numpy() == full.test.images.label).mean()
    assert full.evaluation.accuracy["classifier"] == pytest.approx(right)


def test_a_protocol_without_shifted_sets_has_no_full_spectrum(run: Callable[..., Evaluated]) -> None:
    with pytest.raises(ConfigError, match="toy: no sets of covariate shift, so there is no full spectrum"):
        run("knn:k=3", full_spectrum=True)


def test_a_sweep_keeps_the_first_setting_with_the_largest_auroc_on_the_validation_sets_alone(
    run: Callable[..., Evaluated],
) -> None:
    found = run("knn:k=1/3/20", "knn:k=3", false_alarm_rate=0.1, **OOD_VALIDATION)
    sweep = found.evaluation.scores["knn:k=1/3/20"].sweep
    assert sweep is not None
    assert list(sweep.auroc) == ["knn:k=1", "knn:k=3", "knn:k=20"]
    assert sweep.ood == ("murky",)
    assert sweep.chosen == max(sweep.auroc, key=lambda text: sweep.auroc[text])  # the first of equals
    for text, auroc in sweep.auroc.items():  # each as if it had been alone
        alone = run(text, far={"murky": {"arrays": "murky.npy"}}, near={}).evaluation.scores[text]
        assert auroc == so.metrics.auroc(alone.held_out_score, alone.ood_score["murky"])
    assert "murky" not in found.evaluation.kinds
    assert found.evaluation.scores["knn:k=3"].sweep is None
    k = int(sweep.chosen.rpartition("=")[2])
    assert found.detectors["knn:k=1/3/20"].k == k


def test_settings_vary_the_first_fastest() -> None:
    from spherood.benchmark.scores import build_scores

    text = "mahalanobis:unit=true/false:shrinkage=0/0.5"
    assert list(build_scores([text])[text]) == [
        "mahalanobis:unit=true:shrinkage=0",
        "mahalanobis:unit=false:shrinkage=0",
        "mahalanobis:unit=true:shrinkage=0.5",
        "mahalanobis:unit=false:shrinkage=0.5",
    ]
    with pytest.raises(ConfigError, match=r"a sweep separates values by one slash: knn:k=50/100"):
        build_scores(["knn:k=3/"])


def test_a_sweep_pays_for_what_it_tried_so_that_the_promise_holds_for_the_winner(run: Callable[..., Evaluated]) -> None:
    with pytest.raises(CalibrationError, match="needs at least 80"):  # 70 images promise 5 % at 95 %, not at 98.3 %
        run("knn:k=1/3/20", **OOD_VALIDATION)
    result = run("knn:k=1/3", false_alarm_rate=0.1, **OOD_VALIDATION).evaluation.scores["knn:k=1/3"]
    assert result.threshold == so.calibration.threshold(result.held_out_score, 0.1, 0.975)
    assert result.confidence == 0.95


def test_the_bundle_of_a_sweep_holds_the_winner_and_its_threshold(
    run: Callable[..., Evaluated], subject: Subject
) -> None:
    from spherood.bundle.bundle import Bundle
    from spherood.models import build_model

    found = run("knn:k=1/3", false_alarm_rate=0.1, **OOD_VALIDATION)
    result = found.evaluation.scores["knn:k=1/3"]
    settings = ModelSettings(encoder="resnet8", width=2)
    other = replace(found, subject=replace(subject, origin=origin_of(settings, 2), model=build_model(settings, 2)))
    bundle = make_bundle(other, "knn:k=1/3")
    assert isinstance(bundle, Bundle)
    assert (bundle.score.use, bundle.score.with_) == ("knn", {"k": int(result.spec[-1])})
    assert bundle.promise.tried == 2
    assert bundle.threshold() == result.threshold


@pytest.mark.parametrize("lacking", ["validation_ood", "validation"])
def test_a_sweep_without_validation_sets_is_refused(run: Callable[..., Evaluated], lacking: str) -> None:
    two = {part: {"arrays": f"{part}.npy", "labels": f"{part}.labels.npy"} for part in ("train", "test")}
    changes = {} if lacking == "validation_ood" else {"id": two, **OOD_VALIDATION}
    with pytest.raises(ConfigError, match="toy: a sweep needs"):
        run("knn:k=1/3", **changes)


def test_without_a_validation_set_there_are_figures_and_no_threshold_and_the_json_has_no_nan(
    run: Callable[..., Evaluated],
) -> None:
    two = {part: {"arrays": f"{part}.npy", "labels": f"{part}.labels.npy"} for part in ("train", "test")}
    with_, without = run("knn:k=3"), run("knn:k=3", id=two)
    result = without.evaluation.scores["knn:k=3"]
    assert not result.calibrated
    assert result.metrics["near"].auroc == with_.evaluation.scores["knn:k=3"].metrics["near"].auroc
    assert math.isnan(result.metrics["near"].caught)
    assert "no threshold is calibrated" in " ".join(without.evaluation.notes)
    assert "no ID validation set" in why_no_bundle(without, "knn:k=3")
    with pytest.raises(ConfigError, match=r"no bundle of knn:k=3: nothing calibrated a threshold"):
        make_bundle(without, "knn:k=3")
    record = json.loads(json.dumps(without.evaluation.to_json(), allow_nan=False))
    again = Evaluation.from_json(record)
    assert math.isinf(again.scores["knn:k=3"].threshold)
    assert again.to_json() == without.evaluation.to_json()


def test_an_extra_set_is_measured_and_in_no_mean(run: Callable[..., Evaluated]) -> None:
    plain = run("knn:k=3")
    found = run("knn:k=3", extra={"murky": {"arrays": "murky.npy"}})
    one, other = (of.evaluation.scores["knn:k=3"].metrics for of in (plain, found))
    assert (one["near"], one["far"]) == (other["near"], other["far"])
    assert found.evaluation.kinds["murky"] == "extra"
    assert other["murky"].auroc > 0.5


def test_a_set_that_is_left_out_counts_as_absent(run: Callable[..., Evaluated]) -> None:
    found = run("knn:k=3", without=("teal",)).evaluation
    assert found.absent == {"teal": "near", "ochre": "near"}
    assert "teal" not in found.scores["knn:k=3"].metrics
    with pytest.raises(ConfigError, match=r"toy: there is no OOD set 'tael'\. Did you mean 'teal'\?"):
        run("knn:k=3", without=("tael",))


def test_two_sets_that_share_images_are_refused_before_any_features(
    run: Callable[..., Evaluated], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"ID test and twin share 50 images, first test\.npy\[0\]"):
        run("knn:k=3", far={"twin": {"arrays": "test.npy"}})
    assert not (tmp_path / "store").exists()


def test_a_label_out_of_range_is_named_with_its_set(wider: Path, run: Callable[..., Evaluated]) -> None:
    label = np.load(wider / "test.labels.npy")
    label[7] = 5
    np.save(wider / "wrong.labels.npy", label)
    parts = {part: {"arrays": f"{part}.npy", "labels": f"{part}.labels.npy"} for part in ("train", "validation")}
    with pytest.raises(DataError, match=r"toy: ID test has the label 5, the ID training set has 2 classes, 0\.\.1"):
        run("knn:k=3", id={**parts, "test": {"arrays": "test.npy", "labels": "wrong.labels.npy"}})


def test_a_k_that_reaches_the_images_of_a_class_is_warned_of(run: Callable[..., Evaluated]) -> None:
    found = run("knn:k=19", "knn:k=20").evaluation
    (note,) = [note for note in found.notes if "reaches" in note]
    assert note.startswith("knn:k=20: k reaches the 20 training images of the rarest class")


def test_every_k_from_one_search_is_what_it_is_alone(run: Callable[..., Evaluated]) -> None:
    together = run("knn:k=1", "knn:k=5", "knn:k=30").evaluation
    for text, result in together.scores.items():
        alone = run(text).evaluation.scores[text]
        np.testing.assert_allclose(result.id_score, alone.id_score, rtol=1e-6)
        assert result.threshold == pytest.approx(alone.threshold)


def test_intervals_hold_the_figure_and_only_means_of_auroc_have_one(run: Callable[..., Evaluated]) -> None:
    result = run("knn:k=3").evaluation.scores["knn:k=3"]
    assert set(result.intervals["blue"]) == {"auroc", "fpr_ood_at_id95", "fpr_id_at_ood95"}
    assert set(result.intervals["near"]) == {"auroc"}
    for name, found in result.intervals.items():
        for metric, (low, high) in found.items():
            assert low <= getattr(result.metrics[name], metric) <= high
    alarms = round(result.metrics["olive"].fpr_id_at_ood95 * 50)
    assert result.intervals["olive"]["fpr_id_at_ood95"] == so.metrics.clopper_pearson(alarms, 50)


def test_the_full_spectrum_of_imagenet200_at_its_true_sizes_weighs_every_image_alike() -> None:
    """Its images are not at hand: made-up scores of the sizes that its protocol states."""
    protocol = load_protocol("openood/imagenet200")
    draw = np.random.default_rng(0)
    sizes = {name: source.count for name, source in protocol.csid.items()}
    assert sizes == {"imagenet_v2": 2000, "imagenet_c": 2000, "imagenet_r": 30000}
    scored = {"validation": draw.normal(0, 1, 1000), "test": draw.normal(0, 1, 9000)}
    scored |= {f"csid {name}": draw.normal(shift, 1, sizes[name]) for shift, name in enumerate(sizes, start=1)}
    kinds = {name: kind for name, (kind, _) in protocol.ood.items()}
    scored |= {f"ood {name}": draw.normal(2.5, 1, source.count or 0) for name, (_, source) in protocol.ood.items()}
    result = _result("knn", protocol, scored, kinds, list(sizes), None, 1)
    assert len(result.id_score) == 43_000
    parts = ["test", *(f"csid {name}" for name in sizes)]
    for name in kinds:
        by_part = [so.metrics.auroc(scored[part], result.ood_score[name]) for part in parts]
        weighed = np.average(by_part, weights=[len(scored[part]) for part in parts])
        assert result.metrics[name].auroc == pytest.approx(weighed, abs=1e-12)
    near = [result.metrics[name].auroc for name in ("ssb_hard", "ninco")]
    assert result.metrics["near"].auroc == pytest.approx(sum(near) / 2, abs=1e-12)  # sets, whatever their sizes
    far = [result.metrics[name].fpr_id_at_ood95 for name in ("inaturalist", "textures", "openimage_o")]
    assert result.metrics["far"].fpr_id_at_ood95 == pytest.approx(sum(far) / 3, abs=1e-12)
    alarms = (scored["test"] > result.threshold).sum()
    assert result.achieved.value == alarms / 9000


def test_lists_of_imagenets_true_sizes_are_read_and_counted(tmp_path: Path) -> None:
    """Made-up lists: every line names one picture."""
    protocol = load_protocol("openood/imagenet1k")
    picture = tmp_path / "images_largescale" / "one.png"
    picture.parent.mkdir()
    Image.new("RGB", (2, 2)).save(picture)
    sources = [protocol.id.validation, *(source for _, source in protocol.ood.values()), *protocol.csid.values()]
    for source in sources:
        assert source is not None
        assert source.list_ is not None
        assert source.count is not None
        file = tmp_path / source.list_
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("one.png -1\n" * source.count)
        assert len(source.load(tmp_path)) == source.count
        file.write_text("one.png -1\n" * (source.count - 1))
        with pytest.raises(DataError, match=f"expected {source.count:,}"):
            source.load(tmp_path)
