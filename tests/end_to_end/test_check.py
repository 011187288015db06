"""`spherood train --check` takes every recipe of the project through training and all that follows.

Here with narrow networks, at the true size of the images; at full width it takes 2 to 20 seconds a recipe.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from spherood.cli.check import check_recipe
from spherood.errors import ConfigError
from spherood.models import build_model
from spherood.training.recipe import Recipe, load_recipe, shipped_recipes

RECIPES = shipped_recipes()


def test_every_recipe_passes_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("altair")
    before = Path.cwd()
    for name, path in RECIPES.items():
        recipe = load_recipe(path, ["model.width=16", "model.dim=16"])
        check_recipe(recipe, tmp_path, "cpu")
        said = capsys.readouterr().out
        assert f"\n{name}: checked in " in said
        assert ("random ones stand in for it" in said) == (recipe.fine_tuning.weights is not None)
    assert len(RECIPES) >= 35
    assert Path.cwd() == before
    assert list(tmp_path.iterdir()) == []  # it leaves nothing


def test_what_would_fail_in_earnest_fails_here_with_its_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(RECIPES["cider-cifar10-small"], ["model.head=null"])
    with pytest.raises(ConfigError, match="loss cider: reads the embedding, but the model has no head"):
        check_recipe(recipe, tmp_path, "cpu")


def test_every_loss_of_a_recipe_has_its_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("altair")
    late = [{"use": "fixed_prototypes", "end": 30}, {"use": "simclr", "begin": 30, "with": {"temperature": "hot"}}]
    recipe = load_recipe(RECIPES["cider-cifar10-small"], ["model.width=4", "training.epochs=50"])
    with pytest.raises(Exception, match="simclr"):
        check_recipe(Recipe.model_validate(recipe.model_dump() | {"loss": late}), tmp_path, "cpu")


def test_weights_below_a_relative_data_folder_and_a_loss_where_one_stands_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("altair")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    own = "from spherood.losses import SupCon\n\n\nclass Mine(SupCon):\n    pass\n"
    Path("loss_that_lies_here.py").write_text(own)
    recipe = load_recipe(RECIPES["supcon-cifar10-small"], ["model.width=4", "fine_tuning={weights: w/net.pth}"])
    mine = Recipe.model_validate(recipe.model_dump() | {"loss": [{"use": "loss_that_lies_here:Mine"}]})
    Path("data", "w").mkdir(parents=True)
    torch.save(build_model(recipe.model, 8).state_dict(), "data/w/net.pth")
    check_recipe(mine, Path("data"), "cpu")
    said = capsys.readouterr().out
    assert "checked in" in said
    assert "random ones stand in" not in said
    sys.modules.pop("loss_that_lies_here")
