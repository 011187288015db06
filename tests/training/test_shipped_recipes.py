"""The recipes that come with the project: each can be read, built, and typed as its head says."""

from __future__ import annotations

from pathlib import Path

import pytest

from spherood.benchmark.protocol import load_protocol
from spherood.training import Recipe, load_recipe

FILES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


def built(path: Path) -> Recipe:
    recipe = load_recipe(path)
    for term in recipe.loss:
        term.build(classes=10, dim=recipe.model.dim, feature_dim=512)
    return recipe


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_recipe_is_named_as_its_file_and_its_head_can_be_typed(path: Path) -> None:
    recipe, head = built(path), path.read_text(encoding="utf-8").partition("\nname:")[0]
    assert recipe.name == path.stem
    assert f"spherood train --recipe recipes/{path.name} --data DATA" in head
    assert f"spherood evaluate {recipe.name} --protocol {recipe.protocol}" in head
    assert load_protocol(recipe.protocol or "").id.train == recipe.data
    assert "# Duration: " in head
    assert "# Expected" in head


def test_ciders_recipe_is_the_papers() -> None:
    (path,) = [path for path in FILES if path.stem == "cider-cifar10"]
    recipe = built(path)
    assert (recipe.model.encoder, recipe.model.width, recipe.model.head, recipe.model.dim) == (
        "resnet18",
        64,
        "mlp",
        128,
    )
    assert (recipe.training.epochs, recipe.training.batch, recipe.training.precision) == (500, 512, "32-true")
    assert (recipe.schedule.lr, recipe.schedule.warmup_epochs) == (0.5, 10)
    assert (recipe.optimiser.momentum, recipe.optimiser.nesterov, recipe.optimiser.weight_decay) == (0.9, True, 1e-4)
    (term,) = recipe.loss
    assert term.use == "cider"
    assert term.with_ == {
        "temperature": 0.1,
        "momentum": 0.95,
        "compactness_weight": 2.0,
        "base_temperatures": [0.07, 0.1],
    }
    views = recipe.views
    assert (views.scale, views.flip, views.jitter, views.grey) == ((0.2, 1.0), 0.5, 0.8, 0.2)
    assert (views.brightness, views.contrast, views.saturation, views.hue) == (0.4, 0.4, 0.4, 0.1)
