from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spherood.cli.options import run_folder

Command = Callable[..., Any]
RECIPE = """
name: tiny
data: {arrays: train.npy, labels: train.labels.npy}
preprocess: {size: 8}
model: {encoder: resnet8, width: 2, head: linear, dim: 4}
loss:
  - use: supcon
schedule: {lr: 0.01}
training: {epochs: 1, batch: 8}
protocol: demo/digits
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe and its data in the folder where the command is typed."""
    monkeypatch.chdir(tmp_path)
    np.save("train.npy", np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3), dtype=np.uint8))
    np.save("train.labels.npy", np.arange(16) % 2)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return Path("tiny.yaml")


def test_a_run_is_trained_below_runs_and_the_next_command_is_named(spherood: Command, recipe: Path) -> None:
    pytest.importorskip("altair")
    told = spherood("train", "--recipe", recipe, "--data", ".", "--device", "cpu", "--set", "training.epochs=2")
    assert told.code == 0, told.err
    assert told.out == (
        "trained: runs/tiny/checkpoints/last.pt\npage: runs/tiny/training.html\n"
        "next: spherood evaluate runs/tiny --protocol demo/digits --data .\n"
    )
    assert Path("runs/tiny/checkpoints/last.pt").is_file()
    assert "epochs: 2" in Path("runs/tiny/recipe.yaml").read_text()
    again = spherood("train", "--run", "tiny", "--resume", "--data", ".", "--device", "cpu")
    assert again.code == 0, again.err


def test_a_misspelt_key_is_refused_with_the_nearest(spherood: Command, recipe: Path) -> None:
    recipe.write_text(RECIPE.replace("schedule:", "schedul:"))
    told = spherood("train", "--recipe", recipe)
    assert (told.code, told.out) == (2, "")
    assert told.err == "tiny.yaml: (top level): there is no key 'schedul' here. Did you mean 'schedule'?\n"
    assert not Path("runs").exists()


def test_a_misspelt_key_behind_set_is_refused_with_the_nearest(spherood: Command, recipe: Path) -> None:
    told = spherood("train", "--recipe", recipe, "--set", "training.epoch=3")
    assert told.code == 2
    assert "training: there is no key 'epoch' here. Did you mean 'epochs'?" in told.err


def test_a_recipe_that_is_not_there_is_named(spherood: Command, recipe: Path) -> None:
    assert spherood("train", "--recipe", "tinny.yaml") == (2, "", "No recipe at tinny.yaml. Check the path.\n")
    told = spherood("train", "--run", "gone", "--resume")
    assert told == (2, "", "No recipe at runs/gone/recipe.yaml. Check the path.\n")


def test_neither_recipe_nor_run_says_what_is_needed(spherood: Command) -> None:
    for words in ([], ["--run", "cider"], ["--resume"]):
        told = spherood("train", *words)
        assert (told.code, told.out) == (2, "")
        assert "needs --recipe FILE, or --run NAME --resume" in told.err


def test_data_that_is_not_there_is_named_with_where_it_was_looked_for(spherood: Command, recipe: Path) -> None:
    told = spherood("train", "--recipe", recipe, "--data", "elsewhere", "--device", "cpu")
    assert told.code == 1
    assert "elsewhere/train.npy: no such file" in told.err


def test_a_bare_name_is_a_run_below_runs_and_anything_else_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert run_folder("cider") == Path("runs/cider")
    assert run_folder("here") == Path("runs/here")  # never a folder that happens to be there
    assert run_folder("a/b") == Path("a/b")
    assert run_folder("./here") == tmp_path / "here"
    assert run_folder(str(tmp_path / "x")) == tmp_path / "x"


def test_a_head_on_features_is_followed_by_a_guard_of_it(spherood: Command, recipe: Path) -> None:
    np.savez("known.npz", feature=np.random.default_rng(0).normal(size=(20, 5)), label=np.arange(20) % 2)
    recipe.write_text(
        "name: head\ndata: {features: known.npz}\nmodel: {encoder: none, head: linear, dim: 4, reads: embedding}\n"
        "loss: [{use: supcon}]\ntraining: {epochs: 1, batch: 10}\n"
    )
    told = spherood("train", "--recipe", recipe, "--data", ".", "--device", "cpu")
    assert told.code == 0, told.err
    assert told.out.endswith("next: spherood fit --encoder runs/head --data . OTHER_FEATURES --ood NAME=FEATURES\n")
    refused = spherood("evaluate", "head", "--protocol", "demo/digits")
    assert (refused.code, "head: is a head on features, and images are wanted here." in refused.err) == (2, True)


def test_many_runs_make_one_table_and_the_same_command_goes_on(spherood: Command, recipe: Path) -> None:
    words = ("train", "--recipe", recipe, "--data", ".", "--device", "cpu", "--sweep", "schedule.lr=0.01,1e30")
    told = spherood(*words, "--seeds", "2")
    assert told.code == 1
    rows = [line for line in told.out.splitlines() if "tiny-lr=" in line and line.startswith("│")]
    assert [row.split()[1] for row in rows] == [
        f"runs/tiny-lr={lr}-seed{seed}" for lr in ("0.01", "1e30") for seed in (0, 1)
    ]
    assert [" trained " in row for row in rows] == [True, True, False, False]
    assert told.err.strip().endswith("2 of 4 runs failed. Mend that and type the same again: it goes on.")
    told = spherood(*words[:-1], "schedule.lr=0.01", "--seeds", "2")
    assert told.code == 0, told.err
    assert told.out.count("was trained") == 2
    assert told.out.splitlines()[-1] == (
        'next: for run in runs/tiny-lr=0.01-seed0 runs/tiny-lr=0.01-seed1; do spherood evaluate "$run" --protocol '
        "demo/digits --data .; done; spherood compare runs/tiny-lr=0.01-seed0 runs/tiny-lr=0.01-seed1"
    )


def test_a_recipe_of_the_package_goes_by_its_name(spherood: Command, recipe: Path) -> None:
    told = spherood("train", "--recipe", "cider-cifar10-smal", "--data", ".")
    assert told.code == 2
    assert told.err.startswith("there is no recipe 'cider-cifar10-smal'. Did you mean 'cider-cifar10-small'?")
    told = spherood("train", "--recipe", "cider-cifar10-small", "--data", ".", "--set", "training.epochs=1")
    assert told.code == 1  # it was found, its images are not there
    assert "cifar10/train" in told.err
