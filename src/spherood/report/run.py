"""What training left in a run's folder, read: recipe, environment, the rows of both logs, the sample of embeddings.

Shapes: N images of the last validation, d dimension, C classes, K prototypes; row j of them belongs to class j mod C.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from spherood.errors import CheckpointError, TrainingError, nearest
from spherood.training.log import FILE as METRICS
from spherood.training.log import read_log
from spherood.training.recipe import Recipe, load_recipe
from spherood.training.validation import FILE as VALIDATION
from spherood.training.validation import SAMPLE

Rows = list[dict[str, Any]]
Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The embeddings of the last validation."""

    embedding: Vectors  # (N, d), unit rows
    label: NDArray[np.int64]  # (N,)
    classes: tuple[str, ...]  # (C,)
    prototypes: Vectors | None  # (K, d), unit rows; None where the loss has none, or none of this width

    @property
    def has_prototypes(self) -> bool:
        """Whether there are some that belong to classes."""
        return self.prototypes is not None and len(self.prototypes) % len(self.classes) == 0

    @property
    def marks(self) -> tuple[Vectors, NDArray[np.int64]]:
        """Unit directions (K, d) to mark and the class (K,) of each: prototypes, else the classes' mean directions."""
        if self.prototypes is not None and self.has_prototypes:
            return self.prototypes, np.arange(len(self.prototypes)) % len(self.classes)
        present = np.unique(self.label)
        mean = np.stack([self.embedding[self.label == c].mean(axis=0) for c in present])
        return mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-12), present


@dataclass(frozen=True)
class Run:
    """One run. `validation` is empty and `sample` None where training did not write them."""

    folder: Path
    recipe: Recipe
    environment: dict[str, Any]
    metrics: Rows
    validation: Rows
    sample: Sample | None

    @cached_property
    def steps_per_epoch(self) -> int:
        """From the last row: its epoch is its step over this number, rounded to four decimals."""
        last = self.metrics[-1]
        return max(1, round(float(last["step"]) / float(last["epoch"])))

    @property
    def steps(self) -> int:
        """Of the whole run, as planned."""
        return self.steps_per_epoch * self.recipe.training.epochs

    @property
    def seconds(self) -> float:
        """How long the steps took, by the rates in the log, which include what stood between two readings."""
        step, total = 0, 0.0
        for row in self.metrics:
            total += (row["step"] - step) * self.recipe.training.batch / max(row["images_per_second"], 1e-9)
            step = row["step"]
        return total


def read_run(folder: Path) -> Run:
    """CheckpointError where there is no run, TrainingError where it has no metrics yet or its sample is damaged."""
    if not (folder / "recipe.yaml").is_file():
        raise CheckpointError(f"spherood report: no run at {folder}. {_others(folder)}")
    recipe, metrics = load_recipe(folder / "recipe.yaml"), read_log(folder)
    if not metrics:
        raise TrainingError(
            f"spherood report: {folder} has no metrics yet: {METRICS} has no row. The first comes after 25 steps or an "
            "epoch; if training stopped before, go on with it by spherood train --resume."
        )
    environment = folder / "environment.json"
    return Run(
        folder,
        recipe,
        json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {},
        metrics,
        read_log(folder, VALIDATION),
        _read_sample(folder / SAMPLE),
    )


def missing(run: Run, figure: str, file: str) -> TrainingError:
    """What to say where a figure is asked for whose file training did not write."""
    every = run.recipe.validation.every
    if every:
        way = f"by validation.every={every} the first one is written after epoch {every}."
    else:
        again = shlex.join(["spherood", "train", "--recipe", str(run.folder / "recipe.yaml"), "--run", "NAME"])
        way = f"this run has validation.every=0. Train another with: {again} --set validation.every=1"
    return TrainingError(f"spherood report: the {figure} needs {run.folder / file}, which is not there: {way}")


def _others(folder: Path) -> str:
    """The nearest run beside it; the runs inside it, where it holds some."""
    if inside := sorted(path.parent for path in folder.glob("*/recipe.yaml")):
        return f"It holds others: {', '.join(map(str, inside))}."
    beside = nearest(folder.name, [path.parent.name for path in folder.parent.glob("*/recipe.yaml")])
    return beside or "Train one with: spherood train --recipe R --run NAME"


def _read_sample(path: Path) -> Sample | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            held = {name: file[name] for name in file.files}
        return Sample(
            held["embedding"].astype(np.float64),
            held["label"].astype(np.int64),
            tuple(map(str, held["classes"])),
            held["prototypes"].astype(np.float64) if "prototypes" in held else None,
        )
    except (BadZipFile, EOFError, KeyError, ValueError) as error:
        raise TrainingError(f"{path}: is damaged ({error}). Remove it; the next validation writes it anew.") from None
