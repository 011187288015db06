"""How long training will take on this machine, by a few steps of it. Nothing is written."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from spherood.training import engine
from spherood.training.batches import make_views, orders
from spherood.training.recipe import Recipe
from spherood.training.together import share

STEPS = 3  # that count; one before them warms up


def seconds_to_train(recipe: Recipe, run: Path, data: Path, device: str = "auto") -> float:
    """Of a whole run, from steps of its first epoch at its true size; validation and what a loss sees first are left
    out. Errors as of `train`.
    """
    setting, state = engine.begin(recipe, run, data, device=device)
    pixels, images = setting.examples.on(setting.device), len(setting.examples.label)
    state.objective.at(0)
    state.trained.train_mode()
    views = 1 if setting.reading.of_features else state.objective.views
    todo = orders(setting.recipe, images, 0)[: 1 + STEPS]
    taken = []
    for rows in todo:
        begin = time.perf_counter()
        x = make_views(setting.recipe, pixels, share(rows, setting.mine), 0, views)
        engine.one_step(setting, state, state.network, rows, x, views)
        if setting.device.type == "cuda":
            torch.cuda.synchronize(setting.device)
        taken.append((time.perf_counter() - begin) / len(rows))
    return statistics.median(taken[1:] or taken) * images * recipe.training.epochs
