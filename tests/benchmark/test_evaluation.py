from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import spherood as so
from spherood.benchmark.evaluation import Evaluated, evaluate, measure
from spherood.benchmark.protocol import Protocol
from spherood.benchmark.result import Metrics
from spherood.benchmark.scores import build_scores
from spherood.benchmark.sets import find_images, read_sets
from spherood.benchmark.shipping import make_bundle
from spherood.benchmark.subject import Subject
from spherood.bundle.encoder import origin_of
from spherood.data import Preprocess, decode, image_set
from spherood.detectors import KNN, MSP, Detector, Layers, Mahalanobis
from spherood.errors import CalibrationError, ConfigError, DataError
from spherood.features import FeatureStore
from spherood.models import Model, ModelSettings, build_model, infer
from spherood.sphere.geometry import geometry

Feature = Callable[[str], Tensor]
Toy = Callable[..., Protocol]


def labels(world: Path, part: str) -> Tensor:
    return torch.from_numpy(np.load(world / f"{part}.labels.npy"))


@pytest.mark.parametrize(
    ("text", "detector"), [("knn:k=3", KNN(k=3)), ("mahalanobis:unit=true", Mahalanobis(unit=True)), ("msp", MSP())]
)
def test_each_set_is_scored_by_a_detector_fitted_on_the_training_set_alone(
    evaluated: Evaluated, world: Path, feature: Feature, text: str, detector: Detector
) -> None:
    def read(name: str) -> Tensor:
        logits = evaluated.subject.model.classifier
        assert logits is not None
        return logits(feature(name)).detach() if text == "msp" else feature(name)

    detector.fit(read("train"), labels(world, "train"))
    result = evaluated.evaluation.scores[text]
    found = {"validation": result.held_out_score, "test": result.id_score, **result.ood_score}
    assert list(found) == ["validation", "test", "olive", "teal", "blue"]
    for name, score in found.items():
        np.testing.assert_allclose(score, detector.score(read(name)).double().numpy(), rtol=1e-4, atol=1e-8)
    assert result.name == text


def test_every_metric_of_a_set_is_that_of_its_scores(evaluated: Evaluated) -> None:
    for result in evaluated.evaluation.scores.values():
        for name in ("olive", "teal", "blue"):
            id_score, ood_score = result.id_score, result.ood_score[name]
            assert result.metrics[name] == Metrics(
                auroc=so.metrics.auroc(id_score, ood_score),
                aupr_in=so.metrics.aupr_in(id_score, ood_score),
                aupr_out=so.metrics.aupr_out(id_score, ood_score),
                fpr_ood_at_id95=so.metrics.fpr_ood_at_id95(id_score, ood_score),
                fpr_id_at_ood95=so.metrics.fpr_id_at_ood95(id_score, ood_score),
                caught=sum(float(score) > result.threshold for score in ood_score) / len(ood_score),
                average_precision=so.metrics.average_precision(id_score, ood_score),
                fpr_ood_at_id95_cider=so.metrics.fpr_ood_at_id95(id_score, ood_score, rule="cider"),
                fpr_id_at_ood95_openood=so.metrics.fpr_id_at_ood95(id_score, ood_score, rule="openood"),
            )


def test_near_and_far_are_means_over_sets_whatever_their_sizes(evaluated: Evaluated) -> None:
    for result in evaluated.evaluation.scores.values():
        near, olive, teal = (asdict(result.metrics[name]) for name in ("near", "olive", "teal"))
        assert near == pytest.approx({key: (olive[key] + teal[key]) / 2 for key in near}, rel=1e-12)
        assert asdict(result.metrics["far"]) == pytest.approx(asdict(result.metrics["blue"]), rel=1e-12)
    knn = evaluated.evaluation.scores["knn:k=3"].metrics
    assert abs(knn["olive"].auroc - knn["teal"].auroc) > 0.01  # or the test could not tell one mean from another


def test_the_threshold_comes_from_the_validation_set_and_the_rate_achieved_from_the_test_set(
    evaluated: Evaluated,
) -> None:
    for result in evaluated.evaluation.scores.values():
        assert result.threshold == so.calibration.threshold(result.held_out_score, 0.05, 0.95)
        alarms = sum(float(score) > result.threshold for score in result.id_score)
        assert result.achieved.value == alarms / 50
        assert (result.achieved.low, result.achieved.high) == so.metrics.clopper_pearson(alarms, 50)
        assert (result.false_alarm_rate, result.confidence) == (0.05, 0.95)


def test_an_image_exactly_at_the_threshold_is_neither_a_false_alarm_nor_caught(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    images = find_images(protocol(), world)
    sets = read_sets(subject, images, protocol(), FeatureStore(tmp_path))
    assert sets.validation is not None
    same = replace(sets, test=sets.validation, ood={"blue": sets.validation})
    measured = measure(subject, protocol(), images, same, build_scores(["knn:k=3"]))
    result = measured.evaluation.scores["knn:k=3"]  # of 70 held-out scores none may lie above: it is the highest
    assert result.threshold == result.id_score.max() == result.ood_score["blue"].max()
    assert (result.achieved.value, result.metrics["blue"].caught) == (0, 0)


def test_the_protocol_sets_the_promise(world: Path, subject: Subject, tmp_path: Path, protocol: Toy) -> None:
    loose = protocol(false_alarm_rate=0.2, confidence=0.5)
    result = evaluate(subject, loose, world, FeatureStore(tmp_path), ["knn:k=3"]).evaluation.scores["knn:k=3"]
    assert result.threshold == so.calibration.threshold(result.held_out_score, 0.2, 0.5)
    assert (result.false_alarm_rate, result.confidence) == (0.2, 0.5)


def test_a_set_that_is_not_on_disk_is_listed_as_absent(evaluated: Evaluated) -> None:
    assert evaluated.evaluation.absent == {"ochre": "near"}
    assert evaluated.evaluation.kinds == {"olive": "near", "teal": "near", "blue": "far"}
    assert list(evaluated.ood) == ["olive", "teal", "blue"]


def test_without_any_far_set_there_is_no_far_mean(world: Path, subject: Subject, tmp_path: Path, protocol: Toy) -> None:
    found = evaluate(subject, protocol(far={}), world, FeatureStore(tmp_path), ["knn:k=3"])
    assert list(found.evaluation.scores["knn:k=3"].metrics) == ["olive", "teal", "near"]


def test_a_score_that_reads_what_the_model_lacks_is_left_out_with_its_reason(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    bare = replace(subject, model=Model(subject.model.encoder, None, None))
    found = evaluate(bare, protocol(), world, FeatureStore(tmp_path), ["msp", "knn:k=3"])
    assert found.evaluation.unavailable == {"msp": "reads logits, which colours does not have"}
    assert list(found.evaluation.scores) == list(found.detectors) == ["knn:k=3"]


def staged(subject: Subject) -> Subject:
    """With an encoder that has stages."""
    settings = ModelSettings(encoder="resnet8", width=2, classifier=True)
    return replace(subject, model=build_model(settings, 2).eval(), origin=origin_of(settings, 2))


def test_a_score_of_layers_is_fitted_on_the_layers_of_the_training_set(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    model, texts = staged(subject).model, ["knn:k=3", 'layers:score="knn:k=3"']
    found = evaluate(staged(subject), protocol(), world, FeatureStore(tmp_path), texts)

    def read(name: str) -> so.Outputs:
        return infer(model, torch.from_numpy(np.load(world / f"{name}.npy")), subject.preprocess, layers=True)

    judge = Layers(score="knn:k=3").fit(read("train"), labels(world, "train"))
    result = found.evaluation.scores[texts[1]]
    for name, score in {"validation": result.held_out_score, "test": result.id_score, **result.ood_score}.items():
        np.testing.assert_allclose(score, judge.score(read(name)).numpy(), rtol=1e-3, atol=1e-4)
    assert found.evaluation.unavailable == {}


def test_layers_are_extracted_only_where_a_score_reads_them(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    plain = evaluate(staged(subject), protocol(), world, FeatureStore(tmp_path), ["knn:k=3"])
    assert plain.train.outputs.layers is None
    assert not list(tmp_path.rglob("layer*.npy"))
    found = evaluate(staged(subject), protocol(), world, FeatureStore(tmp_path), ["knn:k=3", "layers"])
    assert len(found.train.outputs.layers) == 3


def test_a_model_without_layers_leaves_their_score_out(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    found = evaluate(subject, protocol(), world, FeatureStore(tmp_path), ["layers", "knn:k=3"])
    assert found.evaluation.unavailable == {"layers": "reads layers, which colours does not have"}
    assert list(found.evaluation.scores) == ["knn:k=3"]


def test_the_bundle_of_a_score_of_layers_says_what_was_measured(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    text = 'layers:score="knn:k=3"'
    found = evaluate(staged(subject), protocol(), world, FeatureStore(tmp_path / "store"), [text])
    make_bundle(found, text).save(tmp_path / "bundle")
    loaded = so.Bundle.load(tmp_path / "bundle")
    assert isinstance(loaded.runtime.detector, Layers)
    verdicts = loaded.predict(list(np.load(world / "blue.npy")))
    result = found.evaluation.scores[text]
    np.testing.assert_allclose([one.score for one in verdicts], result.ood_score["blue"], rtol=1e-5, atol=1e-5)
    assert len(verdicts[0].neighbours) == 3
    outputs = found.ood["blue"].outputs
    joined = torch.cat(outputs.layers, dim=1)
    for given in (outputs, joined):
        scores = [one.score for one in loaded.predict(given)]
        np.testing.assert_allclose(scores, result.ood_score["blue"], rtol=1e-5, atol=1e-5)


def test_a_sweep_of_what_stands_in_quotes_tries_each(world: Path) -> None:
    (tried,) = build_scores(['layers:score="knn:k=3"/"knn:k=5"']).values()
    assert list(tried) == ['layers:score="knn:k=3"', 'layers:score="knn:k=5"']


def test_a_misspelt_score_is_refused_before_anything_is_read(tmp_path: Path, subject: Subject, protocol: Toy) -> None:
    with pytest.raises(ConfigError, match=r"there is no 'mahalanobs'\. Did you mean 'mahalanobis'"):
        evaluate(subject, protocol(), tmp_path / "absent", FeatureStore(tmp_path), ["mahalanobs"])
    with pytest.raises(ConfigError, match="'knn' has no setting 'q'"):
        build_scores(["knn:q=3"])


def test_too_few_held_out_images_for_the_promise_are_told_with_the_number_that_would_do(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    message = r"a false-alarm rate of 0\.01 needs at least 299 held-out ID scores, got 70\. Collect 229 more or ask"
    with pytest.raises(CalibrationError, match=message):
        evaluate(subject, protocol(false_alarm_rate=0.01), world, FeatureStore(tmp_path / "store"), ["knn:k=3"])
    assert not (tmp_path / "store").exists()  # refused before any image was read


def test_a_model_of_other_classes_is_refused_with_both_lists(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    other = replace(subject, classes=("cat", "dog", "fox", "hen", "owl"))
    message = r"toy: the model knows 5 classes \(cat, dog, fox, hen, …\), the ID set of this protocol has 2 \(0, 1\)"
    with pytest.raises(DataError, match=message):
        evaluate(other, protocol(), world, FeatureStore(tmp_path), ["knn:k=3"])


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_an_id_set_that_is_absent_or_damaged_is_named(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy, part: str
) -> None:
    here = tmp_path / "world"
    shutil.copytree(world, here)
    (here / f"{part}.npy").write_bytes(b"none of it")
    with pytest.raises(DataError, match=rf"{part}\.npy: not a NumPy array file"):
        evaluate(subject, protocol(), here, FeatureStore(tmp_path), ["knn:k=3"])
    (here / f"{part}.npy").unlink()
    with pytest.raises(DataError, match=rf"{part}\.npy: no such file"):
        evaluate(subject, protocol(), here, FeatureStore(tmp_path), ["knn:k=3"])


@pytest.fixture
def folders(world: Path, tmp_path: Path) -> Path:
    """The world as files: train/0/*.png, …, blue/*.png."""
    place = tmp_path / "files"
    for part in ("train", "validation", "test", "blue"):
        images = np.load(world / f"{part}.npy")
        label = labels(world, part).tolist() if (world / f"{part}.labels.npy").exists() else [""] * len(images)
        for row, pixels in enumerate(images):
            (place / part / str(label[row])).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / part / str(label[row]) / f"{row:03}.png")
    return place


def of_folders(protocol: Toy, **changes: Any) -> Protocol:
    parts = {part: {"folder": part} for part in ("train", "validation", "test")}
    return protocol(**{"id": parts, "near": {}, "far": {"blue": {"folder": "blue"}}, **changes})


def test_files_and_arrays_of_the_same_pixels_are_scored_alike(
    evaluated: Evaluated, folders: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    found = evaluate(subject, of_folders(protocol), folders, FeatureStore(tmp_path), ["knn:k=3"])
    for key in ("threshold", "achieved"):
        assert getattr(found.evaluation.scores["knn:k=3"], key) == getattr(evaluated.evaluation.scores["knn:k=3"], key)
    expected = evaluated.evaluation.scores["knn:k=3"].metrics["blue"]
    assert asdict(found.evaluation.scores["knn:k=3"].metrics["blue"]) == pytest.approx(asdict(expected), rel=1e-12)


def test_each_image_is_decoded_once_whatever_is_asked_of_it(
    folders: Path, subject: Subject, tmp_path: Path, protocol: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Path] = []

    def counted(path: Path, at_least: int | None = None) -> Image.Image:
        reads.append(path)
        return decode.read_rgb(path, at_least)

    monkeypatch.setattr(image_set, "read_rgb", counted)
    store = FeatureStore(tmp_path)
    evaluate(subject, of_folders(protocol), folders, store, ["knn:k=3", "mahalanobis:unit=true", "msp"])
    assert sorted(reads) == sorted(folders.rglob("*.png"))
    evaluate(subject, of_folders(protocol), folders, store, ["knn:k=5"])
    assert len(reads) == len(set(reads))


def test_an_unreadable_image_among_good_ones_is_named_skipped_and_counted(
    folders: Path, subject: Subject, tmp_path: Path, protocol: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    (folders / "blue" / "004.png").write_text("no image")
    (folders / "validation" / "0" / "002.png").write_bytes(b"")
    found = evaluate(subject, of_folders(protocol), folders, FeatureStore(tmp_path), ["knn:k=3"])
    assert list(found.ood["blue"].unreadable) == ["004.png"]
    assert list(found.validation.unreadable) == ["0/002.png"]
    result = found.evaluation.scores["knn:k=3"]
    assert (len(result.ood_score["blue"]), len(result.held_out_score), len(result.id_score)) == (19, 69, 50)
    told = capsys.readouterr()
    assert "skipped: 004.png: " in told.err
    assert "blue: skipped 1 unreadable image" in told.err
    assert told.out == ""


def test_a_set_without_a_readable_image_is_named(
    folders: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    for path in (folders / "blue").iterdir():
        path.write_text("no image")
    with pytest.raises(DataError, match=r"blue: none of 20 images can be read\. First: .*000\.png"):
        evaluate(subject, of_folders(protocol), folders, FeatureStore(tmp_path), ["knn:k=3"])


def test_a_class_whose_training_images_are_all_unreadable_is_named(
    folders: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    for path in (folders / "train" / "1").iterdir():
        path.write_text("no image")
    with pytest.raises(DataError, match="ID train: class '1' has no image"):
        evaluate(subject, of_folders(protocol), folders, FeatureStore(tmp_path), ["knn:k=3"])


def test_a_test_set_that_numbers_its_classes_otherwise_is_refused(
    folders: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    for part in ("train", "validation", "test"):
        (folders / part / "0").rename(folders / part / "red")
        (folders / part / "1").rename(folders / part / "green")
    named = replace(subject, classes=("green", "red"))
    evaluate(named, of_folders(protocol), folders, FeatureStore(tmp_path), ["knn:k=3"])
    shutil.rmtree(folders / "test" / "green")
    with pytest.raises(DataError, match="toy: class 0 is 'red' in ID test and 'green' in the ID training set"):
        evaluate(named, of_folders(protocol), folders, FeatureStore(tmp_path), ["knn:k=3"])


def test_a_test_set_with_a_class_that_training_lacks_is_refused(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy
) -> None:
    here = tmp_path / "world"
    shutil.copytree(world, here)
    np.save(here / "test.labels.npy", np.arange(50) % 3)
    with pytest.raises(
        DataError, match=r"toy: ID test has the label 2, the ID training set has 2 classes, 0\.\.1\. Mend that label"
    ):
        evaluate(subject, protocol(), here, FeatureStore(tmp_path), ["knn:k=3"])


def test_two_heads_on_one_encoder_give_one_result_since_scores_read_the_feature(
    world: Path, tmp_path: Path, protocol: Toy
) -> None:
    heads = [nn.Linear(3, 4), nn.Linear(3, 2)]

    class Mean(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean(dim=(2, 3))

    preprocess = Preprocess(size=4)
    found = [
        evaluate(
            Subject("m", Model(Mean(), head, None), preprocess, ("0", "1")),
            protocol(),
            world,
            FeatureStore(tmp_path / str(number)),
            ["knn:k=3"],
        ).evaluation.scores["knn:k=3"]
        for number, head in enumerate(heads)
    ]
    np.testing.assert_array_equal(found[0].id_score, found[1].id_score)


def test_the_geometry_is_that_of_the_test_features_against_all_ood_together(evaluated: Evaluated, world: Path) -> None:
    found = evaluated.evaluation.geometry
    ood = torch.cat([stored.outputs.feature for stored in evaluated.ood.values()])
    expected = geometry(evaluated.test.outputs.feature, labels(world, "test"), ood=ood, classes=2)
    assert found == asdict(expected)
    assert found["separability"] > 0
    assert found["least_angle_bound"] == pytest.approx(180)


def test_a_feature_without_direction_costs_the_geometry_and_says_so(
    world: Path, subject: Subject, tmp_path: Path, protocol: Toy, capsys: pytest.CaptureFixture[str]
) -> None:
    class Dark(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, images: Tensor) -> Tensor:
            return (images.mean(dim=(2, 3)) * self.scale).clamp(min=0)  # zero where every channel is dark

    dark = replace(subject, model=Model(Dark(), None, None), preprocess=Preprocess(size=4, mean=(0.8, 0.8, 0.8)))
    found = evaluate(dark, protocol(), world, FeatureStore(tmp_path), ["knn:k=3"])
    assert found.evaluation.geometry is None
    assert "no geometry: geometry: rows without direction" in capsys.readouterr().err
