"""What a bundle says is the same everywhere: by torch, by its graph, without torch, on a Ray cluster, from Python.

The environment without torch is made by the documented command.
"""

from __future__ import annotations

import importlib.util
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
from spherood.scoring.parts import part_files, read_part

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


CIFAR, STEEL, BROKEN = 1200, 660, 20  # with 120 flowers 2,000 images
FAR = 1e-4  # from the threshold, relative: farther away every verdict must be the same


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with known, held-out and 2,000 new images (CIFAR-10, photographs, broken files), and a ResNet-20."""
    shared = os.environ.get("SPHEROOD_SHARED")
    if not shared or not (Path(shared) / "data" / "unpack.py").exists():
        pytest.skip("SPHEROOD_SHARED names no folder with data/unpack.py, the packed real images")
    place, data = tmp_path_factory.mktemp("real"), Path(shared) / "data"
    unpack = [sys.executable, data / "unpack.py", place / "all"]
    subprocess.run([*unpack, "flowers", "steel"], check=True, capture_output=True)
    subprocess.run([*unpack, "cifar10-test", "--npy", "--no-tree"], check=True, capture_output=True)
    pixels = np.load(place / "all" / "cifar10-test.images.npy")[np.random.default_rng(0).permutation(10_000)]
    for name, rows in (
        ("known", slice(0, 1500)),
        ("held", slice(1500, 2100)),
        ("new/cifar", slice(2100, 2100 + CIFAR)),
    ):
        (place / name).mkdir(parents=True)
        for number, one in enumerate(pixels[rows]):
            Image.fromarray(one).save(place / name / f"{number:04}.png", compress_level=1)
    for name, count in (("flowers", 120), ("steel", STEEL)):
        for number, file in enumerate(sorted((place / "all" / name).rglob("*.*"))[:count]):
            os.link(file, place / "new" / f"{name}-{number:04}{file.suffix}")
    for number in range(BROKEN):
        content = (place / "new" / "cifar" / f"{number:04}.png").read_bytes()
        (place / "new" / f"broken-{number}.png").write_bytes(content[: 30 + 40 * number])
    os.link(data / "resnet20-cifar10.th", place / "net.th")
    return place


def test_two_thousand_images_get_the_same_verdicts_everywhere(python: Path, real: Path) -> None:
    ours = (sys.executable, "-m", "spherood")

    def typed(*words: str | Path, by: tuple[str | Path, ...] = ours, code: int = 0) -> str:
        env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP"))}
        done = subprocess.run([*by, *words], capture_output=True, text=True, check=False, env=env, cwd=real)
        assert done.returncode == code, done.stderr
        return done.stdout

    typed("fit", "known", "--encoder", "net.th", "--held-out", "held", "--scores", "knn:k=10", "--run", "guard")
    bundle, exported = Path("runs/guard/bundle"), Path("runs/guard/bundle-onnx")
    assert "compared: 600 images" in typed("export", bundle)
    without = (python, "-m", "spherood")
    ways: dict[str, tuple[Path, tuple[str | Path, ...], list[str]]] = {
        "torch": (bundle, ours, []),
        "onnx": (exported, ours, []),
        "without torch": (exported, without, []),
    }
    if importlib.util.find_spec("ray") is not None:
        ways["ray"] = (exported, ours, ["--engine", "ray"])
    found = {}
    for name, (of, by, more) in ways.items():
        out = Path("out") / name.replace(" ", "-")
        typed("score", of, "new", "-o", out, "--format", "jsonl", "--part-size", "500", *more, by=by, code=1)
        rows = [row for file in part_files(real / out) for row in read_part(file)]
        found[name] = {str((real / row["image"]).relative_to(real)): row for row in rows}
        assert len(found[name]) == len(rows) == CIFAR + 120 + STEEL + BROKEN == 2000
    files = [name for name, row in found["torch"].items() if row["error"] is None]
    assert len(files) == 2000 - BROKEN
    verdicts = Bundle.load(real / bundle).predict([real / name for name in files])
    found["python"] = {
        name: {"score": one.score, "is_ood": one.is_ood, "error": None, "threshold": one.threshold}
        for name, one in zip(files, verdicts, strict=True)
    }
    turned = dict.fromkeys(found, 0)
    for way, rows in found.items():
        for name, row in rows.items():
            torchs = found["torch"][name]
            assert (row["error"] is None) == (torchs["error"] is None)
            if row["error"] is not None:
                continue
            assert row["score"] == pytest.approx(torchs["score"], rel=FAR)
            if row["is_ood"] != torchs["is_ood"]:
                turned[way] += 1
                assert torchs["score"] == pytest.approx(torchs["threshold"], rel=2 * FAR)
    print(f"verdicts that differ from torch's, nearer to the threshold than {FAR:g}: {turned}")
    assert max(turned.values()) <= 2
    assert 0 < sum(row["is_ood"] is True for row in found["torch"].values()) < 2000
