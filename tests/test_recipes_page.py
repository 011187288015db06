"""docs/recipes.md is generated from the recipes, never typed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def make_recipes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_recipes", DOCS / "make_recipes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_recipes_is_what_they_make_it(make_recipes: ModuleType) -> None:
    written = (DOCS / "recipes.md").read_text(encoding="utf-8")
    assert written == make_recipes.generated(), "run: python docs/make_recipes.py"
    for path in (DOCS.parent / "recipes").glob("*.yaml"):
        assert written.count(f"[{path.stem}](../recipes/{path.name})") == 1


def test_a_row_says_what_a_recipe_and_its_head_say(make_recipes: ModuleType) -> None:
    text = """# One line.
#
# Expected: AUROC near 90.71,
# far 94.71. Published: CIDER on CIFAR-10, KNN, OpenOOD leaderboard.
# More.
name: one
model: {encoder: resnet10, width: 16}
fine_tuning: {train: [layer4, head]}
schedule: {lr: 0.01, rule: cider-as-released}
training: {epochs: 7, batch: 64}
protocol: cider/cifar10
"""
    (row,) = [line for line in make_recipes.page({"one": text}).splitlines() if line.startswith("| [")]
    assert row == (
        "| [one](../recipes/one.yaml) | One line. | resnet10, width 16 | layer4, head | 7 | 64 "
        "| 0.01, cider-as-released | AUROC near 90.71, far 94.71 (KNN, OpenOOD leaderboard) |"
    )
