"""`spherood train --check`: a recipe through everything that follows it, on made-up images, before it costs hours.

64 images of the recipe's true size in 8 classes: 16 train, two steps of 8; 16 calibrate, 16 are ID test, 16 are OOD.
The commands are those that a user would type, in a folder that is gone afterwards. Weights that are not there yet are
replaced by random ones, and that is said.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from spherood.training.recipe import LossTerm, Recipe

CLASSES, BATCH, EACH = 8, 8, 16
WIDTH = 64  # of made-up features
RATE, CONFIDENCE = 0.5, 0.5  # what so few images can promise


def check_recipe(recipe: Recipe, data: Path, device: str) -> None:
    """Print a line for every stage and what it took. Whatever fails, fails as it would in earnest."""
    from spherood.schema import write_yaml

    began = time.monotonic()
    there, small = recipe.data.present(data), _small(recipe, data)  # both look at the data from here
    with tempfile.TemporaryDirectory() as folder, _inside(Path(folder)):
        Path("recipe.yaml").write_text(write_yaml(small), encoding="utf-8")
        if recipe.data.features is None:
            _images(small, device)
        else:
            _features(device)
    where = recipe.data.where(data)
    print(f"data: {'there' if there else 'not there yet'}{f' ({where})' if where else ''}")
    print(f"{recipe.name}: checked in {time.monotonic() - began:.1f} s. It trains, and what follows works.")


def _images(recipe: Recipe, device: str) -> None:
    from spherood.cli.evaluate import evaluate
    from spherood.cli.score import score
    from spherood.cli.train import train

    size = recipe.preprocess.size
    rng = np.random.default_rng(0)
    for part in ("train", "validation", "test"):
        np.save(f"{part}.npy", rng.integers(0, 256, (EACH, size, size, 3), dtype=np.uint8))
        np.save(f"{part}.labels.npy", np.arange(EACH) % CLASSES)
    Path("strange").mkdir()
    for number in range(EACH):
        Image.fromarray(rng.integers(0, 64, (size, size, 3), dtype=np.uint8)).save(f"strange/{number:02}.png")
    softmax = recipe.model.classifier or any(term.use in ("cross_entropy", "t2fnorm") for term in recipe.loss)
    scores = ["knn:k=5", "mahalanobis:unit=true:shrinkage=ledoit-wolf", *(["msp"] if softmax else [])]
    Path("made-up.yaml").write_text(_protocol(scores), encoding="utf-8")
    _stage("train", lambda: train(recipe="recipe.yaml", run="checked", data=Path(), device=device))
    _stage("evaluate", lambda: evaluate("checked", "made-up.yaml", data=Path(), device=device))
    _stage("score", lambda: score(Path("runs/checked/bundle"), [Path("strange/00.png"), Path("strange/01.png")]))


def _features(device: str) -> None:
    from spherood.cli.fit import fit
    from spherood.cli.train import train

    rng = np.random.default_rng(0)
    for part, rows in (("known", EACH), ("other", 3 * EACH)):
        np.savez(f"{part}.npz", feature=rng.normal(size=(rows, WIDTH)), label=np.arange(rows) % CLASSES)
    _stage("train", lambda: train(recipe="recipe.yaml", run="checked", data=Path(), device=device))
    _stage(
        "fit",
        lambda: fit(
            Path("other.npz"),
            "checked",
            scores="knn:k=5",
            false_alarm_rate=RATE,
            confidence=CONFIDENCE,
            data=Path(),
            device=device,
        ),
    )


def _small(recipe: Recipe, data: Path) -> Recipe:
    """As many epochs as its losses have spans, on made-up data, from random weights where the file is not there."""
    from spherood.data.source import Source
    from spherood.errors import CheckpointError
    from spherood.models.model import TIMM
    from spherood.training.recipe import Validation
    from spherood.training.weights import weights_file

    starts = sorted({term.begin for term in recipe.loss} | {term.end for term in recipe.loss if term.end is not None})
    spans = [start for start in starts if start < recipe.training.epochs]
    changes: dict[str, Any] = {
        "data": Source(arrays="train.npy", labels="train.labels.npy"),
        "loss": tuple(_moved(term, spans) for term in recipe.loss),
        "training": recipe.training.model_copy(update={"epochs": len(spans), "batch": BATCH, "micro_batch": None}),
        "validation": Validation(),
        "name": "checked",
    }
    if recipe.data.features is not None:
        changes["data"] = Source(features="known.npz")
    if recipe.fine_tuning.weights is not None:
        weights = None
        try:
            weights = str(weights_file(recipe, data).absolute())  # type: ignore[union-attr]
        except CheckpointError:
            print(f"weights: {data / recipe.fine_tuning.weights} is not there yet; random ones stand in for it.")
        changes["fine_tuning"] = recipe.fine_tuning.model_copy(update={"weights": weights})
    if recipe.model.encoder.startswith(TIMM):
        print(f"weights: {recipe.model.encoder} is asked of timm, as in earnest.")
    return recipe.model_copy(update=changes)


def _moved(term: LossTerm, spans: list[int]) -> LossTerm:
    """The term in epochs that count spans instead."""
    end = None if term.end is None or term.end not in spans else spans.index(term.end)
    return term.model_copy(update={"begin": spans.index(term.begin) if term.begin in spans else len(spans), "end": end})


def _protocol(scores: list[str]) -> str:
    def part(name: str) -> str:
        return f"{{arrays: {name}.npy, labels: {name}.labels.npy}}"

    return (
        f"name: made-up\nabout: Noise.\nversion: '1'\nscores: [{', '.join(scores)}]\nfalse_alarm_rate: {RATE}\n"
        f"confidence: {CONFIDENCE}\nid:\n  train: {part('train')}\n  validation: {part('validation')}\n"
        f"  test: {part('test')}\nfar: {{strange: {{folder: strange}}}}\n"
    )


def _stage(name: str, work: Callable[[], None]) -> None:
    """Do it without its words, which are shown where it fails."""
    begin, said = time.monotonic(), io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            work()
    except BaseException:
        print(said.getvalue(), end="")
        raise
    print(f"{name}: {time.monotonic() - begin:.1f} s")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    sys.path.insert(0, str(before))  # a loss of one's own is still found where one stands
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
        sys.path.remove(str(before))
