from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from spherood.bundle import Bundle, Promise, Score
from spherood.bundle.encoder import onnx_encoder
from spherood.bundle.export import export
from spherood.bundle.graph import graph_of
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data import Preprocess
from spherood.detectors import MSP, Detector, Mahalanobis
from spherood.errors import ConfigError

onnx: Any = pytest.importorskip("onnx", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")
pytest.importorskip("onnxscript", reason="needs the extra onnx")

PREPROCESS = Preprocess(size=8, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3))


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def classifier(path: Path, opset: int = 17, batch: int | str = "N", out: str = "class scores") -> Path:
    """A convolution, its mean, three classes: as somebody else would have exported it."""
    rng = np.random.default_rng(0)
    values = {"k": rng.normal(size=(6, 3, 3, 3)), "w": rng.normal(size=(6, 3)), "b": rng.normal(size=3)}
    node = onnx.helper.make_node
    graph = onnx.helper.make_graph(
        [
            node("Conv", ["image", "k"], ["map"]),
            node("Relu", ["map"], ["map+"]),
            node("GlobalAveragePool", ["map+"], ["pool"]),
            node("Flatten", ["pool"], ["flat"]),
            node("Gemm", ["flat", "w", "b"], [out]),
        ],
        "theirs",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [batch, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, [batch, 3])],
        [onnx.numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def guarded(path: Path, detector: Detector, use: str) -> Bundle:
    """A bundle of that network with 70 held-out images; the feature is the tensor "pool" inside the graph."""
    logits = next(one.name for one in onnx.load(path).graph.output)
    encoder = onnx_encoder(path, PREPROCESS, "pool", logits)
    runtime = TorchRuntime(detector, encoder.model, encoder.origin, PREPROCESS)
    known, label = runtime.outputs(pictures(90, 1)), np.arange(90) % 3
    detector.fit(known, label)
    return Bundle(
        runtime=runtime,
        classes=("a", "b", "c"),
        score=Score.model_validate({"use": use}),
        class_mean=np.eye(6, dtype=np.float32)[:3],
        held_out_score=runtime.of_pixels(pictures(70, 70)).score,
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=70),
    )


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    np.save(tmp_path / "held.npy", pictures(70, 70))
    return tmp_path / "held.npy"


@pytest.mark.parametrize("opset", [11, 17, 20])
def test_a_foreign_classifier_and_its_guard_become_one_graph(tmp_path: Path, held_out: Path, opset: int) -> None:
    made = guarded(classifier(tmp_path / "net.onnx", opset), Mahalanobis(), "mahalanobis")
    done = export(made, tmp_path / "bundle", held_out)
    assert done.largest < 1e-4
    after = done.bundle.runtime
    assert after.origin.outputs == ("score", "feature", "logits")
    assert after.origin.opset == max(opset, 18)
    ours, theirs = made.runtime.of_pixels(pictures(9, 2)), after.of_pixels(pictures(9, 2))
    np.testing.assert_allclose(theirs.feature, ours.feature, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(theirs.logits, ours.logits, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(theirs.score, ours.score, rtol=1e-4)
    done.bundle.save(tmp_path / "out")
    again = Bundle.load(tmp_path / "out").predict(list(pictures(9, 2)))
    assert [one.nearest_class for one in again] == [one.nearest_class for one in made.predict(list(pictures(9, 2)))]


def test_a_batch_size_that_cannot_change_is_refused(tmp_path: Path) -> None:
    made = guarded(classifier(tmp_path / "net.onnx", batch=4), Mahalanobis(), "mahalanobis")
    with pytest.raises(ConfigError, match=r"net\.onnx: takes batches of 4 and no others\. Export the network with a"):
        graph_of(made.runtime)


def test_an_opset_that_onnx_cannot_bring_up_to_date_is_refused(tmp_path: Path) -> None:
    made = guarded(classifier(tmp_path / "net.onnx", 8), Mahalanobis(), "mahalanobis")
    broken = onnx.load_model_from_string(made.runtime.model.content)
    broken.graph.node[0].op_type = "ConvOfTheirs"
    made.runtime.model.content = broken.SerializeToString()
    with pytest.raises(
        ConfigError, match=r"is of opset 8, the score needs 18, and onnx cannot convert it .*opset_version=18"
    ):
        graph_of(made.runtime)


def test_a_tensor_with_the_name_of_one_of_our_outputs_is_refused(tmp_path: Path) -> None:
    made = guarded(classifier(tmp_path / "net.onnx", out="score"), Mahalanobis(), "mahalanobis")
    with pytest.raises(ConfigError, match=r"has tensors called score, as our outputs are\. Rename them\.$"):
        graph_of(made.runtime)


def test_a_score_that_was_fitted_on_nothing_reads_the_classifiers_own_logits(tmp_path: Path, held_out: Path) -> None:
    made = guarded(classifier(tmp_path / "net.onnx"), MSP(), "msp")
    after = export(made, tmp_path / "bundle", held_out).bundle.runtime
    np.testing.assert_allclose(after.of_pixels(pictures(9, 2)).score, made.runtime.of_pixels(pictures(9, 2)).score)
