"""The command line in this process, a bundle to score with, a run to evaluate, and images."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from spherood.bundle import Bundle, Promise, Score
from spherood.bundle.encoder import origin_of
from spherood.bundle.torch_runtime import TorchRuntime
from spherood.cli import main
from spherood.data import Preprocess
from spherood.detectors import KNN
from spherood.models import ModelSettings, build_model, infer
from spherood.sphere import normalize
from spherood.training.checkpoint import LAST, Checkpoint
from spherood.training.recipe import Recipe

Pixels = NDArray[np.uint8]
SETTINGS = ModelSettings(encoder="resnet8", width=2, head="linear", dim=4)
PREPROCESS = Preprocess(size=8)


class Told(NamedTuple):
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str


Command = Callable[..., Told]


@pytest.fixture
def spherood(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """``spherood("score", folder)``: `main` as the console script calls it; a bug comes out as its exception."""

    def run(*words: str | Path) -> Told:
        monkeypatch.setattr(sys, "argv", ["spherood", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        capsys.readouterr()
        try:
            main()
        except SystemExit as leaving:
            code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        out, err = capsys.readouterr()
        return Told(code, out, err)

    return run


def pictures(count: int, seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise is known to it; 70 images calibrate."""
    model = build_model(SETTINGS, 2)
    train, held_out = (infer(model, torch.from_numpy(pictures(n, n)), PREPROCESS).feature for n in (30, 70))
    detector = KNN(k=3).fit(train)
    folder = tmp_path_factory.mktemp("shipped") / "bundle"
    Bundle(
        runtime=TorchRuntime(detector, model, origin_of(SETTINGS, 2), PREPROCESS),
        classes=("cat", "dog"),
        score=Score.model_validate({"use": "knn", "with": {"k": 3}}),
        class_mean=normalize(torch.stack([train[::2].mean(dim=0), train[1::2].mean(dim=0)])).numpy(),
        held_out_score=detector.score(held_out).double().numpy(),
        promise=Promise(false_alarm_rate=0.05, confidence=0.95, held_out=70),
        bank_names=[f"dog/{row}.png" for row in range(30)],
    ).save(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images of noise, one of them in a folder below, and a red one, which is OOD to `bundle`."""
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for name, pixels in zip(("a.png", "below/b.PNG", "c.png"), pictures(3, 5), strict=True):
        Image.fromarray(pixels).save(folder / name)
    Image.fromarray(np.full((20, 30, 3), (255, 0, 0), np.uint8)).save(folder / "red.png")
    return folder


@pytest.fixture
def run_(tmp_path: Path) -> Path:
    """A run as training leaves it, with a network nobody trained, and the arrays and the protocol beside it."""
    recipe = Recipe.model_validate(
        {
            "name": "noise",
            "data": {"arrays": "train.npy", "labels": "train.labels.npy"},
            "preprocess": PREPROCESS,
            "model": SETTINGS,
            "loss": [{"use": "supcon"}],
        }
    )
    model = build_model(SETTINGS, 2)
    Checkpoint(recipe, ("0", "1"), 1, 0, model.state_dict(), {}, {}).save(tmp_path / "runs" / "noise" / LAST)
    for seed, (part, count) in enumerate({"train": 30, "validation": 70, "test": 40, "new": 20}.items()):
        np.save(tmp_path / f"{part}.npy", pictures(count, seed) // (1 + (part == "new")))
        np.save(tmp_path / f"{part}.labels.npy", np.arange(count) % 2)
    (tmp_path / "own.yaml").write_text(
        "name: own\nabout: Noise.\nversion: '1'\nresize: stretch\nid:\n"
        + "".join(f"  {part}: {{arrays: {part}.npy, labels: {part}.labels.npy}}\n" for part in ("train", "validation"))
        + "  test: {arrays: test.npy, labels: test.labels.npy}\nfar: {dark: {arrays: new.npy}, gone: {folder: gone}}\n"
    )
    return tmp_path / "runs" / "noise"
