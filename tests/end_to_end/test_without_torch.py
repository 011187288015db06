"""An environment made by the documented command, in which there is no torch, says what this one says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spherood.bundle import Bundle, Promise, Score
from spherood.bundle.encoder import origin_of
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.data import Preprocess
from spherood.detectors import KNN
from spherood.models import ModelSettings, build_model, infer

pytest.importorskip("onnxscript", reason="needs the extra onnx")
pytest.importorskip("onnxruntime", reason="needs the extra onnx")

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements-runtime.txt"


def pins(file: Path) -> dict[str, str]:
    lines = [line.strip() for line in file.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return {
        re.sub(r"[-_.]+", "-", name).lower(): version for name, _, version in (one.partition("==") for one in lines)
    }


def test_the_requirements_are_the_versions_that_were_tested_together() -> None:
    tested, asked = pins(ROOT / "constraints.txt"), pins(REQUIREMENTS)
    assert {name: tested.get(name) for name in asked} == asked
    assert "torch" not in asked


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a fresh environment, as the head of the requirements says; skips where no package index answers."""
    place = tmp_path_factory.mktemp("env")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    command = next(line for line in REQUIREMENTS.read_text().splitlines() if "pip install" in line)
    words = re.search(r"pip install (.*?)  ", command)
    assert words is not None
    arguments = ["." if word == "spherood" else word for word in words[1].split()]
    done = subprocess.run(
        [place / "bin" / "python", "-m", "pip", "install", "-q", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if re.search(r"Temporary failure|Max retries|No matching distribution|Network is unreachable", done.stderr):
        pytest.skip(f"no package index: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return place / "bin" / "python"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP"))}
    return subprocess.run(list(command), capture_output=True, text=True, check=False, env=env)


def pictures(count: int, seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def shipped(folder: Path) -> Path:
    """A bundle that knows noise, with the images that calibrated it beside."""
    settings, preprocess = ModelSettings(encoder="resnet8", width=2), Preprocess(size=8)
    model = build_model(settings, 2)
    train, held_out = (infer(model, torch.from_numpy(pictures(n, n)), preprocess).feature for n in (30, 70))
    detector = KNN(k=3).fit(train)
    Bundle(
        runtime=TorchRuntime(detector, model, origin_of(settings, 2), preprocess),
        classes=("cat", "dog"),
        score=Score.model_validate({"use": "knn", "with": {"k": 3}}),
        class_mean=np.eye(16, dtype=np.float32)[:2],
        held_out_score=detector.score(held_out).double().numpy(),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=70),
        bank_names=[f"{row}.png" for row in range(30)],
    ).save(folder)
    np.save(folder.parent / f"{folder.name}-held-out.npy", pictures(70, 70))
    return folder


def test_an_exported_bundle_is_scored_there_as_it_is_here(python: Path, tmp_path: Path) -> None:
    bundle = shipped(tmp_path / "run" / "bundle")
    assert run(sys.executable, "-m", "spherood", "export", bundle).returncode == 0
    exported = tmp_path / "run" / "bundle-onnx"
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(1)
    for number in range(20):
        Image.fromarray(rng.integers(0, 256, (11, 9, 3), dtype=np.uint8)).save(photos / f"{number}.png")
    (photos / "broken.jpg").write_text("no image")
    assert run(python, "-c", "import torch").returncode == 1
    program = ("-m", "spherood", "score", exported, photos, "--json")
    there, here = (run(one, *program) for one in (python, sys.executable))
    assert (there.returncode, here.returncode) == (1, 1), there.stderr  # a file is broken
    assert rows(there) == rows(here)
    ours = rows(run(sys.executable, "-m", "spherood", "score", bundle, photos, "--json"))
    for one, other in zip(ours, rows(there), strict=True):
        assert one["is_ood"] == other["is_ood"]
        assert one["score"] is None or one["score"] == pytest.approx(other["score"], rel=1e-4)
    told = run(python, "-m", "spherood", "score", bundle, photos)
    assert told.returncode == 1
    assert "runs on torch, which is not installed here" in told.stderr
    for folder in ("parts", "again"):
        done = run(python, "-m", "spherood", "score", exported, photos, "-o", tmp_path / folder)
        assert "21 images" in done.stderr


def rows(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]
