from __future__ import annotations

import json
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from spherood.bundle import Bundle, read_manifest
from spherood.bundle import export as export_file
from spherood.bundle.export import export
from spherood.bundle.graph import graph_of
from spherood.bundle.held_out import remember
from spherood.bundle.onnx_runtime import OnnxRuntime
from spherood.bundle.rows import Rows
from spherood.detectors import KNN, FaissKNN
from spherood.errors import BundleError, CalibrationError, ConfigError, DataError, ShapeError

onnx: Any = pytest.importorskip("onnx", reason="needs the extra onnx")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

Pixels = NDArray[np.uint8]


def pictures(count: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def shipped(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in a folder, with the images that calibrated it beside."""
    folder = tmp_path_factory.mktemp("run") / "bundle"
    bundle.save(folder)
    np.save(folder.parent / "bundle-held-out.npy", pictures(70, 70))  # as tests/bundle/conftest.py draws them
    return folder


@pytest.fixture(scope="session")
def exported(shipped: Path) -> Path:
    folder = shipped.parent / "bundle-onnx"
    export(Bundle.load(shipped), shipped).bundle.save(folder)
    return folder


def test_the_exported_bundle_says_of_every_image_what_the_other_says(shipped: Path, exported: Path) -> None:
    images = list(pictures(200, 5))
    for ours, theirs in zip(Bundle.load(shipped).predict(images), Bundle.load(exported).predict(images), strict=True):
        assert theirs.score == pytest.approx(ours.score, rel=1e-5)
        assert (theirs.nearest_class, [one.row for one in theirs.neighbours]) == (
            ours.nearest_class,
            [one.row for one in ours.neighbours],
        )
        if abs(ours.score - ours.threshold) > 1e-4 * ours.threshold:
            assert theirs.is_ood == ours.is_ood


def test_it_is_calibrated_through_its_graph_and_keeps_everything_else(shipped: Path, exported: Path) -> None:
    before, after = Bundle.load(shipped), Bundle.load(exported)
    by_hand = after.runtime.of_pixels(pictures(70, 70)).score
    np.testing.assert_array_equal(after.held_out_score, by_hand)
    np.testing.assert_allclose(after.held_out_score, before.held_out_score, rtol=1e-4)
    assert (after.promise, after.classes, list(after.bank_names)) == (
        before.promise,
        before.classes,
        list(before.bank_names),
    )
    assert after.provenance["exported"].endswith(torch.__version__)
    assert "one ONNX graph" in (exported / "README.md").read_text()


def test_one_image_and_many_go_through_the_same_graph_and_classifier_and_guard_share_one_pass(
    bundle: Bundle,
) -> None:
    runtime = bundle.runtime
    content, origin = graph_of(runtime)
    assert origin.outputs == ("score", "feature", "logits", "cosine", "row")
    session = onnxruntime.InferenceSession(content)
    assert [entry.type for entry in session.get_inputs()] == ["tensor(uint8)"]
    for count in (1, 5, 64):
        pixels = pictures(count, count)
        found = dict(zip(origin.outputs, session.run(None, {"pixels": pixels}), strict=True))
        outputs = runtime.outputs(pixels)
        np.testing.assert_allclose(found["feature"], outputs.feature, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["logits"], outputs.logits, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["score"], runtime.detector.score(outputs), rtol=1e-5)


WITHOUT_TORCH = """
import json, sys
from dataclasses import asdict
sys.modules["torch"] = None
import numpy as np
from spherood import Bundle
found = Bundle.load(sys.argv[1]).predict(list(np.load(sys.argv[2])))
print(json.dumps([asdict(one) for one in found]))
"""


def test_it_runs_where_torch_cannot_be_imported(exported: Path, shipped: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", pictures(9, 1))
    command = [sys.executable, "-c", WITHOUT_TORCH]
    done = subprocess.run([*command, exported, tmp_path / "images.npy"], capture_output=True, text=True, check=True)
    here = [asdict(one) for one in Bundle.load(exported).predict(list(pictures(9, 1)))]
    assert json.loads(done.stdout) == json.loads(json.dumps(here))
    done = subprocess.run([*command, shipped, tmp_path / "images.npy"], capture_output=True, text=True, check=False)
    assert "runs on torch, which is not installed here. Install it (pip install torch), or" in done.stderr


@pytest.mark.parametrize("half", [False, True])
def test_a_bundle_of_features_becomes_a_graph_of_rows_and_a_half_bank_stays_half(tmp_path: Path, half: bool) -> None:
    rng = np.random.default_rng(0)
    feature = rng.normal(size=(400, 6)).astype(np.float32)
    made = Bundle.fit(
        feature, np.arange(400) % 3, score="knn:k=3", held_out=rng.normal(size=(80, 6)).astype(np.float32)
    )
    if half:
        detector = made.runtime.detector
        detector.bank = detector.bank.half().float()
        made = replace(made, runtime=replace(made.runtime, half=True))
    np.save(tmp_path / "bundle-held-out.npy", held_out := rng.normal(size=(80, 6)).astype(np.float32))
    after = export(made, tmp_path / "bundle").bundle
    query = rng.normal(size=(30, 6)).astype(np.float32)
    after.save(tmp_path / "out")
    loaded = Bundle.load(tmp_path / "out")
    for one in (query, torch.from_numpy(query)):
        np.testing.assert_allclose(
            [it.score for it in loaded.predict(one)], made.runtime.detector.score(query), rtol=1e-5
        )
    np.testing.assert_allclose(loaded.held_out_score, made.runtime.detector.score(held_out), rtol=1e-5)
    graph = onnx.load_model_from_string(loaded.runtime.graph)
    kinds = {one.data_type for one in graph.graph.initializer if list(one.dims) == [400, 6]}
    assert kinds == {onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT}
    with pytest.raises(ShapeError, match=r"^features have 5 columns, the fitted ones had 6\. Was it fitted on another"):
        loaded.predict(query[:, :5])
    query[4, 2] = np.nan
    with pytest.raises(ShapeError, match="1 of 30 rows hold NaN or infinity, the first is row 4"):
        loaded.predict(query)
    with pytest.raises(ConfigError, match=r"^the bundle's graph takes features, no images\. Pass features \(N, 6\)"):
        loaded.predict(list(pictures(1, 0)))


def test_features_given_to_a_graph_of_images_are_told_the_way_out(exported: Path) -> None:
    with pytest.raises(ConfigError, match=r"goes from images to the score at once and takes no features\. Pass images"):
        Bundle.load(exported).predict(np.zeros((2, 4), np.float32))


def test_thresholds_by_class_go_by_the_classes_that_the_graph_sees(bundle: Bundle, shipped: Path) -> None:
    by_class = replace(
        bundle,
        promise=bundle.promise.model_copy(update={"by_class": True}),
        held_out_class=np.zeros(70, np.int64),
    )
    after = export(by_class, shipped).bundle
    seen = after.runtime.of_pixels(pictures(70, 70))
    assert after.held_out_class.tolist() == after.predicted(seen.feature, 70).tolist()


def test_a_score_that_cannot_be_a_graph_says_why(bundle: Bundle, shipped: Path) -> None:
    pytest.importorskip("faiss", reason="needs the extra faiss")
    search = FaissKNN(k=3, index="Flat").fit(bundle.runtime.detector.bank)
    with pytest.raises(BundleError, match=r"^FaissKNN cannot be exported: its search runs in faiss"):
        export(replace(bundle, runtime=replace(bundle.runtime, detector=search)), shipped)
    with pytest.raises(BundleError, match=r"is exported already\. Use it as it is\.$"):
        export(export(bundle, shipped).bundle, shipped)


def test_a_bank_that_no_onnx_file_can_hold_is_refused_before_any_work(bundle: Bundle) -> None:
    message = r"^the graph would hold 0\.0 GB, and one ONNX file holds 0\.0 GB\. Make the bank smaller: .*--coreset N"
    with pytest.raises(BundleError, match=message):
        graph_of(bundle.runtime, limit=1000)


def test_a_graph_that_computes_another_score_is_no_bundle(
    bundle: Bundle, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(bundle.runtime, detector=KNN(k=5).fit(bundle.runtime.detector.bank))
    monkeypatch.setattr(export_file, "graph_of", lambda runtime: graph_of(other))
    with pytest.raises(BundleError, match=r"^the graph is another score: image \d+ has .* Nothing was written\."):
        export(bundle, shipped)


def turned_by(difference: float, bundle: Bundle, shipped: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Export through a graph whose score of every image is off by a relative `difference`, where all lie in a heap."""
    threshold = bundle.threshold()
    monkeypatch.setattr(export_file, "TOLERANCE", 1e-4)
    real = OnnxRuntime.of_pixels
    monkeypatch.setattr(
        OnnxRuntime, "of_pixels", lambda self, x: (seen := real(self, x))._replace(score=seen.score * (1 + difference))
    )
    assert threshold in bundle.held_out_score  # a calibrated threshold is one of them: it turns first
    return export(bundle, shipped)


def test_a_verdict_that_turns_close_to_the_threshold_is_counted(
    bundle: Bundle, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert turned_by(0.0, bundle, shipped, monkeypatch).largest < 1e-5
    made = turned_by(5e-5, bundle, shipped, monkeypatch)
    assert (made.images, made.turned) == (70, 1)
    assert made.largest == pytest.approx(5e-5, rel=0.2)


def test_held_out_images_are_those_beside_the_bundle_or_those_named_and_never_too_few(
    bundle: Bundle, shipped: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bundle"
    bundle.save(bare)
    with pytest.raises(DataError, match=r"are not remembered beside it \(bundle-held-out\.txt\)\. .*--held-out PATH$"):
        export(bundle, bare)
    np.save(tmp_path / "other.npy", pictures(90, 3))
    made = export(bundle, bare, tmp_path / "other.npy")
    assert (made.images, made.bundle.promise.held_out) == (90, 90)
    np.save(tmp_path / "few.npy", pictures(20, 3))
    with pytest.raises(CalibrationError, match="needs at least 59 held-out ID scores, got 20"):
        export(bundle, bare, tmp_path / "few.npy")


def test_images_in_files_are_remembered_as_a_list_and_rows_as_numbers(tmp_path: Path) -> None:
    rows = Rows.of_arrays("held-out", np.eye(3, dtype=np.float32))
    remember(tmp_path / "bundle", rows, "feature")
    np.testing.assert_array_equal(np.load(tmp_path / "bundle-held-out.npy"), np.eye(3))


def full_disk(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "spherood", *command],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )


def test_a_full_disk_leaves_the_exported_bundle_that_was_there(shipped: Path, exported: Path, tmp_path: Path) -> None:
    before = read_manifest(exported)
    done = full_disk("export", shipped, "-o", exported)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("Mend that, or choose another place.")
    assert read_manifest(exported) == before


def save_for_ever(bundle: Bundle, folder: Path) -> None:
    while True:
        bundle.save(folder)


def test_an_export_that_is_interrupted_leaves_a_whole_bundle(exported: Path, bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = Bundle.load(exported)
    made.save(out)
    expected = made.predict(list(pictures(3, 1)))
    rng = random.Random(0)
    for _ in range(8):
        child = multiprocessing.get_context("fork").Process(target=save_for_ever, args=(made, out))
        child.start()
        time.sleep(0.01 + rng.random() / 20)
        child.kill()
        child.join()
        assert Bundle.load(out).predict(list(pictures(3, 1))) == expected


def test_where_onnxruntime_is_absent_the_message_says_how_to_get_it(exported: Path) -> None:
    code = f"import sys; sys.modules['onnxruntime'] = None; from spherood import Bundle; Bundle.load({str(exported)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith(
        f"{exported}: needs onnxruntime, which is not installed. Install it with: pip install 'spherood[onnx]'"
    )


def test_a_graph_that_this_onnxruntime_cannot_read_is_told(exported: Path, tmp_path: Path) -> None:
    made = Bundle.load(exported)
    newer = onnx.load_model_from_string(made.runtime.graph)
    for entry in newer.opset_import:
        entry.version = 1000
    content = newer.SerializeToString()
    replace(made, runtime=replace(made.runtime, graph=content)).save(tmp_path / "out")
    with pytest.raises(
        BundleError, match=r"onnxruntime cannot run its graph of opset 20 \(.*\)\. Update it: pip install -U"
    ):
        Bundle.load(tmp_path / "out")
